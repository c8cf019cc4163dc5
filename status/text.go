package status

import (
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/trickle-verify/trickle/ledger"
)

// Text is a replica's report for people.
func Text(r ledger.Report, look Look) string {
	var b strings.Builder
	line := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s"+format+"\n", append([]any{what}, args...)...)
	}
	line("pipeline", "%s", r.Pipeline)
	line("source", "%s", or(r.Source, "no message yet"))
	gate := look.Paint(Good, "open")
	if !r.Gate.Open {
		gate = look.Paint(Bad, "closed: "+r.Gate.Reason)
	}
	line("gate", "%s", gate)
	line("lag", "%s", seconds(r.Gate.LagSeconds))
	for _, s := range r.Gate.Sources {
		text := fmt.Sprintf("  %-10s%s", s.Source, seconds(s.LagSeconds))
		if s.Reason != "" && s.Reason != r.Gate.Reason {
			text += ": " + look.Paint(Bad, s.Reason)
		}
		b.WriteString(text + "\n")
	}
	line("window", "%s discrepancies in %s rows within %s", Count(r.Window.Discrepancies), Count(r.Window.RowsVerified), Span(time.Duration(r.Window.Seconds*float64(time.Second))))
	if r.Brake.On {
		line("brake", "%s; look at trickle-consumer corrections, then: trickle-consumer brake --release", look.Paint(Bad, "ON: "+r.Brake.Reason))
	}
	if r.Policy != nil && r.Policy.Refused != "" {
		line("policy", "the edit of %s is %s; in force is the one of %s", r.Policy.RefusedAt.Format(time.RFC3339), look.Paint(Bad, "REFUSED: "+r.Policy.Refused), r.Policy.Since.Format(time.RFC3339))
	}
	if r.Restore != nil {
		b.WriteString(restore(r.Restore))
	}
	if r.Refused > 0 {
		line("refused", "%s", look.Paint(Mind, fmt.Sprintf("%s messages, the last: %s", Count(r.Refused), r.RefusedReason)))
	}
	if r.Unconfirmed > 0 {
		line("open", "%s corrections wait for their confirmation", Count(r.Unconfirmed))
	}
	if at := r.Journal.Oldest; at != nil {
		line("journal", "%s, the oldest line %s", humanize.IBytes(uint64(max(0, r.Journal.Bytes))), look.Ago(at))
	}
	if len(r.Baselines) > 0 {
		n := r.Baselines[0]
		line("base-line", "%s, taken %s: %d tables, %s rows; how this replica compares: trickle-consumer baseline", n.Set, look.Ago(&n.Taken), n.Tables, Count(n.Rows))
	}
	if len(r.Tables) == 0 {
		b.WriteString("\nno table has been verified yet\n")
		return b.String()
	}
	b.WriteString("\n" + tables(r, look))
	for _, t := range r.Tables {
		if t.Paused != "" {
			line("paused", "%s: %s", t.Table, look.Paint(Mind, t.Paused))
		}
		if u := t.Unscanned; u != nil {
			line("unscanned", "%s: %s", t.Table, look.Paint(Mind, "the publisher has not scanned it for "+Span(max(0, look.Now.Sub(u.Since)))+": "+u.Reason))
		}
		if n := t.Reported.All(); n > 0 {
			line("differs", "%s: %s", t.Table, look.Paint(Mind, fmt.Sprintf("%s rows, left alone by detect.action: report: %d missing, %d mismatched, %d extra; trickle-consumer drift lists them",
				Count(n), t.Reported.Missing, t.Reported.Mismatched, t.Reported.Extra)))
		}
		if t.LastFailure != "" {
			line("failed", "%s: %s", t.Table, look.Paint(Mind, t.LastFailure))
		}
	}
	if len(r.Resyncs) > 0 {
		b.WriteString("\n" + resyncs(r, look))
	}
	return b.String()
}

func tables(r ledger.Report, look Look) string {
	g := Grid{
		Head:  []string{"table", "replica", "digest", "coverage", "oldest", "rows verified", "may be drifted", "suspects", "left alone", "resolved", "missing", "mismatched", "extra", "failed"},
		Right: []string{"coverage", "rows verified", "may be drifted", "suspects", "left alone", "resolved", "missing", "mismatched", "extra", "failed"},
		Spare: []string{"digest", "resolved", "replica", "rows verified", "may be drifted", "oldest", "failed", "suspects"},
	}
	number := func(n int64, colour string) string {
		if n == 0 {
			return look.Paint(Subdued, "0")
		}
		return look.Paint(colour, Count(n))
	}
	for _, t := range r.Tables {
		drifted := "unknown"
		if t.Estimate != nil {
			drifted = "≤ " + Count(t.Estimate.AtMost)
		}
		name := t.Table
		if t.Paused != "" || t.Unscanned != nil {
			name = look.Paint(Mind, name)
		}
		g.Rows = append(g.Rows, []string{
			name, t.Replica, t.Digest, fmt.Sprintf("%.0f %%", 100*t.Coverage), look.Ago(t.OldestVerification), Count(t.RowsVerified), drifted, number(int64(t.Suspects), Mind), number(int64(t.Reported.All()), Bad), number(t.Resolved, Subdued),
			number(int64(t.Corrected.Missing), ""), number(int64(t.Corrected.Mismatched), ""), number(int64(t.Corrected.Extra), ""), number(t.Failed, Bad),
		})
	}
	return g.Text(look)
}

func resyncs(r ledger.Report, look Look) string {
	g := Grid{
		Head:  []string{"resync", "scope", "table", "state", "ranges", "rows", "corrected", "asked for", "why"},
		Right: []string{"ranges", "rows", "corrected"},
		Spare: []string{"why", "asked for", "rows", "scope", "corrected"},
	}
	var b strings.Builder
	for _, s := range r.Resyncs {
		state := s.State
		switch s.State {
		case "waiting":
			state = look.Paint(Mind, state)
		case "failed":
			state = look.Paint(Bad, state)
		case "done":
			state = look.Paint(Good, state)
		}
		g.Rows = append(g.Rows, []string{s.ID, s.Scope, s.Table, state, fmt.Sprintf("%d of %d", s.RangesDone, s.Ranges), Count(s.Rows), Count(s.Corrected), look.Ago(&s.Requested), or(s.Failure, s.Why)})
	}
	b.WriteString(g.Text(look))
	for _, s := range r.Resyncs {
		if s.State == "waiting" {
			fmt.Fprintf(&b, "resync %s waits: trickle-consumer resync --approve %s\n", s.ID, s.ID)
		}
		if s.Snapshot != nil {
			b.WriteString(snapshot(s))
		}
	}
	return b.String()
}

// restore is a line on the newest restore.
func restore(r *ledger.RestoreReport) string {
	line := fmt.Sprintf("restore   set %s: %s, %d of %d ranges, %s rows", r.Set, r.State, r.RangesDone, r.Ranges, Count(r.Rows))
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
