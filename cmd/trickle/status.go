package main

import (
	"fmt"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/command"
)

func statusCommand(f *command.Flags) *cobra.Command {
	c := &cobra.Command{
		Use: "status --policy FILE", Short: "Show how far the scan has come, from its stored position", Args: cobra.NoArgs,
		Long: "status reads the scan's stored position: from Kafka (--brokers), or from the file of a run without Kafka (--cursor-file).",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := f.Settings()
			if err != nil {
				return err
			}
			if c.Flags().Changed("cursor-file") {
				s.Brokers = nil
			}
			tables, err := app.Progress(c.Context(), s)
			if err != nil {
				return err
			}
			if f.JSON() {
				return command.PrintJSON(c.OutOrStdout(), map[string]any{"tables": tables})
			}
			if len(tables) == 0 {
				_, err := fmt.Fprintln(c.OutOrStdout(), "nothing has been scanned yet")
				return err
			}
			w := table.NewWriter()
			w.SetStyle(table.StyleLight)
			w.AppendHeader(table.Row{"table", "cycle", "begun", "ranges", "rows", "oldest verification", "paused"})
			for _, t := range tables {
				oldest := "never"
				if !t.Oldest.IsZero() {
					oldest = t.Oldest.Format(time.RFC3339)
				}
				w.AppendRow(table.Row{t.Table, t.Cycle, t.Started.Format(time.RFC3339), fmt.Sprintf("%d of %d", t.Done, t.Ranges), t.Rows, oldest, t.Paused})
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), w.Render())
			return err
		},
	}
	f.Policy(c)
	f.Brokers(c)
	f.CursorFile(c)
	return c
}
