package ledger_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
)

func found(r message.Range, ids ...string) (out []entry.Discrepancy) {
	for _, id := range ids {
		out = append(out, entry.Discrepancy{Key: message.Key{id}, Kind: drift.Missing, Range: r})
	}
	return out
}

func verified(id uint64, r message.Range, rows uint64) entry.Verified {
	return entry.Verified{Table: table, Range: r, RangeID: id, Cycle: 1, Ranges: 4, Rows: rows, Digest: digest.Record, Equal: true}
}

func TestAKeyCountsOnce(t *testing.T) {
	t.Parallel()
	l, pool := fresh(t)
	for range 3 {
		must(t, l.Count(t.Context(), table, found(rng("", ""), "1", "2")))
	}
	must(t, l.Count(t.Context(), "public.other", found(rng("", ""), "1")))
	must(t, ledger.New(pool, "q").Count(t.Context(), table, found(rng("", ""), "3")))
	tally, err := l.Tally(t.Context(), table, hour)
	if err != nil || tally.Discrepancies != 2 || tally.WorstCount != 2 {
		t.Errorf("%+v, %v", tally, err)
	}
	exec(t, pool, `UPDATE trickle.discrepancies SET at = at - interval '2 hours' WHERE key = '{1}'`)
	if tally, err = l.Tally(t.Context(), table, hour); err != nil || tally.Discrepancies != 1 {
		t.Errorf("after the window: %+v, %v", tally, err)
	}
	must(t, l.Forget(t.Context(), hour/2))
	if n := one[int](t, pool, `SELECT count(*)::int FROM trickle.discrepancies WHERE pipeline = 'p'`); n != 1 {
		t.Errorf("%d remembered", n)
	}
}

func TestTallyFindsTheWorstNeighbourhood(t *testing.T) {
	t.Parallel()
	first, second, third, last := rng("", "10"), rng("10", "20"), rng("20", "30"), rng("30", "")
	for name, c := range map[string]struct {
		found       [][]entry.Discrepancy
		want        string
		count, rows int
	}{
		"nothing":                    {nil, "(-inf, +inf]", 0, 0},
		"one alone":                  {[][]entry.Discrepancy{found(second, "a", "b")}, "(10, 20]", 2, 600},
		"the first":                  {[][]entry.Discrepancy{found(first, "a", "b")}, "(-inf, 10]", 2, 300},
		"the last":                   {[][]entry.Discrepancy{found(last, "a", "b")}, "(30, +inf]", 2, 700},
		"touching ones add up":       {[][]entry.Discrepancy{found(first, "a"), found(second, "b", "c"), found(third, "d")}, "(-inf, 30]", 4, 600},
		"up to the end":              {[][]entry.Discrepancy{found(third, "a"), found(last, "b", "c")}, "(20, +inf]", 3, 0},
		"a gap parts":                {[][]entry.Discrepancy{found(first, "a"), found(third, "b", "c"), found(last, "d", "e")}, "(20, +inf]", 4, 0},
		"the whole table, one range": {[][]entry.Discrepancy{found(rng("", ""), "a")}, "(-inf, +inf]", 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, _ := fresh(t)
			for i, r := range []message.Range{first, second, third, last} {
				must(t, l.Record(t.Context(), verified(uint64(i+1), r, uint64(100*(i+1))), nil, 0))
			}
			for _, f := range c.found {
				must(t, l.Count(t.Context(), table, f))
			}
			tally, err := l.Tally(t.Context(), table, hour)
			if err != nil || tally.Worst.String() != c.want || tally.WorstCount != c.count || c.rows != 0 && tally.WorstRows != c.rows || tally.Rows != 1000 {
				t.Errorf("%+v, %v, want %d in %s of %d rows", tally, err, c.count, c.want, c.rows)
			}
		})
	}
}

