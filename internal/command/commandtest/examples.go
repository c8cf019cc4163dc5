// Package commandtest checks what both commands have to have.
package commandtest

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Examples wants a short text and examples of every command below the root, each of which calls that command, with flags that it has. root makes the commands anew; programs are
// those that an example may call.
func Examples(t *testing.T, root func() *cobra.Command, programs ...string) (commands int) {
	t.Helper()
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			visit(sub)
		}
		if c.HasSubCommands() || c.Hidden {
			return
		}
		commands++
		if c.Short == "" || c.Example == "" {
			t.Errorf("%s has no examples", c.CommandPath())
		}
		for line := range strings.Lines(c.Example) {
			line, _, _ = strings.Cut(line, "  #")
			line, _, _ = strings.Cut(line, " > ")
			words := strings.Fields(strings.ReplaceAll(line, `"`, ""))
			found, rest, err := root().Find(words[1:])
			if err != nil || found.CommandPath() != c.CommandPath() || !slices.Contains(programs, words[0]) {
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
	return commands
}
