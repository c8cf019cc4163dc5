package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/command"
)

func runCommand(f *command.Flags) *cobra.Command {
	c := &cobra.Command{
		Use: "run --policy FILE", Short: "Verify: publish over Kafka, or with --replica do both sides in this process", Args: cobra.NoArgs,
		Example: "  trickle run --policy policy.yaml --source postgres://… --brokers kafka:9092\n" +
			"  trickle run --policy policy.yaml --source postgres://… --replica postgres://…      # no Kafka\n" +
			"  trickle run --policy policy.yaml --source postgres://standby/… --primary postgres://primary/…   # read a standby",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := f.Settings()
			if err != nil {
				return err
			}
			if !c.Flags().Changed("replica") {
				return app.Publisher(c.Context(), s)
			}
			if s.ReplicaDSN == "" {
				return errors.New("--replica is empty: give the replica's DSN, or leave the flag out to publish over Kafka")
			}
			return app.Single(c.Context(), s)
		},
	}
	f.Policy(c)
	f.Source(c)
	f.Primary(c)
	f.Replica(c)
	f.Brokers(c)
	f.Consumer(c)
	f.CursorFile(c)
	f.Wait(c)
	f.Listen(c, "127.0.0.1:8480")
	return c
}