func TestRequestRules(t *testing.T) {
	t.Parallel()
	part, other, all := rng("1", "2"), rng("5", "6"), rng("", "")
	wish := func(id, scope string, r message.Range, cooldown time.Duration) entry.Wish {
		return entry.Wish{ID: id, Scope: scope, Table: table, Range: r, Reason: "why", Cooldown: cooldown}
	}
	waiting := func(w entry.Wish) entry.Wish { w.Waiting = true; return w }
	for name, c := range map[string]struct {
		before []entry.Wish
		ended  bool // before the wish
		wish   entry.Wish
		made   bool
		state  string // of all
	}{
		"the first":                           {nil, false, wish("a", entry.Partial, part, hour), true, "a running"},
		"waits for approval":                  {nil, false, waiting(wish("a", entry.Full, all, hour)), true, "a waiting"},
		"the same again":                      {[]entry.Wish{wish("a", entry.Partial, part, hour)}, false, wish("b", entry.Partial, part, hour), false, "a running"},
		"the same again by hand":              {[]entry.Wish{wish("a", entry.Partial, part, hour)}, false, wish("b", entry.Partial, part, 0), false, "a running"},
		"another part by hand":                {[]entry.Wish{wish("a", entry.Partial, part, hour)}, false, wish("b", entry.Partial, other, 0), true, "a running, b running"},
		"within the cooldown":                 {[]entry.Wish{wish("a", entry.Partial, part, hour)}, true, wish("b", entry.Partial, part, hour), false, "a done"},
		"within the cooldown, by hand":        {[]entry.Wish{wish("a", entry.Partial, part, hour)}, true, wish("b", entry.Partial, part, 0), true, "a done, b running"},
		"another part within the cooldown":    {[]entry.Wish{wish("a", entry.Partial, part, hour)}, true, wish("b", entry.Partial, other, hour), true, "a done, b running"},
		"full takes over":                     {[]entry.Wish{wish("a", entry.Partial, part, hour)}, false, wish("b", entry.Full, all, hour), true, "a done, b running"},
		"full that waits takes nothing over":  {[]entry.Wish{wish("a", entry.Partial, part, hour)}, false, waiting(wish("b", entry.Full, all, hour)), true, "a running, b waiting"},
		"a part of what is under way":         {[]entry.Wish{wish("a", entry.Full, all, hour)}, false, wish("b", entry.Partial, part, 0), false, "a running"},
		"soon after a full one":               {[]entry.Wish{wish("a", entry.Full, all, hour)}, true, wish("b", entry.Partial, part, hour), false, "a done"},
		"a second full while the first waits": {[]entry.Wish{waiting(wish("a", entry.Full, all, hour))}, false, wish("b", entry.Full, all, hour), false, "a waiting"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, pool := fresh(t)
			for _, w := range c.before {
				if made, err := l.Request(t.Context(), w); !made || err != nil {
					t.Fatalf("before: %v, %v", made, err)
				}
				if c.ended {
					_, err := l.End(t.Context(), w.ID, "")
					must(t, err)
				}
			}
			made, err := l.Request(t.Context(), c.wish)
			if err != nil || made != c.made {
				t.Errorf("made %v, %v", made, err)
			}
			if got := one[string](t, pool, `SELECT string_agg(id || ' ' || state, ', ' ORDER BY id) FROM trickle.resyncs`); got != c.state {
				t.Errorf("%s, want %s", got, c.state)
			}
		})
	}
}

func TestAResyncGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	l, pool := fresh(t)
	if err := l.Approve(t.Context(), "r"); !errors.Is(err, ledger.ErrNoResync) {
		t.Errorf("approving what is not there: %v", err)
	}
	if _, err := l.Request(t.Context(), entry.Wish{ID: "r", Scope: entry.Full, Table: table, Reason: "why", Waiting: true}); err != nil {
		t.Fatal(err)
	}
	if running, err := l.Running(t.Context()); len(running) != 0 || err != nil {
		t.Errorf("runs before its approval: %v, %v", running, err)
	}
	must(t, l.Approve(t.Context(), "r"))
	ranges := []message.Range{rng("", "10"), rng("10", "20"), rng("20", "")}
	for range 2 { // the second plan changes nothing
		must(t, l.Plan(t.Context(), "r", ranges))
	}
	running, err := l.Running(t.Context())
	if err != nil || len(running) != 1 || !running[0].Planned || running[0].Scope != entry.Full {
		t.Fatalf("%+v, %v", running, err)
	}
	take := func(left int, want string) {
		t.Helper()
		p, n, ok, err := l.Take(t.Context(), "r", hour)
		if err != nil || n != left || ok != (want != "") || ok && p.Range.String() != want {
			t.Fatalf("took %s of %d, %v, %v, want %s of %d", p.Range, n, ok, err, want, left)
		}
	}
	take(3, "(-inf, 10]")
	take(3, "(10, 20]")
	must(t, l.Finish(t.Context(), "r", entry.Piece{N: 0}, 7))
	must(t, l.Finish(t.Context(), "r", entry.Piece{N: 0}, 7)) // once more counts nothing
	must(t, l.Drop(t.Context(), "r", 1))
	take(2, "(10, 20]")
	take(2, "(20, +inf]")
	take(2, "")
	exec(t, pool, `UPDATE trickle.resync_ranges SET leased_until = clock_timestamp() - interval '1 second' WHERE n = 2`) // whoever had it died
	take(2, "(20, +inf]")
	covers, err := l.Covers(t.Context(), table)
	if !covers || err != nil {
		t.Errorf("covers %v, %v", covers, err)
	}
	must(t, l.Finish(t.Context(), "r", entry.Piece{N: 1}, 1))
	must(t, l.Finish(t.Context(), "r", entry.Piece{N: 2}, 1))
	take(0, "")
	for _, now := range []bool{true, false} { // then it is too late
		failure := map[bool]string{false: "too late"}[now]
		end, err := l.End(t.Context(), "r", failure)
		must(t, err)
		if end.Now != now || now && (end.State != "done" || end.Rows != 9 || end.Requested.IsZero()) {
			t.Errorf("ended as %+v, want now %v", end, now)
		}
	}
	if got := one[string](t, pool, `SELECT state || rows || coalesce(failure, '') FROM trickle.resyncs`); got != "done9" {
		t.Errorf("ended as %s", got)
	}
}

