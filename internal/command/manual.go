package command

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// Manual writes what --help says as man pages, one for each command, or as one Markdown document. It is for those who make packages and documents, and hidden.
func Manual() *cobra.Command {
	c := &cobra.Command{
		Use: "manual (markdown | man DIR)", Hidden: true, Short: "Print the reference of all commands as Markdown, or write man pages into a folder",
		Example: "  trickle manual markdown\n  trickle manual man /usr/share/man/man1",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			root := c.Root()
			root.InitDefaultHelpCmd()
			root.InitDefaultCompletionCmd()
			switch {
			case len(args) == 1 && args[0] == "markdown":
				return markdown(c.OutOrStdout(), root)
			case len(args) == 2 && args[0] == "man":
				return manPages(root, args[1])
			}
			return fmt.Errorf("manual %s: use manual markdown, or manual man DIR", strings.Join(args, " "))
		},
	}
	return c
}

// manPages writes them, of the day that SOURCE_DATE_EPOCH names, if it does.
func manPages(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // manuals are for everybody
		return fmt.Errorf("the folder of the man pages: %w", err)
	}
	root.DisableAutoGenTag = true
	if err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "trickle", Manual: "trickle"}, dir); err != nil {
		return fmt.Errorf("writing man pages: %w", err)
	}
	return nil
}

// markdown writes one section for each command that does something.
func markdown(out io.Writer, root *cobra.Command) error {
	var b strings.Builder
	section(&b, root)
	_, err := io.WriteString(out, b.String())
	return err
}

func section(b *strings.Builder, c *cobra.Command) {
	if c.Hidden || c.Name() == "help" {
		return
	}
	level := "##"
	if c.HasParent() {
		level = "###"
	}
	fmt.Fprintf(b, "%s %s\n\n%s.\n\n", level, c.CommandPath(), verbatim(c.Short))
	shells := c.HasParent() && c.Parent().Name() == "completion" // what these say is cobra's, and long
	if c.Long != "" && !shells {
		b.WriteString(verbatim(strings.TrimSpace(c.Long)) + "\n\n")
	}
	if !c.HasAvailableSubCommands() {
		fmt.Fprintf(b, "Usage: `%s`\n\n", c.UseLine())
	}
	if c.Example != "" {
		b.WriteString("Examples:\n\n")
		for line := range strings.Lines(c.Example) {
			line, comment, _ := strings.Cut(strings.TrimSpace(line), "  #")
			fmt.Fprintf(b, "- `%s`", strings.TrimSpace(line))
			if comment = strings.TrimSpace(comment); comment != "" {
				b.WriteString(": " + verbatim(comment))
			}
			b.WriteString("\n")
		}
		b.WriteString("\n")
	}
	if flags := c.NonInheritedFlags(); flags.HasAvailableFlags() && c.HasParent() && !shells {
		fmt.Fprintf(b, "```text\n%s```\n\n", flags.FlagUsages())
	}
	if flags := c.PersistentFlags(); !c.HasParent() && flags.HasAvailableFlags() {
		fmt.Fprintf(b, "Every command takes:\n\n```text\n%s```\n\n", flags.FlagUsages())
	}
	for _, sub := range c.Commands() {
		section(b, sub)
	}
}

// verbatim keeps Markdown from reading what is meant for a terminal.
func verbatim(s string) string {
	return strings.NewReplacer("<", "\\<", "*", "\\*", "_", "\\_", "|", "\\|", "[", "\\[", "]", "\\]").Replace(s)
}
