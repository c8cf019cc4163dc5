// Command trickle is the publisher's side: it scans a source database and dribbles verification messages.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/command"
)

func main() { os.Exit(command.Main(root())) }

func root() *cobra.Command {
	f := &command.Flags{}
	c := &cobra.Command{
		Use: "trickle", Short: "Keep the replicas that change data capture feeds honest: the source's side",
		Long: "trickle scans a source database at a bounded rate and sends verification messages down a queue. Each replica's\n" +
			"trickle-consumer finds what is wrong there, corrects it, and asks for a resync when too much is.",
		Args: cobra.NoArgs,
	}
	f.Register(c)
	c.AddCommand(runCommand(f), command.Check(f, app.CheckPublisher), diffCommand(f), statusCommand(f), tapCommand(f), baselineCommand(f), command.Policy(f), demoCommand(f), command.Manual())
	return c
}
