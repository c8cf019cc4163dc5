package command

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/policy"
)

// completeWithin bounds what is asked of a server while somebody waits for a word to be completed.
const completeWithin = 2 * time.Second

// Completion tells what a word may become.
type Completion func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective)

// Complete has a flag completed.
func Complete(c *cobra.Command, flag string, how Completion) {
	if err := c.RegisterFlagCompletionFunc(flag, how); err != nil {
		panic(err) // there is no such flag: a mistake in this program
	}
}

// Words completes to some of these, also behind a comma.
func Words(words ...string) Completion {
	return func(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		before := ""
		if i := strings.LastIndexByte(word, ','); i >= 0 {
			before = word[:i+1]
		}
		out := make([]string, len(words))
		for i, w := range words {
			out[i] = before + w
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// Tables completes to the tables that the policy names, globs left out. It asks nobody.
func (f *Flags) Tables(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	if f.settings.PolicyFile == "" {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	p, _, err := policy.Load(f.settings.PolicyFile)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, t := range p.Tables {
		if !strings.Contains(t.Table, "*") && !slices.Contains(names, t.Table) {
			names = append(names, t.Table)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// Asked completes to what fn finds out within a time that a person waits; nothing where it fails.
func Asked(fn func(ctx context.Context) ([]string, error)) Completion {
	return func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx := c.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, completeWithin)
		defer cancel()
		words, err := fn(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}
