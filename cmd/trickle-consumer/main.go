// Command trickle-consumer is the replica's side: it finds drift, corrects it, and asks for resyncs.
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
		Use: "trickle-consumer", Short: "Keep the replicas that change data capture feeds honest: the replica's side",
		Long: "trickle-consumer compares a replica with the verification messages that trickle sends, corrects what has drifted\n" +
			"while CDC goes on, and asks for a partial or full resync when the policy's thresholds are passed.",
		Args: cobra.NoArgs,
	}
	f.Register(c)
	c.AddCommand(runCommand(f), command.Check(f, app.CheckConsumer), statusCommand(f), driftCommand(f), correctionsCommand(f), undoCommand(f), restoreCommand(f), resyncCommand(f), brakeCommand(f), pinCommand(f), baselineCommand(f), command.Policy(f), command.Manual())
	return c
}
