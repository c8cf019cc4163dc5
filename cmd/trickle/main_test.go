package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Every command says what it is for, with examples that it would take.
func TestEveryCommandHasExamples(t *testing.T) {
	t.Parallel()
	var visit func(c *cobra.Command)
	n := 0
	visit = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			visit(sub)
		}
		if c.HasSubCommands() || c.Hidden {
			return
		}
		n++
		if c.Short == "" || c.Example == "" {
			t.Errorf("%s has no examples", c.CommandPath())
		}
		for line := range strings.Lines(c.Example) {
			line, _, _ = strings.Cut(line, "  #")
			line, _, _ = strings.Cut(line, " > ")
			words := strings.Fields(strings.ReplaceAll(line, `"`, ""))
			found, rest, err := root().Find(words[1:])
			if err != nil || found.CommandPath() != c.CommandPath() || words[0] != "trickle" {
				t.Errorf("%s: %s calls something else: %v", c.CommandPath(), line, err)
				continue
			}
			for _, w := range rest {
				if name, ok := strings.CutPrefix(w, "--"); ok && found.Flag(name) == nil {
					t.Errorf("%s: %s: no flag %s", c.CommandPath(), line, w)
				}
			}
		}
	}
	visit(root())
	if n < 10 {
		t.Errorf("%d commands", n)
	}
}
