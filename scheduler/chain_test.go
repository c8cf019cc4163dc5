package scheduler

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
)

// Whatever is split and merged in whatever order, and whenever the process is killed between storing the new and removing the old, what is
// stored leads to a whole chain.
func TestChainStaysWhole(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		bound := func(n int) message.Key { return message.Key{strconv.Itoa(n)} }
		tab := newSpan(&table{name: "a"}, cursor.Whole("a"), 0, cursor.State{})
		planned, err := tab.adopt([]cursor.Range{{}}, everything, time.Unix(1, 0))
		if err != nil {
			t.Fatal(err)
		}
		tab.begin(planned, cursor.Table{Cycle: 1})
		stored := map[uint64]cursor.Range{planned[0].ID: planned[0]}
		next := 1
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			i := rapid.IntRange(0, len(tab.chain)-1).Draw(t, "at")
			lo, hi := i, i+1
			var put []cursor.Range
			if i > 0 && rapid.Bool().Draw(t, "merge") {
				m, ok := merge(tab.chain[i-1], tab.chain[i], 1000)
				if !ok {
					continue
				}
				lo, put = i-1, []cursor.Range{m}
			} else {
				a, b := tab.chain[i], tab.chain[i]
				a.Bounds.Hi, b.Bounds.Lo = bound(next), bound(next)
				next++
				if put, err = tab.adopt([]cursor.Range{a, b}, tab.chain[i].Bounds, time.Unix(1, 0)); err != nil {
					t.Fatal(err)
				}
			}
			removed := without(tab.chain[lo:hi], put)
			for _, r := range put {
				stored[r.ID] = r
			}
			for _, r := range removed[:rapid.IntRange(0, len(removed)).Draw(t, "removed")] {
				delete(stored, r.ID)
			}
			tab.replace(lo, hi, put)
			if err := verifyChain(tab.chain, everything); err != nil {
				t.Fatal(err)
			}
			var all []cursor.Range
			for _, r := range stored {
				all = append(all, r)
			}
			chain, stale := chainOf(rapid.Permutation(all).Draw(t, "order"), everything)
			if err := verifyChain(chain, everything); err != nil {
				t.Fatal(err)
			}
			if len(chain)+len(stale) != len(all) {
				t.Fatalf("%d and %d of %d", len(chain), len(stale), len(all))
			}
			if rapid.Bool().Draw(t, "restart") {
				tab.begin(chain, cursor.Table{Cycle: 1})
				for _, r := range stale {
					delete(stored, r.ID)
				}
			}
		}
		was := *tab
		tab.recount()
		if tab.done != was.done {
			t.Fatalf("%d done, counted %d", tab.done, was.done)
		}
	})
}

func TestChainWithAHole(t *testing.T) {
	t.Parallel()
	for hole := range 5 {
		ranges := slices.Delete(cut(5), hole, hole+1)
		if chain, stale := chainOf(ranges, everything); chain != nil || len(stale) != 4 {
			t.Errorf("without range %d: chain %v", hole, chain)
		}
		if verifyChain(ranges, everything) == nil {
			t.Errorf("without range %d: found whole", hole)
		}
	}
	if chain, _ := chainOf(nil, everything); chain != nil {
		t.Error("a chain out of nothing")
	}
}

func TestMergeIsCautious(t *testing.T) {
	t.Parallel()
	early, late := time.Unix(1, 0), time.Unix(2, 0)
	r := cut(2)
	r[0].Rows, r[0].Sum, r[0].Xmin, r[0].VerifiedAt, r[0].CompleteAt = 2, 1<<63+1, 9, early, late
	r[1].Rows, r[1].Sum, r[1].Xmin, r[1].VerifiedAt, r[1].CompleteAt = 3, 1<<63+2, 8, late, early
	m, ok := merge(r[0], r[1], 11)
	if !ok || m.Rows != 5 || m.Sum != 3 || m.Xmin != 8 || m.VerifiedAt != early || m.CompleteAt != early || m.ID != RangeID(everything) {
		t.Errorf("%+v %v", m, ok)
	}
	if _, ok := merge(r[0], r[1], 10); ok {
		t.Error("merged half of the target")
	}
	for _, change := range []func(*cursor.Range){
		func(r *cursor.Range) { r.Cycle = 1 },
		func(r *cursor.Range) { r.Schema = 1 },
		func(r *cursor.Range) { r.Digest = 1 },
	} {
		other := r[1]
		change(&other)
		if _, ok := merge(r[0], other, 1000); ok {
			t.Errorf("merged with %+v", other)
		}
	}
}

