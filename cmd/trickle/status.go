package main

import (
	"context"
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
	"github.com/trickle-verify/trickle/status"
)

func statusCommand(f *command.Flags) *cobra.Command {
	var w *command.Watching
	c := &cobra.Command{
		Use: "status --policy FILE", Short: "Show how far the scan has come, from its stored position", Args: cobra.NoArgs,
		Long: "status reads the scan's stored position: from Kafka (--brokers), or from the file of a run without Kafka (--cursor-file). With --watch it goes on doing so: brokers that\n" +
			"go away are told, and read again when they are back.\n\nExit status: 0, 2 on an error, 130 where Ctrl-C ended --watch.",
		Example: "  trickle status --policy policy.yaml --brokers kafka:9092\n" +
			"  trickle status --policy policy.yaml --brokers kafka:9092 --watch\n" +
			"  trickle status --cursor-file trickle-cursors.json --format json      # a run without Kafka",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := w.Settled(c); err != nil {
				return err
			}
			s, err := f.SettingsTo(w.Log(c))
			if err != nil {
				return err
			}
			if c.Flags().Changed("cursor-file") {
				s.Brokers = nil
			}
			v, err := app.WatchScan(s)
			if err != nil {
				return err
			}
			defer v.Close()
			w.Read = func(ctx context.Context) (command.Picture, error) {
				scan, err := v.Read(ctx)
				return command.Picture{JSON: scan, Text: func(l status.Look) string { return scanText(scan, l) }}, err
			}
			return w.Run(c, f)
		},
	}
	f.Policy(c)
	f.Brokers(c)
	f.CursorFile(c)
	w = command.WatchFlags(c)
	return c
}

// scanText is the scan for people.
func scanText(scan app.Scan, look status.Look) string {
	if len(scan.Tables) == 0 {
		return "nothing has been scanned yet" + restorePoint(scan.Baseline) + "\n"
	}
	g := status.Grid{
		Head:  []string{"table", "cycle", "begun", "done", "ranges", "rows", "oldest verification", "paused"},
		Right: []string{"cycle", "done", "ranges", "rows"},
		Spare: []string{"paused", "rows", "cycle", "ranges", "begun"},
	}
	var paused strings.Builder
	for _, t := range scan.Tables {
		done := "-"
		if t.Ranges > 0 {
			done = fmt.Sprintf("%d %%", 100*t.Done/t.Ranges)
		}
		name, why := t.Table, t.Paused
		if why != "" {
			name, why = look.Paint(status.Mind, name), "yes"
			fmt.Fprintf(&paused, "paused    %s: %s\n", t.Table, look.Paint(status.Mind, t.Paused))
		}
		g.Rows = append(g.Rows, []string{name, strconv.FormatUint(t.Cycle, 10), look.Ago(&t.Started), done, fmt.Sprintf("%s of %s", status.Count(t.Done), status.Count(t.Ranges)), status.Count(t.Rows), look.Ago(&t.Oldest), why})
	}
	out := g.Text(look) + paused.String()
	return out + strings.TrimPrefix(publishers(scan.Shares)+restorePoint(scan.Baseline)+"\n", "\n")
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
