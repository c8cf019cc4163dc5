package notebook

import (
	"context"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
)

func key(s string) message.Key { return message.Key{s} }

func bounds(lo, hi string) message.Range {
	r := message.Range{}
	if lo != "" {
		r.Lo = key(lo)
	}
	if hi != "" {
		r.Hi = key(hi)
	}
	return r
}

// opened is a notebook whose clock the test moves.
func opened() (*Notebook, *time.Time) {
	n := New(policy.Detect{Window: policy.Duration(10 * time.Minute), Brake: policy.Brake{Deletes: 2, Corrections: 3}})
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	n.now = func() time.Time { return now }
	return n, &now
}

func TestSuspectsWaitAndAreLeased(t *testing.T) {
	t.Parallel()
	n, now := opened()
	ctx := t.Context()
	if err := n.Record(ctx, entry.Verified{Table: "t", RangeID: 1}, []drift.Suspect{{Key: key("a")}, {Key: key("b")}}, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	due := func() int {
		t.Helper()
		_, s, err := n.Due(ctx, 10, 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return len(s)
	}
	if got := due(); got != 0 {
		t.Errorf("%d are due before their time", got)
	}
	*now = now.Add(6 * time.Second)
	if first, second := due(), due(); first != 2 || second != 0 {
		t.Errorf("%d and then %d are due, want 2 and none while they are leased", first, second)
	}
	again := drift.Suspect{Key: key("b"), Attempts: 1}
	if err := n.Settle(ctx, "t", entry.Settled{Done: []message.Key{key("a")}, Resolved: 1, Again: []drift.Suspect{again}, Due: time.Second}); err != nil {
		t.Fatal(err)
	}
	*now = now.Add(2 * time.Second)
	if _, s, _ := n.Due(ctx, 10, time.Minute); len(s) != 1 || s[0].Attempts != 1 {
		t.Errorf("due are %+v, want b after its second attempt", s)
	}
	if tables := n.Tables(); len(tables) != 1 || tables[0].Suspects != 1 || tables[0].Resolved != 1 || tables[0].Differed != 1 {
		t.Errorf("the table came to %+v", tables)
	}
}

func TestTheBrake(t *testing.T) {
	t.Parallel()
	n, now := opened()
	enter := func(kind drift.Kind, resync string) bool {
		_, ok := n.Enter(Correction{Table: "t", Key: key("a"), Kind: kind, ResyncID: resync}, 0)
		return ok
	}
	if !enter(drift.Extra, "") || !enter(drift.Extra, "r") || enter(drift.Extra, "") {
		t.Error("two deletes are allowed, and no third")
	}
	if why, _ := n.Braked(t.Context()); why == "" || enter(drift.Missing, "") {
		t.Errorf("the brake is on (%q), and everything waits", why)
	}
	*now = now.Add(time.Second)
	n.Release()
	for i, resync := range []string{"", "", "r", ""} {
		if !enter(drift.Missing, resync) {
			t.Errorf("correction %d is refused: three are allowed after it was released, those of resyncs aside", i+1)
		}
	}
	if enter(drift.Missing, "") {
		t.Error("one more than the policy allows was entered")
	}
	*now = now.Add(time.Hour)
	n.Release()
	if !enter(drift.Extra, "") {
		t.Error("what is older than the window does not count")
	}
}

func TestARewriteClosesWhatItRewrites(t *testing.T) {
	t.Parallel()
	n, now := opened()
	ctx := context.Background()
	first, _ := n.Enter(Correction{Table: "t", Key: key("a"), Kind: drift.Missing}, 0)
	second, _ := n.Enter(Correction{Table: "t", Key: key("a"), Kind: drift.Mismatched}, first)
	*now = now.Add(time.Minute)
	name, open, err := n.Open(ctx, 20*time.Second, 10)
	if err != nil || name != "t" || len(open) != 1 || open[0].Entry != second {
		t.Errorf("open are %+v, want only the second: %v", open, err)
	}
	if closed, err := n.Close(ctx, entry.Confirmed, []int64{first, second}); err != nil || len(closed) != 1 || closed[0] != second {
		t.Fatalf("closed %v, want only the second: %v", closed, err)
	}
	if c := n.Corrections(); c[0].Outcome != entry.Superseded || c[1].Outcome != entry.Confirmed {
		t.Errorf("the journal is %+v", c)
	}
	*now = now.Add(time.Hour)
	if err := n.Forget(ctx, 10*time.Minute); err != nil || len(n.Corrections()) != 0 {
		t.Errorf("closed corrections outlive the window: %v", err)
	}
}

func TestTheWindowAndResyncs(t *testing.T) {
	t.Parallel()
	n, now := opened()
	ctx := t.Context()
	ranges := []message.Range{bounds("", "10"), bounds("10", "20"), bounds("20", "")}
	for i, r := range ranges {
		if err := n.Record(ctx, entry.Verified{Table: "t", RangeID: uint64(i), Range: r, Rows: 100}, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	found := []entry.Discrepancy{{Key: key("05"), Range: ranges[0]}, {Key: key("15"), Range: ranges[1]}, {Key: key("15"), Range: ranges[1]}, {Key: key("25"), Range: ranges[2]}}
	if err := n.Count(ctx, "t", found); err != nil {
		t.Fatal(err)
	}
	tally, err := n.Tally(ctx, "t", 10*time.Minute)
	if err != nil || tally.Discrepancies != 3 || tally.Rows != 300 || tally.WorstCount != 3 || tally.WorstRows != 300 || !tally.Worst.Lo.Equal(key("10")) {
		t.Errorf("the window holds %+v: %v", tally, err)
	}
	ask := func(scope string, r message.Range) bool {
		made, err := n.Request(ctx, entry.Wish{ID: scope + r.String(), Scope: scope, Table: "t", Range: r, Cooldown: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	if !ask(entry.Partial, ranges[1]) || ask(entry.Partial, ranges[1]) || !ask(entry.Full, message.Range{}) || ask(entry.Partial, ranges[0]) {
		t.Error("one resync of the same part at a time, and none beside one of the table")
	}
	if covered, _ := n.Covers(ctx, "t"); !covered {
		t.Error("the whole table is asked for")
	}
	*now = now.Add(time.Minute)
	if tally, _ := n.Tally(ctx, "t", 10*time.Minute); tally.Discrepancies != 3 || tally.WorstCount != 0 {
		t.Errorf("what led to a resync leads to the next: %+v", tally)
	}
	for _, w := range n.Wishes() {
		n.Fulfil(w.ID)
	}
	if covered, _ := n.Covers(ctx, "t"); covered || ask(entry.Full, message.Range{}) {
		t.Error("it is over, and within its cooldown")
	}
	*now = now.Add(2 * time.Hour)
	if !ask(entry.Full, message.Range{}) {
		t.Error("its cooldown is over")
	}
}

func TestTheFirstSourceIsPinned(t *testing.T) {
	t.Parallel()
	n, _ := opened()
	if first, _ := n.Pin(t.Context(), "one"); first != "one" {
		t.Error(first)
	}
	if second, _ := n.Pin(t.Context(), "two"); second != "one" {
		t.Error(second)
	}
}

func TestWhatThePublisherDoesNotScan(t *testing.T) {
	t.Parallel()
	n, now := opened()
	say := func(second int, reason string) {
		t.Helper()
		if err := n.Unscanned(t.Context(), entry.Unscanned{Table: "t", Replica: "cache", Reason: reason, At: now.Add(time.Duration(second) * time.Second)}); err != nil {
			t.Fatal(err)
		}
	}
	read := func(second int) {
		t.Helper()
		if err := n.Record(t.Context(), entry.Verified{Table: "t", Equal: true, ReadAt: now.Add(time.Duration(second) * time.Second)}, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	for i, step := range []struct {
		do   func()
		want string
	}{
		{func() { say(2, "no key") }, "no key"},
		{func() { say(1, "older") }, "no key"},
		{func() { read(1) }, "no key"},
		{func() { read(3) }, ""},
		{func() { say(2, "no key") }, ""},
		{func() { say(4, "no right") }, "no right"},
		{func() { say(5, "") }, ""},
	} {
		step.do()
		if got := n.Tables(); len(got) != 1 || got[0].Unscanned != step.want || got[0].Replica != "cache" {
			t.Errorf("step %d: %+v, want %q", i, got, step.want)
		}
	}
}
