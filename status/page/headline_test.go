package page

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/ledger"
)

func TestStatesInWords(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(*State)
		head  string
		level string
	}{
		"nothing":          {func(*State) {}, "all is well", "good"},
		"suspects":         {func(s *State) { s.Replica.Tables[0].Suspects = 1 }, "drift is being corrected", "busy"},
		"a resync":         {func(s *State) { s.Replica.Resyncs = []ledger.ResyncReport{{State: "running"}} }, "resyncing", "busy"},
		"the gate":         {func(s *State) { s.Replica.Gate.Open = false }, "1 thing waits", "wait"},
		"the brake":        {func(s *State) { s.Replica.Brake.On = true }, "1 thing is stopped", "stop"},
		"no table":         {func(s *State) { s.Replica.Tables, s.Replica.Strips = nil, nil }, "waiting for the first message", "busy"},
		"a failed row":     {func(s *State) { s.Replica.Tables[0].Failed = 1 }, "all is well", "good"},
		"a restore":        {func(s *State) { s.Replica.Restore = &ledger.RestoreReport{State: "loading"} }, "1 thing is stopped", "stop"},
		"a done restore":   {func(s *State) { s.Replica.Restore = &ledger.RestoreReport{State: "done"} }, "all is well", "good"},
		"refused policy":   {func(s *State) { s.InForce.Refused = "line 3" }, "1 thing waits", "wait"},
		"left alone":       {func(s *State) { s.Replica.Tables[0].Reported.Mismatched, s.Replica.Tables[1].Reported.Extra = 80, 2 }, "82 rows differ, and are left alone", "wait"},
		"one, and a brake": {func(s *State) { s.Replica.Tables[0].Reported.Extra, s.Replica.Brake.On = 1, true }, "1 thing is stopped", "stop"},
		"a threshold": {func(s *State) {
			s.Replica.Tallies["public.orders"] = entry.Tally{Discrepancies: 31200}
		}, "a threshold is reached: full resync", "wait"},
		"one that a resync has answered": {func(s *State) {
			s.Replica.Tallies["public.orders"] = entry.Tally{Discrepancies: 31200, WorstCount: 2800}
			s.Replica.Resyncs = []ledger.ResyncReport{{Scope: "full", Table: "public.orders", State: "done", Requested: s.At.Add(-time.Minute)}}
		}, "all is well", "good"},
		"one that a resync failed to": {func(s *State) {
			s.Replica.Tallies["public.orders"] = entry.Tally{WorstCount: 2800}
			s.Replica.Resyncs = []ledger.ResyncReport{{Scope: "partial", Table: "public.orders", State: "failed", Requested: s.At.Add(-time.Minute)}}
		}, "a threshold is reached: partial resync", "wait"},
		"one that is not scanned": {func(s *State) { s.Replica.Tables[0].Unscanned = &ledger.UnscannedReport{Reason: "no right"} }, "1 thing is stopped", "stop"},
		"no base line":            {func(s *State) { s.Scan = &Scan{Baseline: &Baseline{}} }, "1 thing is stopped", "stop"},
	} {
		s := quiet(t)
		c.spoil(&s)
		m := modelOf(s)
		if m.Headline() != c.head || m.Level() != c.level {
			t.Errorf("%s: %q, %s", name, m.Headline(), m.Level())
		}
		for _, n := range m.Shown {
			if n.Level != "note" && n.Command == "" && name != "a restore" {
				t.Errorf("%s: nothing says what mends it", name)
			}
		}
		if _, err := sections(s); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if m := modelOf(State{Scan: &Scan{Speed: 1}}); m.Headline() != "the source is scanned" || m.Level() != "good" {
		t.Errorf("of the source alone: %q, %s", m.Headline(), m.Level())
	}
	keyless := State{At: now(), Scan: &Scan{Tables: []ScanTable{{Table: "public.nokey", Paused: "add one (ALTER TABLE public.nokey ADD PRIMARY KEY …) or leave the table out"}, {Table: "public.t", Paused: "permission denied"}}}}
	if n := keyless.Notices(); n[0].Command != "" || n[1].Command != "trickle check" {
		t.Errorf("what mends a table without a key: %+v", n)
	}
	edited := trouble(t)
	edited.InForce.Since = time.Date(2026, 1, 2, 9, 8, 0, 0, time.UTC)
	if all, err := sections(edited); err != nil || !strings.Contains(fmt.Sprint(all), "the one of 2026-01-02 09:08:00 UTC stays in force") || !strings.Contains(fmt.Sprint(all), "the sum of the tables’ bounds") {
		t.Errorf("it is not told which policy is in force, or whose bounds: %v", err)
	}
	alone := quiet(t)
	alone.Replica.Tables[0].Reported.Mismatched = 80
	if all, err := sections(alone); err != nil || !strings.Contains(fmt.Sprint(all), "trickle-consumer drift --table public.order_items --policy policy.yaml") || !strings.Contains(fmt.Sprint(all), "<dt>left alone</dt><dd>80</dd>") {
		t.Errorf("what is left alone is not listed: %v", err)
	}
	wrote := quiet(t)
	wrote.Replica.Recent = []ledger.Correction{{ResyncID: "867d0a", TraceID: "31628da2aa", Batch: &ledger.Batch{Kinds: ledger.Kinds{Missing: 545, Extra: 3}}}}
	all, err := sections(wrote)
	text := fmt.Sprint(all)
	for _, want := range []string{"resync 867d0a ", "545 missing</span>", "3 extra</span>", "<td>confirmed</td>", "31628da2<"} {
		if err != nil || !strings.Contains(text, want) {
			t.Errorf("what a resync wrote lacks %q: %v", want, err)
		}
	}
	if strings.Contains(text, "0 mismatched</span>") {
		t.Error("what a resync wrote names a kind of which there is none")
	}
	for want, c := range map[string]ledger.Correction{
		"undone": {Undone: &wrote.At, Outcome: "confirmed"}, "to be confirmed": {}, "superseded": {Outcome: "superseded"}, "26 to be confirmed": {Batch: &ledger.Batch{Kinds: ledger.Kinds{Extra: 30}, Open: 26, Undone: 1}},
		"confirmed, 1 undone": {Batch: &ledger.Batch{Kinds: ledger.Kinds{Extra: 30}, Undone: 1}}, "confirmed": {Batch: new(ledger.Batch)},
	} {
		if got := modelOf(wrote).Outcome(c); got != want {
			t.Errorf("outcome %q, want %q", got, want)
		}
	}
	for shape, c := range map[string]ledger.Cell{"": {Differed: 1}, "suspect": {Differed: 1, Suspects: 1}, "extra": {Reported: ledger.Kinds{Extra: 1}}, "missing": {Drift: ledger.Kinds{Missing: 1}, Suspects: 1}} {
		if m, _ := markOf(c); m.Shape != shape {
			t.Errorf("%+v is marked %q", c, m.Shape)
		}
	}
	if _, err := sections(State{}); err != nil {
		t.Errorf("nothing at all: %v", err)
	}
}

// What the publisher told that it does not scan is shown once: by the publisher itself where it is there.
func TestUnscannedTableIsShown(t *testing.T) {
	t.Parallel()
	unscanned := quiet(t)
	unscanned.Replica.Tables[1].Unscanned = &ledger.UnscannedReport{Reason: "no right: <GRANT>", Since: now().Add(-time.Hour)}
	all, err := sections(unscanned)
	if text := fmt.Sprint(all); err != nil || !strings.Contains(text, "public.orders is not verified: the publisher does not scan it") || !strings.Contains(text, "no right: &lt;GRANT&gt;") || !strings.Contains(text, "not scanned</span>") {
		t.Errorf("nothing tells what the publisher does not scan: %v", err)
	}
	unscanned.Scan = &Scan{Tables: []ScanTable{{Table: "public.orders", Paused: "no right"}}}
	if n := unscanned.Notices(); len(n) != 1 || n[0].What != "public.orders is paused: it is not scanned" {
		t.Errorf("where the publisher is there itself: %+v", n)
	}
}
