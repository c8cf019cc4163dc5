package scheduler

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/internal/testbed/meter"
)

func TestMetrics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.a": 10, "public.off": 3})
		f.took = time.Second
		f.paused["public.off"] = "it has no key"
		// A day's cycle that may run from midnight, when the clock of the test begins, until six. It is spread over these hours: a range every 36 minutes.
		s, _ := running(t, Config{Policy: parsed(t, "schedule: {cycle: 24h, windows: [{start: '0 0 * * *', for: 6h}]}"), Scanner: f})
		m := meter.New(t)
		if err := s.Observe(m); err != nil {
			t.Fatal(err)
		}
		after(3*time.Hour + time.Minute)
		n := float64(f.count("public.a"))
		if n < 4 || n > 6 {
			t.Fatalf("%v ranges were scanned in half of the time", n)
		}
		m.Wants(t, "half of the window", map[string]any{
			"trickle.scan.published.ranges{table=public.a}": n, "trickle.scan.rows{table=public.a}": 5000 * n, "trickle.scan.published{table=public.a}": 100 * n,
			"trickle.scan.source.time{table=public.a}": n, "trickle.scan.cycle{table=public.a}": 1, "trickle.scan.cycle.ranges{table=public.a}": 10,
			"trickle.scan.cycle.ranges.verified{table=public.a}": n, "trickle.scan.age{table=public.a}": "absent", "trickle.scan.paused{table=public.a}": 0,
			"trickle.scan.paused{table=public.off}": 1, "trickle.scan.cycle.ranges{table=public.off}": "absent", "trickle.scan.speed": 1, "trickle.scan.waiting{by=cycle}": 1,
			"trickle.scan.shares": 1, "trickle.scan.shares.held": 1,
		})
		got := m.Read(t)
		if e := got["trickle.scan.cycle.elapsed{table=public.a}"]; e < .49 || e > .51 {
			t.Errorf("%v of the cycle's open time is gone, want a half", e)
		}
		if w := got["trickle.scan.waited{by=cycle}"]; w < 2*3600 || w > 3.02*3600 {
			t.Errorf("it waited %v s for the cycle", w)
		}
		after(4 * time.Hour)
		got = m.Read(t)
		m.Wants(t, "after the window", map[string]any{
			"trickle.scan.waiting{by=window}": 1, "trickle.scan.waiting{by=cycle}": "absent", "trickle.scan.cycle.ranges.verified{table=public.a}": 10,
			"trickle.scan.published.ranges{table=public.a}": 10, "trickle.scan.cycle.elapsed{table=public.a}": 1,
		})
		if age := got["trickle.scan.age{table=public.a}"]; age < 6.9*3600 || age > 7.02*3600 {
			t.Errorf("the oldest range is %v s old", age)
		}
		if w := got["trickle.scan.waited{by=window}"]; w < 3600 || w > 3661 {
			t.Errorf("it waited %v s for the window", w)
		}
	})
}

// Progress never runs backwards while the spans of a table begin a cycle one after the other.
func TestProgressThroughTheBeginningOfACycle(t *testing.T) {
	t.Parallel()
	began := time.Unix(1000, 0)
	done := func(cycle uint64, ranges, done int) *span {
		return &span{state: cursor.Table{Cycle: cycle, Started: began.Add(time.Duration(cycle) * time.Hour)}, chain: make([]cursor.Range, ranges), done: done}
	}
	for _, c := range []struct {
		spans []*span
		want  Progress
	}{
		{[]*span{done(1, 4, 4), done(1, 6, 3)}, Progress{Cycle: 1, Done: 7, Ranges: 10}},
		{[]*span{done(1, 4, 4), done(1, 6, 6)}, Progress{Cycle: 1, Done: 10, Ranges: 10}},
		{[]*span{done(1, 4, 4), done(2, 6, 1)}, Progress{Cycle: 2, Done: 1, Ranges: 10}},
		{[]*span{done(2, 4, 2), done(2, 6, 1)}, Progress{Cycle: 2, Done: 3, Ranges: 10}},
	} {
		got := new(table).progress(c.spans)
		if got.Cycle != c.want.Cycle || got.Done != c.want.Done || got.Ranges != c.want.Ranges || !got.Started.Equal(began.Add(time.Duration(c.want.Cycle)*time.Hour)) {
			t.Errorf("%+v, want %+v", got, c.want)
		}
	}
}