func TestJournalOpenAndClose(t *testing.T) {
	t.Parallel()
	l, pool := fresh(t)
	row := `{"id": 1}`
	ids := journal(t, pool, l, ledger.Entry{Key: message.Key{`a"\,b`, ""}, KeyJSON: row, Kind: drift.Missing, After: &row, Version: 1<<32 - 1, ResyncID: "r"},
		ledger.Entry{Key: message.Key{"NULL", "2"}, KeyJSON: row, Kind: drift.Extra, Before: &row}, ledger.Entry{Key: message.Key{"3", "3"}, KeyJSON: row, Kind: drift.Mismatched, Before: &row, After: &row})
	if name, open, err := l.Open(t.Context(), hour, 10); name != "" || open != nil || err != nil {
		t.Errorf("too young to be abandoned: %s %v, %v", name, open, err)
	}
	closeAll(t, l, entry.Confirmed, ids[2:]...)
	closeAll(t, l, entry.Superseded, ids[2:]...) // closed is closed
	name, open, err := l.Open(t.Context(), 0, 10)
	if err != nil || name != table || len(open) != 2 || !slices.Equal(open[0].Key, message.Key{`a"\,b`, ""}) || open[0].Version != 1<<32-1 || open[0].ResyncID != "r" ||
		!slices.Equal(open[1].Key, message.Key{"NULL", "2"}) || open[1].Kind != drift.Extra || open[1].Entry != ids[1] {
		t.Errorf("%s %+v, %v", name, open, err)
	}
	if got := one[string](t, pool, `SELECT outcome FROM trickle.corrections WHERE closed_at IS NOT NULL`); got != entry.Confirmed {
		t.Errorf("closed as %s", got)
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	l, pool := fresh(t)
	row := `{"id": 1}`
	journal(t, pool, l, ledger.Entry{Key: message.Key{"1"}, KeyJSON: row, Kind: drift.Missing, After: &row})
	must(t, l.Record(t.Context(), verified(1, rng("", "10"), 100), []drift.Suspect{suspect("1", drift.Sighting{})}, hour))
	must(t, l.Count(t.Context(), table, found(rng("", "10"), "1", "2")))
	must(t, l.SaveGate(t.Context(), entry.Gate{Open: true, Lag: 400 * time.Millisecond, Sources: []entry.GateSource{{Name: "slot", Lag: 400 * time.Millisecond}, {Name: "group", Lag: -1, Reason: "no right"}}}, hour, time.Now()))
	if _, err := l.Request(t.Context(), entry.Wish{ID: "r", Scope: entry.Partial, Table: table, Reason: "why"}); err != nil {
		t.Fatal(err)
	}
	must(t, l.Settle(t.Context(), table, entry.Settled{Resolved: 2, Failed: 1, Failure: "key 9: no"}))
	must(t, l.Pause(t.Context(), table, "because"))
	must(t, l.Refused(t.Context(), "forged"))
	must(t, l.Brake(t.Context(), "too much"))
	must(t, l.SavePolicy(t.Context(), policy.State{Since: time.Unix(0, 0).UTC(), Version: "abc"}.Refuse(errors.New("no such key"), time.Unix(60, 0))))
	if pinned, err := l.Pin(t.Context(), "1/shop"); pinned != "1/shop" || err != nil {
		t.Errorf("pinned to %s, %v", pinned, err)
	}
	if pinned, err := l.Pin(t.Context(), "2/shop"); pinned != "1/shop" || err != nil {
		t.Errorf("pinned anew to %s, %v", pinned, err)
	}
	report, err := l.Report(t.Context())
	must(t, err)
	text, err := json.Marshal(report)
	must(t, err)
	for _, part := range []string{
		`"gate":{"open":true,"lag_seconds":0.4,"reason":""`, `"table":"public.t","replica":"cache.t","digest":"record","rows_verified":100,"ranges_verified":1,"coverage":0.25,"oldest_verification":"2`,
		`"sources":[{"source":"slot","lag_seconds":0.4,"reason":""},{"source":"group","lag_seconds":null,"reason":"no right"}]`,
		`"suspects":1,"resolved":2,"corrected":{"missing":1,"mismatched":0,"extra":0},"reported":{"missing":0,"mismatched":0,"extra":0},"failed":1,"last_failure":"key 9: no"`, `"paused":"because"`,
		`"window":{"seconds":3600,"discrepancies":2,"rows_verified":100,"ratio":0.02}`, `"resyncs":[{"id":"r","scope":"partial","table":"public.t","state":"running","rows":0`,
		`"brake":{"on":true,"reason":"too much"}`, `"refused":1,"refused_reason":"forged"`, `"unconfirmed":1`, `"source":"1/shop"`,
		`"policy":{"since":"1970-01-01T00:00:00Z","version":"abc","refused":"no such key","refused_at":"1970-01-01T00:01:00Z"}`,
	} {
		if !strings.Contains(string(text), part) {
			t.Errorf("%s\nlacks %s", text, part)
		}
	}
	must(t, l.SaveGate(t.Context(), entry.Gate{Lag: -1, Reason: "unknown"}, hour, time.Time{}))
	if report, err = l.Report(t.Context()); err != nil || report.Gate.LagSeconds != nil || report.Gate.Reason != "unknown" {
		t.Errorf("%+v, %v", report.Gate, err)
	}
	exec(t, pool, `UPDATE trickle.pipelines SET gate_open = true, gate_at = gate_at - interval '3 days'`)
	if report, err = l.Report(t.Context()); err != nil || report.Gate.Open || !strings.Contains(report.Gate.Reason, "no detector has run for 72h") {
		t.Errorf("an old gate: %+v, %v", report.Gate, err)
	}
	if _, err := ledger.New(pool, "q").Report(t.Context()); err == nil || !strings.Contains(err.Error(), "[p]") {
		t.Errorf("another pipeline: %v", err)
	}
	if _, err := ledger.New(open(t, pgtest.Database(t)), "p").Report(t.Context()); !errors.Is(err, ledger.ErrNotMigrated) {
		t.Errorf("no schema: %v", err)
	}
}

// A publisher that has lost its cursors counts cycles from the beginning, and cuts other ranges: what it verified before is no part of its coverage, and what it
// verifies now is. A message of an old cycle that only came late is none of that.
func TestCyclesThatBeginAnew(t *testing.T) {
	t.Parallel()
	l, _ := fresh(t)
	began := time.Now()
	record := func(cycle uint64, read time.Duration, ids ...uint64) {
		t.Helper()
		for _, id := range ids {
			v := verified(id, rng("", ""), 10)
			v.Cycle, v.ReadAt = cycle, began.Add(read)
			must(t, l.Record(t.Context(), v, nil, 0))
		}
	}
	coverage := func(when string, want float64) {
		t.Helper()
		r, err := l.Report(t.Context())
		if err != nil || len(r.Tables) != 1 || r.Tables[0].Coverage != want {
			t.Errorf("%s: %+v, %v, want a coverage of %v", when, r.Tables, err, want)
		}
	}
	record(499, time.Hour, 1, 2, 3, 4)
	record(500, 2*time.Hour, 1, 2, 3, 4)
	record(3, time.Minute, 1)
	record(500, 2*time.Hour, 1)
	coverage("a message that came late", 1)
	record(1, 3*time.Hour, 11)
	coverage("the first range of a new count", 0.25)
	record(1, 4*time.Hour, 12, 13, 14)
	coverage("all of them", 1)
	record(2, 5*time.Hour, 11, 12)
	record(3, 6*time.Hour, 11)
	coverage("two cycles on, of which most is missing", 0.5)
}
