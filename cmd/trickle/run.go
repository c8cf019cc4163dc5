package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/command"
)

func runCommand(f *command.Flags) *cobra.Command {
	var alone bool
	c := &cobra.Command{
		Use: "run --policy FILE", Short: "Verify: publish over Kafka, or with --without-kafka do both sides in this process", Args: cobra.NoArgs,
		Long: "run scans the source and publishes over Kafka, for each replica's trickle-consumer run. With --without-kafka it does the replica's side too, in this process, and takes no broker:\n" +
			"the replica is that of TRICKLE_REPLICA_DSN, whose password nobody sees in a list of processes, or of --replica, which alone says the same. A policy that needs Kafka\n" +
			"(gate.group, baseline, resync.via: debezium) is then refused. The policy's file is read again when it changes.\n\n" +
			"Exit status: 0 where it was stopped by Ctrl-C or SIGTERM, 2 on an error; it does not end by itself.",
		Example: "  trickle run --policy policy.yaml --source postgres://… --brokers kafka:9092\n" +
			"  trickle run --policy policy.yaml --source postgres://… --without-kafka      # and TRICKLE_REPLICA_DSN\n" +
			"  trickle run --policy policy.yaml --source postgres://standby/… --primary postgres://primary/…   # read a standby",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := f.Settings()
			if err != nil {
				return err
			}
			named := c.Flags().Changed("replica")
			switch {
			case named && c.Flags().Lookup("replica").Value.String() == "":
				return errors.New("--replica is empty: give the replica's DSN, or --without-kafka to take that of TRICKLE_REPLICA_DSN, or neither to publish over Kafka")
			case !named && !alone:
				return app.Publisher(c.Context(), s)
			case alone && c.Flags().Changed("brokers"):
				return errors.New("--without-kafka takes no --brokers: leave one of them out")
			}
			return app.Single(c.Context(), s)
		},
	}
	f.Policy(c)
	f.Source(c)
	f.Primary(c)
	f.Replica(c)
	c.Flags().BoolVar(&alone, "without-kafka", false, "do both sides in this process, with the replica of TRICKLE_REPLICA_DSN or --replica")
	f.Brokers(c)
	f.Consumer(c)
	f.CursorFile(c)
	f.Wait(c)
	f.Listen(c, "127.0.0.1:8480")
	return c
}
