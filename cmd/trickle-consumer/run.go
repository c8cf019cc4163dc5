package main

import (
	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/command"
)

func runCommand(f *command.Flags) *cobra.Command {
	c := &cobra.Command{
		Use: "run --policy FILE", Short: "Verify this replica; any number of instances share the work", Args: cobra.NoArgs,
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
