package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/command"
)

func tapCommand(f *command.Flags) *cobra.Command {
	var t app.Tap
	var since string
	c := &cobra.Command{
		Use: "tap --policy FILE", Short: "Print messages as JSON lines as they come", Args: cobra.NoArgs,
		Long: "tap prints a topic's messages, one JSON object in each line: topic, partition, offset, at, key, kind, and message, or error where it can't be read or believed. It reads beside\n" +
			"everybody else and takes nothing away. Of keys and values it shows what the policy's privacy allows; rows that are streamed in one block only where both may be shown.\n\n" +
			"It prints what comes from now on, or with --since from then on, until it is interrupted or --limit is reached; with --from-start what is there, and ends,\n" +
			"saying on standard error how many of how many messages were like that. --key takes a key as resync --range does (10,1 for two columns) or the # and hash that logs show of it.\n" +
			"--range compares numbers as numbers and all else by its bytes.\n\n" +
			"Exit status: 0, also where it was interrupted or nothing was like that, 2 on an error.",
		Example: "  trickle tap --policy policy.yaml --brokers kafka:9092 --table public.orders --kind thumbprint\n" +
			"  trickle tap --policy policy.yaml --brokers kafka:9092 --topic requests --consumer shop-replica --since 10m\n" +
			"  trickle tap --policy policy.yaml --brokers kafka:9092 --topic replies --consumer shop-replica --key 42 --from-start\n" +
			"  trickle tap --policy policy.yaml --brokers kafka:9092 --range 1000..2000 --limit 5\n" +
			"  trickle tap --policy policy.yaml --brokers kafka:9092 --topic cursors --from-start",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := f.Settings()
			if err != nil {
				return err
			}
			if t.Filter.Since, err = app.TapSince(since); err != nil {
				return err
			}
			t.Out, t.Told = c.OutOrStdout(), c.ErrOrStderr()
			return t.Run(c.Context(), s)
		},
	}
	f.Policy(c)
	f.Brokers(c)
	fl := c.Flags()
	fl.StringVar(&t.Topic, "topic", "verify", "which `TOPIC`: verify, requests, replies.CONSUMER (or replies with --consumer), cursors, or one's whole name")
	fl.BoolVar(&t.FromStart, "from-start", false, "print what the topic holds and end, instead of waiting for more")
	fl.StringSliceVar(&t.Filter.Tables, "table", nil, "only about this `TABLE`, as the source calls it; may be repeated")
	fl.StringSliceVar(&t.Filter.Kinds, "kind", nil, "only of this `KIND`: "+strings.Join(app.TapKinds(), ", "))
	fl.StringVar(&t.Filter.Consumer, "consumer", "", "only what this replica asked for, by its `NAME`")
	fl.StringVar(&t.Filter.Key, "key", "", "only what names this `KEY`: a row's, a left out one's, or a bound")
	fl.StringVar(&t.Filter.Range, "range", "", "only what is about keys over A up to B: `A..B`; either may be left out")
	fl.StringVar(&since, "since", "", "only from this `TIME` on: 10m, 2h or 7d ago, a date, or a date and a time")
	fl.IntVar(&t.Filter.Limit, "limit", 0, "end after this many; 0: never")
	command.Complete(c, "topic", command.Words("verify", "requests", "replies", "cursors"))
	command.Complete(c, "table", f.Tables)
	command.Complete(c, "kind", command.Words(app.TapKinds()...))
	return c
}
