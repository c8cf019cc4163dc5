package main

import (
	"fmt"
	"io"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/command"
)

func baselineCommand(f *command.Flags) *cobra.Command {
	var set string
	c := &cobra.Command{
		Use: "baseline --policy FILE", Short: "Hold this replica against a set of the base-line view that it heard of", Args: cobra.NoArgs,
		Long: "baseline reads this replica's tables, sums them up, and compares that with the thumbprints of the newest set of the base-line view that trickle told of, or\n" +
			"of --set. The view's store is not needed; the publisher is asked what its tables look like. A table that differs has drifted if the CDC's logs hold\n" +
			"nothing of it since the set; else thumbprints can't tell, and trickle baseline verify --against replica compares the rows.\n\n" +
			"Exit status: 0 no drift was found, 1 at least one table has drifted, 2 an error.",
		Example: "  trickle-consumer baseline --policy policy.yaml --replica postgres://… --brokers kafka:9092",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := f.Settings()
			if err != nil {
				return err
			}
			standing, err := app.Heard(c.Context(), s, set)
			if err != nil {
				return err
			}
			if f.JSON() {
				err = command.PrintJSON(c.OutOrStdout(), standing)
			} else {
				err = printStanding(c.OutOrStdout(), standing)
			}
			if err == nil && standing.Drifted > 0 {
				return command.ErrFound
			}
			return err
		},
	}
	f.Policy(c)
	f.Replica(c)
	f.Brokers(c)
	f.Consumer(c)
	c.Flags().StringVar(&set, "set", "", "the `SET` to compare with; default: the newest that was heard of")
	return c
}

func printStanding(out io.Writer, s app.Standing) error {
	w := table.NewWriter()
	w.SetStyle(table.StyleLight)
	w.AppendHeader(table.Row{"table", "replica", "verdict", "rows in the set", "rows here", "events since"})
	for _, t := range s.Tables {
		events := ""
		if t.Events != nil {
			events = fmt.Sprint(*t.Events)
		}
		w.AppendRow(table.Row{t.Table, t.Replica, t.Verdict, t.Rows, t.There, events})
	}
	if _, err := fmt.Fprintf(out, "set %s, taken %s\n\n%s\n", s.Set, s.Taken.Format(time.RFC3339), w.Render()); err != nil {
		return err
	}
	for _, t := range s.Tables {
		if t.Reason == "" {
			continue
		}
		if _, err := fmt.Fprintf(out, "%s: %s\n", t.Table, t.Reason); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(out, "\n%d identical, %d drifted, %d changed since, %d not known\n", s.Identical, s.Drifted, s.Changed, s.Unknown)
	return err
}
