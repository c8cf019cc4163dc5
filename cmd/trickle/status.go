package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/command"
	"github.com/trickle-verify/trickle/keeper"
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
			scan, err := app.Progress(c.Context(), s)
			if err != nil {
				return err
			}
			if f.JSON() {
				return command.PrintJSON(c.OutOrStdout(), scan)
			}
			if len(scan.Tables) == 0 {
				_, err := fmt.Fprintln(c.OutOrStdout(), "nothing has been scanned yet"+restorePoint(scan.Baseline))
				return err
			}
			w := table.NewWriter()
			w.SetStyle(table.StyleLight)
			w.AppendHeader(table.Row{"table", "cycle", "begun", "ranges", "rows", "oldest verification", "paused"})
			for _, t := range scan.Tables {
				w.AppendRow(table.Row{t.Table, t.Cycle, when(t.Started), fmt.Sprintf("%d of %d", t.Done, t.Ranges), t.Rows, when(t.Oldest), t.Paused})
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), w.Render()+publishers(scan.Shares)+restorePoint(scan.Baseline))
			return err
		},
	}
	f.Policy(c)
	f.Brokers(c)
	f.CursorFile(c)
	return c
}

func when(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Format(time.RFC3339)
}

// publishers lists who last took up which shares of the work.
func publishers(shares []cursor.Owner) string {
	if len(shares) == 0 {
		return ""
	}
	byOwner := map[string][]string{}
	for _, s := range shares {
		byOwner[s.Owner] = append(byOwner[s.Owner], strconv.Itoa(s.Share))
	}
	w := table.NewWriter()
	w.SetStyle(table.StyleLight)
	w.AppendHeader(table.Row{"publisher", "shares of the work"})
	for _, owner := range slices.Sorted(maps.Keys(byOwner)) {
		w.AppendRow(table.Row{owner, strings.Join(byOwner[owner], " ")})
	}
	return "\n" + w.Render()
}

// restorePoint tells how the base-line view stands.
func restorePoint(r *keeper.Report) string {
	if r == nil {
		return ""
	}
	var b strings.Builder
	line := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "\n%-14s"+format, append([]any{what}, args...)...)
	}
	b.WriteString("\n")
	switch {
	case r.Valid:
		line("restore point", "set %s, valid", r.Set)
	case r.Set != "":
		line("restore point", "NONE: set %s is not valid: %s", r.Set, r.Reason)
	default:
		line("restore point", "NONE: %s", r.Reason)
	}
	if r.AgeSeconds != nil {
		line("age", "%s, a replay reads %d events", time.Duration(*r.AgeSeconds*float64(time.Second)).Round(time.Second), r.Events)
	}
	if r.RefreshDue != nil {
		line("refresh due", "%s", when(*r.RefreshDue))
	}
	if r.Expires != nil && r.Valid {
		line("expires", "from %s on", when(*r.Expires))
	} else if r.Valid && r.Unknown == "" {
		line("expires", "never")
	}
	if r.Unknown != "" {
		line("not known", "%s", r.Unknown)
	}
	if n := r.Building; n != nil {
		line("building", "set %s since %s: %d of %d tables, %d of about %d rows, %s written, as of %s", n.Set, when(n.Begun), n.TablesDone, n.Tables, n.Rows, n.RowsTotal,
			humanize.IBytes(uint64(max(n.Bytes, 0))), when(n.Told))
		if n.Waiting != "" {
			line("", "held by %s", n.Waiting)
		}
	}
	if r.Failure != "" {
		line("failed", "%d times in a row, the last: %s", r.Failures, r.Failure)
		if r.Retry != nil {
			line("", "tried again at %s", when(*r.Retry))
		}
	}
	return b.String()
}
