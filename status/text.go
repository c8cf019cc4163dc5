package status

import (
	"fmt"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/trickle-verify/trickle/ledger"
)

// Text is a replica's report for a terminal.
func Text(r ledger.Report) string {
	var b strings.Builder
	gate := "open"
	if !r.Gate.Open {
		gate = "closed: " + r.Gate.Reason
	}
	fmt.Fprintf(&b, "pipeline  %s\nsource    %s\ngate      %s\nlag       %s\n", r.Pipeline, or(r.Source, "no message yet"), gate, seconds(r.Gate.LagSeconds))
	for _, s := range r.Gate.Sources {
		fmt.Fprintf(&b, "  %-10s%s", s.Source, seconds(s.LagSeconds))
		if s.Reason != "" && s.Reason != r.Gate.Reason {
			fmt.Fprintf(&b, ": %s", s.Reason)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "window    %d discrepancies in %d rows within %s\n", r.Window.Discrepancies, r.Window.RowsVerified, time.Duration(r.Window.Seconds*float64(time.Second)))
	if r.Brake.On {
		fmt.Fprintf(&b, "brake     ON: %s; look at trickle.corrections, then: trickle-consumer brake --release\n", r.Brake.Reason)
	}
	if r.Policy != nil && r.Policy.Refused != "" {
		fmt.Fprintf(&b, "policy    the edit of %s is REFUSED: %s; in force is the one of %s\n", r.Policy.RefusedAt.Format(time.RFC3339), r.Policy.Refused, r.Policy.Since.Format(time.RFC3339))
	}
	if r.Restore != nil {
		b.WriteString(restore(r.Restore))
	}
	if r.Refused > 0 {
		fmt.Fprintf(&b, "refused   %d messages, the last: %s\n", r.Refused, r.RefusedReason)
	}
	if r.Unconfirmed > 0 {
		fmt.Fprintf(&b, "open      %d corrections wait for their confirmation\n", r.Unconfirmed)
	}
	if len(r.Baselines) > 0 {
		n := r.Baselines[0]
		fmt.Fprintf(&b, "base-line %s, taken %s ago: %d tables, %d rows; how this replica compares: trickle-consumer baseline\n",
			n.Set, time.Since(n.Taken).Round(time.Second), n.Tables, n.Rows)
	}
	if len(r.Tables) == 0 {
		b.WriteString("\nno table has been verified yet\n")
		return b.String()
	}
	w := table.NewWriter()
	w.SetStyle(table.StyleLight)
	w.AppendHeader(table.Row{"table", "replica", "digest", "coverage", "oldest", "rows verified", "suspects", "resolved", "missing", "mismatched", "extra", "failed"})
	for _, t := range r.Tables {
		oldest := "never"
		if t.OldestVerification != nil {
			oldest = time.Since(*t.OldestVerification).Round(time.Second).String() + " ago"
		}
		w.AppendRow(table.Row{t.Table, t.Replica, t.Digest, fmt.Sprintf("%.0f %%", 100*t.Coverage), oldest, t.RowsVerified, t.Suspects, t.Resolved,
			t.Corrected.Missing, t.Corrected.Mismatched, t.Corrected.Extra, t.Failed})
	}
	b.WriteString("\n" + w.Render() + "\n")
	for _, t := range r.Tables {
		if t.Paused != "" {
			fmt.Fprintf(&b, "paused    %s: %s\n", t.Table, t.Paused)
		}
		if t.LastFailure != "" {
			fmt.Fprintf(&b, "failed    %s: %s\n", t.Table, t.LastFailure)
		}
	}
	if len(r.Resyncs) > 0 {
		w = table.NewWriter()
		w.SetStyle(table.StyleLight)
		w.AppendHeader(table.Row{"resync", "scope", "table", "state", "ranges", "rows", "corrected", "why"})
		for _, s := range r.Resyncs {
			w.AppendRow(table.Row{s.ID, s.Scope, s.Table, s.State, fmt.Sprintf("%d of %d", s.RangesDone, s.Ranges), s.Rows, s.Corrected, or(s.Failure, s.Why)})
		}
		b.WriteString("\n" + w.Render() + "\n")
		for _, s := range r.Resyncs {
			if s.State == "waiting" {
				fmt.Fprintf(&b, "resync %s waits: trickle-consumer resync --approve %s\n", s.ID, s.ID)
			}
			if s.Snapshot != nil {
				b.WriteString(snapshot(s))
			}
		}
	}
	return b.String()
}

// restore is a line on the newest restore.
func restore(r *ledger.RestoreReport) string {
	line := fmt.Sprintf("restore   set %s: %s, %d of %d ranges, %d rows", r.Set, r.State, r.RangesDone, r.Ranges, r.Rows)
	if r.Failure != "" {
		line += "; " + or(r.Stopped, "ended") + ": " + r.Failure
	}
	return line + "\n"
}

func seconds(s *float64) string {
	if s == nil {
		return "unknown"
	}
	return fmt.Sprintf("%.1f s", *s)
}

// snapshot is a line on what Debezium does for a resync.
func snapshot(r ledger.ResyncReport) string {
	s := r.Snapshot
	line := fmt.Sprintf("resync %s goes through Debezium: %s, signal %s", r.ID, s.State, or(s.Signal, "not sent yet"))
	if r.State != "waiting" && r.State != "running" { // it has ended
		line = fmt.Sprintf("resync %s went through Debezium, signal %s", r.ID, or(s.Signal, "never sent"))
	}
	if s.Attempts > 1 {
		line += fmt.Sprintf(" (the %d. attempt)", s.Attempts)
	}
	if s.Rows > 0 {
		line += fmt.Sprintf(", %d rows read", s.Rows)
	}
	if s.Remaining > 0 {
		line += fmt.Sprintf(", %d rows still differ", s.Remaining)
	}
	if s.Failure != "" {
		line += "; the last attempt: " + s.Failure
	}
	return line + "\n"
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
