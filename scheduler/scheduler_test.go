package scheduler

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/message"
)

// After a restart no range is skipped and at most the one in flight is repeated.
func TestRestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.a": 7, "public.b": 5})
		f.took = time.Second
		store := new(cursor.Memory)
		for range 30 { // each life is killed in the middle of a scan
			_, stop := running(t, Config{Policy: parsed(t, "schedule: {cycle: 1h}\nquiet: 1s"), Scanner: f, Store: cursor.Sole{Single: store}})
			after(1500 * time.Millisecond)
			stop()
		}
		done := map[string]int{}
		for _, s := range f.seen() {
			if s.job.Cycle != 1 {
				t.Fatalf("cycle %d began before its time", s.job.Cycle)
			}
			done[fmt.Sprint(s.job.Table, s.job.Range.Bounds)]++
		}
		if len(done) != 12 {
			t.Errorf("%d of 12 ranges were scanned: %v", len(done), done)
		}
		for r, n := range done {
			if n > 2 {
				t.Errorf("%s was scanned %d times", r, n)
			}
		}
		state, err := store.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for table, ranges := range state.Ranges {
			if err := wholeChain(ranges); err != nil {
				t.Errorf("%s: %v", table, err)
			}
		}
		if len(state.Samples) == 0 {
			t.Error("no samples were stored")
		}
	})
}

func TestFurthestBehindFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.a": 4, "public.b": 2})
		f.took = time.Second
		running(t, Config{Policy: parsed(t, "schedule: {cycle: 1h}"), Scanner: f})
		after(time.Hour - time.Second)
		var order string
		for _, s := range f.seen() {
			order += s.job.Table[len("public."):]
		}
		if order != "abaaba" {
			t.Errorf("order %s", order)
		}
	})
}

// With less time than a cycle needs, a table that is done at once does not keep the others waiting.
func TestNoTableStarves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.a": 1, "public.b": 4})
		f.took = time.Second
		running(t, Config{Policy: parsed(t, "schedule: {cycle: 1s}"), Scanner: f})
		after(100 * time.Second)
		if a, b := f.count("public.a"), f.count("public.b"); a < 10 || b < 40 {
			t.Errorf("%d scans of the small table and %d of the large one", a, b)
		}
	})
}

func TestPausedTableStopsNoOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.bad": 3, "public.good": 3, "public.noplan": 0, "public.off": 3})
		f.paused["public.off"] = "it has no key"
		var mended atomic.Bool
		f.onJob = func(j Job) ([]cursor.Range, error) {
			if !mended.Load() && j.Table == "public.bad" {
				return nil, errors.New("column is gone")
			}
			return []cursor.Range{j.Range}, nil
		}
		s, _ := running(t, Config{Policy: parsed(t, "schedule: {cycle: 30s}"), Scanner: f})
		after(31 * time.Second)
		if n := f.count("public.good"); n < 3 {
			t.Errorf("the good table was scanned %d times", n)
		}
		if n := f.count("public.off"); n != 0 {
			t.Errorf("the paused table was scanned %d times", n)
		}
		if n := f.count("public.bad"); n < 3 || n > 7 {
			t.Errorf("the failing table was tried %d times in 31 s", n)
		}
		for i, want := range []string{"column is gone", "", "planning the ranges: no permission", "it has no key"} {
			if got := s.Status().Tables[i]; got.Paused != want {
				t.Errorf("%s is paused because of %q, want %q", got.Table, got.Paused, want)
			}
		}
		mended.Store(true)
		f.mu.Lock()
		f.paused["public.off"] = ""
		f.mu.Unlock()
		after(2 * time.Minute)
		if got := s.Status(); got.Tables[0].Paused != "" || got.Tables[0].Cycle == 0 || f.count("public.off") == 0 {
			t.Errorf("the tables did not come back by themselves: %+v", got.Tables)
		}
	})
}

func TestBrokenPiecesAreRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.a": 1})
		f.onJob = func(Job) ([]cursor.Range, error) { return cut(3)[:2], nil }
		s, _ := running(t, Config{Policy: parsed(t, ""), Scanner: f})
		after(time.Millisecond)
		if p := s.Status().Tables[0]; !strings.Contains(p.Paused, "hole") || p.Ranges != 1 {
			t.Errorf("%+v", p)
		}
	})
}