func TestWindows(t *testing.T) {
	t.Parallel()
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	night := policy.Window{Start: "0 22 * * *", For: policy.Duration(8 * time.Hour), TimeZone: "UTC"}
	berlin := policy.Window{Start: "0 22 * * *", For: policy.Duration(8 * time.Hour), TimeZone: "Europe/Berlin"}
	noon := policy.Window{Start: "0 5-12 * * *", For: policy.Duration(90 * time.Minute), TimeZone: "UTC"}
	always := policy.Window{Start: "* * * * *", For: policy.Duration(time.Hour), TimeZone: "UTC"}
	for _, c := range []struct {
		name    string
		windows []policy.Window
		now     string
		open    bool
		next    string // empty: never
	}{
		{"none", nil, "2026-06-01T12:00:00Z", true, ""},
		{"just before it opens", []policy.Window{night}, "2026-06-01T21:59:59.999Z", false, "2026-06-01T22:00:00Z"},
		{"as it opens", []policy.Window{night}, "2026-06-01T22:00:00Z", true, "2026-06-02T06:00:00Z"},
		{"past midnight", []policy.Window{night}, "2026-06-02T01:00:00Z", true, "2026-06-02T06:00:00Z"},
		{"just before it closes", []policy.Window{night}, "2026-06-02T05:59:59.999Z", true, "2026-06-02T06:00:00Z"},
		{"as it closes", []policy.Window{night}, "2026-06-02T06:00:00Z", false, "2026-06-02T22:00:00Z"},
		{"summer in Berlin", []policy.Window{berlin}, "2026-06-01T20:30:00Z", true, "2026-06-02T04:00:00Z"},
		{"winter in Berlin", []policy.Window{berlin}, "2026-01-01T20:30:00Z", false, "2026-01-01T21:00:00Z"},
		{"clocks go forward meanwhile", []policy.Window{berlin}, "2026-03-28T23:00:00Z", true, "2026-03-29T05:00:00Z"},
		{"overlapping itself and another", []policy.Window{night, noon}, "2026-06-01T23:00:00Z", true, "2026-06-02T13:30:00Z"},
		{"for ever by overlapping", []policy.Window{always}, "2026-06-01T23:00:00Z", true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, err := NewWindows(c.windows)
			if err != nil {
				t.Fatal(err)
			}
			if got := w.Open(at(c.now)); got != c.open {
				t.Errorf("open %v", got)
			}
			got := w.Next(at(c.now))
			if c.next == "" && !got.IsZero() || c.next != "" && !got.Equal(at(c.next)) {
				t.Errorf("changes at %s, want %q", got, c.next)
			}
		})
	}
	w, err := NewWindows([]policy.Window{night})
	if err != nil {
		t.Fatal(err)
	}
	if got := w.Between(at("2026-06-01T23:00:00Z"), at("2026-06-03T23:00:00Z")); got != 16*time.Hour {
		t.Errorf("open for %s in two days", got)
	}
	if _, err := NewWindows([]policy.Window{{Start: "TZ=0"}}); err == nil {
		t.Error("a cron expression that panics was taken")
	}
}

func TestSamples(t *testing.T) {
	t.Parallel()
	var s Samples
	begin := time.Unix(1_000_000, 0)
	if _, ok := s.Before(begin); ok {
		t.Error("a sample out of nothing")
	}
	const keep = time.Hour
	for i := range 10_000 {
		s.add(cursor.Sample{At: begin.Add(time.Duration(i) * time.Second), Xmin: uint64(i)}, keep)
		if n := len(s.all()); n > maxSamples {
			t.Fatalf("%d samples", n)
		}
	}
	now := 9999
	for _, ago := range []int{0, 1, 60, 199, 1800, 3600} {
		got, ok := s.Before(begin.Add(time.Duration(now-ago) * time.Second))
		late := now - ago - int(got.Xmin)
		if !ok || late < 0 || late > 8 || ago < 200 && late != 0 {
			t.Errorf("%d s ago: sample %d, %d s too old, %v", ago, got.Xmin, late, ok)
		}
	}
	if _, ok := s.Before(begin.Add(time.Hour)); ok {
		t.Error("a sample that should be forgotten")
	}
	if got, _ := s.Before(begin.Add(24 * time.Hour)); got.Xmin != 9999 {
		t.Errorf("the newest: %+v", got)
	}
	s.add(cursor.Sample{At: begin.Add(9000 * time.Second), Xmin: 1}, keep) // the clock was set back
	if got, _ := s.Before(begin.Add(24 * time.Hour)); got.Xmin != 1 {
		t.Errorf("after the clock was set back: %+v", got)
	}
	s.add(cursor.Sample{At: begin.Add(9001 * time.Second), Xmin: 50}, keep)
	s.add(cursor.Sample{At: begin.Add(9010 * time.Second), Xmin: 40}, keep) // a crash lost ten transactions, whose numbers others have by now
	if got, _ := s.Before(begin.Add(9009 * time.Second)); got.Xmin != 1 {
		t.Errorf("after a crash: %+v", got)
	}
	s = Samples{}
	s.add(cursor.Sample{At: begin.Add(9010 * time.Second), Xmin: 40}, keep)
	s.recall([]cursor.Sample{{At: begin.Add(9001 * time.Second), Xmin: 50}, {At: begin.Add(9000 * time.Second), Xmin: 1}})
	if got, _ := s.Before(begin.Add(9009 * time.Second)); got.Xmin != 1 {
		t.Errorf("recalled after a crash: %+v", got)
	}
}

// What was running on a server before another took its place says nothing of the transactions of that one.
func TestSamplesOfAnotherTimelineAreForgotten(t *testing.T) {
	t.Parallel()
	var s Samples
	at := time.Now()
	s.add(cursor.Sample{At: at, Xmin: 10, Timeline: 1}, time.Hour)
	s.add(cursor.Sample{At: at.Add(time.Minute), Xmin: 20, Timeline: 2}, time.Hour)
	if got, ok := s.Before(at.Add(30 * time.Second)); ok {
		t.Errorf("it still has %+v", got)
	}
}
