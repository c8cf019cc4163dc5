package main

import (
	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/command"
)

func runCommand(f *command.Flags) *cobra.Command {
	c := &cobra.Command{
		Use: "run --policy FILE", Short: "Verify this replica; any number of instances share the work", Args: cobra.NoArgs,
		Long: "run compares the replica with what the publisher (trickle run) sends, and corrects or reports what differs, as detect.action says. What it remembers stands in the replica,\n" +
			"in the schema trickle, which it makes: trickle-consumer check tells which rights it takes. The policy's file is read again when it changes.\n\n" +
			"Exit status: 0 where it was stopped by Ctrl-C or SIGTERM, 2 on an error; it does not end by itself.",
		Example: "  trickle-consumer run --policy policy.yaml --replica postgres://… --brokers kafka:9092\n" +
			"  trickle-consumer run --policy policy.yaml --replica postgres://… --brokers kafka:9092 --consumer shop-replica --listen :8481",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := f.Settings()
			if err != nil {
				return err
			}
			return app.Consumer(c.Context(), s)
		},
	}
	f.Policy(c)
	f.Replica(c)
	f.Brokers(c)
	f.Consumer(c)
	f.Wait(c)
	f.Listen(c, "127.0.0.1:8481")
	return c
}
