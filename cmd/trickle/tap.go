package main

import (
	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/command"
)

func tapCommand(f *command.Flags) *cobra.Command {
	var topic string
	var fromStart bool
	c := &cobra.Command{
		Use: "tap --policy FILE", Short: "Print messages as JSON lines as they come", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := f.Settings()
			if err != nil {
				return err
			}
			return app.Tap{Topic: topic, FromStart: fromStart, Out: c.OutOrStdout()}.Run(c.Context(), s)
		},
	}
	f.Policy(c)
	f.Brokers(c)
	c.Flags().StringVar(&topic, "topic", "verify", "verify, requests, replies.`CONSUMER`, cursors, or a topic's whole name")
	c.Flags().BoolVar(&fromStart, "from-start", false, "print what the topic holds and end, instead of waiting for more")
	return c
}