func TestComplete(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.a": 1})
		f.onJob = func(j Job) ([]cursor.Range, error) {
			r := j.Range
			if j.Complete {
				r.CompleteAt = time.Now()
			}
			return []cursor.Range{r}, nil
		}
		running(t, Config{Policy: parsed(t, "schedule: {cycle: 1h}\nmax_staleness: 150m"), Scanner: f})
		after(6*time.Hour + time.Minute)
		var got string
		for _, s := range f.seen() {
			got += map[bool]string{true: "C", false: "."}[s.job.Complete]
		}
		if got != "...C..C" {
			t.Errorf("complete scans: %s", got)
		}
	})
}

func TestAnotherSource(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := new(cursor.Memory)
		old := cut(2)
		for i := range old {
			old[i].Table, old[i].ID, old[i].Cycle = "public.a", uint64(i+1), 9
		}
		if err := store.Save(t.Context(), cursor.Change{Source: "other", Ranges: old, Samples: []cursor.Sample{{At: time.Now(), Xmin: 99}}}); err != nil {
			t.Fatal(err)
		}
		f := newFake(map[string]int{"public.a": 3})
		samples := new(Samples)
		running(t, Config{Policy: parsed(t, ""), Scanner: f, Store: cursor.Sole{Single: store}, Samples: samples})
		after(time.Millisecond)
		if s := f.seen(); len(s) != 1 || s[0].job.Ranges != 3 || s[0].job.Cycle != 1 {
			t.Errorf("scans: %+v", s)
		}
		if s, ok := samples.Before(time.Now()); !ok || s.Xmin != 1 {
			t.Errorf("sample %+v", s)
		}
	})
}

// A table that is gone leaves nothing behind.
func TestDroppedTable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := new(cursor.Memory)
		f := newFake(map[string]int{"public.a": 2, "public.b": 2})
		running(t, Config{Policy: parsed(t, "schedule: {cycle: 10s}"), Scanner: f, Store: cursor.Sole{Single: store}})
		after(10 * time.Second)
		f.mu.Lock()
		delete(f.tables, "public.b")
		f.mu.Unlock()
		after(time.Minute)
		state, err := store.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(state.Tables) != 1 || len(state.Ranges) != 1 {
			t.Errorf("stored: %v", state.Tables)
		}
	})
}

// flaky fails to save now and then.
type flaky struct {
	cursor.Memory
	n int
}

func (f *flaky) Save(ctx context.Context, c cursor.Change) error {
	if f.n++; f.n%3 == 0 && len(c.Ranges) > 0 {
		return errors.New("the broker is away")
	}
	return f.Memory.Save(ctx, c)
}

func TestStoreFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.a": 10})
		s, _ := running(t, Config{Policy: parsed(t, "schedule: {cycle: 1h}\nrate: {rows_per_second: 100000}"), Scanner: f, Store: cursor.Sole{Single: new(flaky)}})
		after(time.Hour - time.Second)
		if p := s.Status().Tables[0]; p.Done != 10 || p.Cycle != 1 {
			t.Errorf("%+v", p)
		}
	})
}

// Small neighbours grow together, and ranges that grew are cut.
func TestMergeAndSplit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := new(cursor.Memory)
		f := newFake(map[string]int{"public.a": 8})
		f.rows = 500
		s, _ := running(t, Config{Policy: parsed(t, "schedule: {cycle: 8s}\nrange_rows: 4000"), Scanner: f, Store: cursor.Sole{Single: store}})
		after(7900 * time.Millisecond)
		// Three of 500 are under half of 4000, four are not.
		if p := s.Status().Tables[0]; p.Ranges != 3 || p.Done != 3 {
			t.Errorf("after merging: %+v", p)
		}
		state, err := store.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := wholeChain(state.Ranges["public.a"]); err != nil {
			t.Error(err)
		}
		if f.count("") != 8 {
			t.Errorf("%d scans", f.count(""))
		}
		f.mu.Lock()
		f.rows = 4000
		f.onJob = func(j Job) ([]cursor.Range, error) {
			a, b := j.Range, j.Range
			if a.Bounds.Hi == nil && a.Bounds.Lo != nil {
				m := message.Key{a.Bounds.Lo[0] + ".5"}
				a.Bounds.Hi, b.Bounds.Lo = m, m
				a.Rows, b.Rows, a.Cycle, b.Cycle = 4000, 4000, j.Cycle, j.Cycle
				return []cursor.Range{a, b}, nil
			}
			a.Rows = 4000
			return []cursor.Range{a}, nil
		}
		f.mu.Unlock()
		after(8 * time.Second)
		if p := s.Status().Tables[0]; p.Ranges != 4 || p.Done != 4 || p.Cycle != 2 {
			t.Errorf("after the split: %+v", p)
		}
	})
}
