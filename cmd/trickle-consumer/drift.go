package main

import (
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/command"
)

func driftCommand(f *command.Flags) *cobra.Command {
	var of string
	var limit int
	c := &cobra.Command{
		Use: "drift --policy FILE", Short: "List the rows that differ and are left as they are (detect.action: report)", Args: cobra.NoArgs,
		Long: "drift lists the rows that were proven to differ and are left as they are, since the policy says detect.action: report. A row goes from the list once its range was compared\n" +
			"and it does not differ any more, or it was corrected. With --format json it is an array. Of keys it shows what the policy's privacy allows; values are what\n" +
			"trickle diff --list shows.\n\n" +
			"Exit status: 0 there is none, 1 there are some, 2 an error.",
		Example: "  trickle-consumer drift --policy policy.yaml\n" +
			"  trickle-consumer drift --policy policy.yaml --table public.orders --limit 0",
		RunE: func(c *cobra.Command, _ []string) error {
			if limit < 0 {
				return fmt.Errorf("--limit %d: give a number from 0 on; 0 lists all", limit)
			}
			return withOffice(c, f, func(o *app.Office) error {
				list, err := o.Reported(c.Context(), of, limit)
				if err != nil {
					return err
				}
				if f.JSON() {
					err = command.PrintJSON(c.OutOrStdout(), list)
				} else {
					_, err = fmt.Fprintln(c.OutOrStdout(), reported(list, limit))
				}
				if err == nil && len(list) > 0 {
					return command.ErrFound
				}
				return err
			})
		},
	}
	f.Policy(c)
	f.Replica(c)
	c.Flags().StringVar(&of, "table", "", "only of this `TABLE`, as the source calls it")
	c.Flags().IntVar(&limit, "limit", 100, "at most this many; 0: all")
	command.Complete(c, "table", f.Tables)
	return c
}

// reported is the list for people.
func reported(list []app.ReportedRow, limit int) string {
	if len(list) == 0 {
		return "no row is known to differ and left as it is; how much was looked at: trickle-consumer status"
	}
	w := table.NewWriter()
	w.SetStyle(table.StyleLight)
	w.AppendHeader(table.Row{"table", "kind", "key", "first seen (UTC)", "last seen"})
	for _, r := range list {
		w.AppendRow(table.Row{r.Table, r.Kind, command.Visible(r.Key), r.FirstSeen.Format(timeShown), r.SeenAt.Format(timeShown)})
	}
	text := w.Render()
	if len(list) == limit {
		text += "\nthere may be more: --limit 0 lists all"
	}
	return text
}
