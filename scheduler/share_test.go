package scheduler

import (
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/cursor"
)

func TestThreePublishersScanATableThreeTimesAsFast(t *testing.T) {
	t.Parallel()
	took := func(publishers int) (took time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(map[string]int{"public.a": 120})
			f.took, f.guess = time.Second, 9
			c := newCrew(t, f, "schedule: {cycle: 1s}")
			var crew []*member
			for range publishers {
				crew = append(crew, c.hire())
			}
			after(5 * time.Minute)
			times, _, last := f.cycle("public.a", 1)
			if len(times) != 120 {
				t.Errorf("%d of 120 ranges were scanned", len(times))
			}
			for r, n := range times {
				if n != 1 {
					t.Errorf("%s was scanned %d times", r, n)
				}
			}
			_, next, _ := f.cycle("public.a", 2)
			if next < last {
				t.Errorf("cycle 2 began after %s, when cycle 1 went on until %s", next, last)
			}
			for _, m := range crew {
				if own, _, _ := m.cycle("public.a", 1); len(own) != 120/publishers {
					t.Errorf("one publisher scanned %d ranges", len(own))
				}
			}
			for _, s := range f.seen() {
				if s.job.Ranges != 120 {
					t.Fatalf("a message says that there are %d ranges", s.job.Ranges)
				}
			}
			c.stored()
			took = next
		})
		return took
	}
	one, three := took(1), took(3)
	t.Logf("a cycle takes one publisher %s and three %s", one, three)
	if three > one/3+3*followEvery {
		t.Errorf("a cycle takes one publisher %s and three %s", one, three)
	}
}

// A publisher that dies is taken over: what it had verified isn't scanned again in that cycle, and nothing is left out of it.
func TestADeadPublisherIsTakenOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.a": 120, "public.b": 2, "public.c": 1})
		f.took = time.Second
		c := newCrew(t, f, "schedule: {cycle: 1s}")
		one, two, three := c.hire(), c.hire(), c.hire()
		after(15500 * time.Millisecond)
		two.stop()
		was := two.count("")
		after(10 * time.Second) // the session timeout
		two.leave()
		after(5 * time.Minute)
		if was == 0 || two.count("") != was {
			t.Fatalf("the dead one scanned %d ranges, then %d", was, two.count(""))
		}
		twice := 0
		for table, ranges := range f.tables {
			times, _, last := f.cycle(table, 1)
			if len(times) != ranges {
				t.Errorf("%d of %d ranges of %s were scanned in cycle 1", len(times), ranges, table)
			}
			for _, n := range times {
				twice += n - 1
			}
			if _, next, _ := f.cycle(table, 2); next < last {
				t.Errorf("cycle 2 of %s began after %s, when cycle 1 went on until %s", table, next, last)
			}
		}
		if twice > 1 {
			t.Errorf("%d ranges were scanned again; only the one in flight may be", twice)
		}
		if n := len(one.scheduler.Status().Mine) + len(three.scheduler.Status().Mine); n != 12 {
			t.Errorf("the two that are left have %d shares", n)
		}
		c.stored()
	})
}

// Publishers that come and go at any moment leave nothing out and do little twice.
func TestPublishersComeAndGo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.a": 96, "public.b": 30})
		f.took = 300 * time.Millisecond
		c := newCrew(t, f, "schedule: {cycle: 1s}")
		crew := []*member{c.hire()}
		moves := 0
		for i := range 20 {
			after(time.Duration(1+i%7) * 700 * time.Millisecond)
			if i%3 == 2 && len(crew) > 1 {
				crew[0].stop()
				crew[0].leave()
				crew = crew[1:]
			} else if len(crew) < 4 {
				crew = append(crew, c.hire())
			}
			moves++
		}
		after(5 * time.Minute)
		for table, ranges := range f.tables {
			for n := uint64(1); n <= 3; n++ {
				times, _, last := f.cycle(table, n)
				if len(times) != ranges {
					t.Errorf("%d of %d ranges of %s were scanned in cycle %d", len(times), ranges, table, n)
				}
				again := 0
				for _, n := range times {
					again += n - 1
				}
				if again > 4*moves {
					t.Errorf("%d ranges of %s were scanned again in cycle %d", again, table, n)
				}
				if _, next, _ := f.cycle(table, n+1); next < last {
					t.Errorf("cycle %d of %s began after %s, when the one before went on until %s", n+1, table, next, last)
				}
			}
		}
		c.stored()
	})
}

// The policy's ceilings are those of all publishers together, however the tables lie.
func TestCeilingsAreOfAllPublishersTogether(t *testing.T) {
	t.Parallel()
	for _, tables := range []map[string]int{{"public.a": 600}, {"public.a": 3}, {"public.a": 3, "public.b": 120}} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(tables)
			f.took = 10 * time.Millisecond
			c := newCrew(t, f, "schedule: {cycle: 1s}\nrate: {rows_per_second: 5000}")
			for range 3 {
				c.hire()
			}
			after(time.Minute)
			was := f.count("")
			after(10 * time.Minute)
			if n := f.count("") - was; n > 603 || n < 500 {
				t.Errorf("%v: %d ranges in 600 s, and a second of the ceiling is one", tables, n)
			}
		})
	}
}

// A table that outgrows its plan gets another one, and the old one leaves nothing behind.
func TestAGrowingTableIsSharedOutAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.a": 3})
		c := newCrew(t, f, "schedule: {cycle: 10s}")
		c.hire()
		c.hire()
		after(15 * time.Second)
		first := c.stored().Board.Plans["public.a"]
		if len(first.Spans) != 1 || first.Version == 0 {
			t.Fatalf("a table of three ranges is planned as %+v", first)
		}
		f.mu.Lock()
		f.tables["public.a"] = 240
		f.onJob = func(j Job) ([]cursor.Range, error) {
			r := j.Range
			r.Rows, r.VerifiedAt = 5000, time.Now()
			if r.Bounds.Hi != nil || r.Bounds.Lo != nil && number(r.Bounds.Lo) > 2 {
				return []cursor.Range{r}, nil
			}
			return slices.Clone(cut(240)[2:]), nil // it has grown at its end
		}
		f.mu.Unlock()
		after(time.Minute)
		state := c.stored()
		p := state.Board.Plans["public.a"]
		if len(p.Spans) != 12 || p.Version <= first.Version || p.Cycle == 0 {
			t.Errorf("a table of 240 ranges is planned as %+v", p)
		}
		if n := len(state.Ranges["public.a"]); n != 240 {
			t.Errorf("%d ranges are stored", n)
		}
		cycle := state.Tables["public.a"].Cycle
		after(30 * time.Second)
		if times, _, _ := f.cycle("public.a", cycle+1); len(times) != 240 {
			t.Errorf("%d of 240 ranges were scanned in a cycle", len(times))
		}
		if again := c.stored().Board.Plans["public.a"]; again.Version != p.Version {
			t.Errorf("it is planned again and again: version %d", again.Version)
		}
	})
}

// A table that is gone leaves nothing behind in any share, and one that can't be read says why.
func TestDroppedAndPausedTablesOfACrew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.a": 60, "public.b": 60, "public.off": 3})
		f.paused["public.off"] = "it has no key"
		c := newCrew(t, f, "schedule: {cycle: 10s}")
		c.hire()
		c.hire()
		after(20 * time.Second)
		if p := c.stored().Tables["public.off"].Paused; p != "it has no key" {
			t.Errorf("stored as paused because of %q", p)
		}
		f.mu.Lock()
		delete(f.tables, "public.b")
		f.paused["public.off"], f.paused["public.a"] = "", "no right to it"
		f.mu.Unlock()
		after(time.Minute)
		state := c.stored()
		if p := state.Tables["public.a"].Paused; p != "no right to it" {
			t.Errorf("stored as paused because of %q", p)
		}
		if len(state.Tables) != 2 || len(state.Ranges) != 2 || len(state.Board.Plans) != 2 || state.Tables["public.off"].Paused != "" {
			t.Errorf("stored: %v, plans %v", state.Tables, state.Board.Plans)
		}
		records, err := c.bus.Replay(t.Context(), "test.cursors")
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			if key := string(r.Key); slices.Contains([]string{"table/public.b", "plan/public.b"}, key) || len(key) > 8 && key[len(key)-8:] == "public.b" {
				t.Errorf("%s is left", key)
			}
		}
	})
}

func TestAPublisherWithoutAShareSaysSo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(t, newFake(map[string]int{"public.a": 60}), "schedule: {cycle: 10s}")
		for range 12 {
			c.hire()
		}
		idle := c.hire()
		after(30 * time.Second)
		if st := idle.scheduler.Status(); st.Waiting != "no share of the work is this publisher's" || st.Shares != 12 || len(st.Mine) != 0 || idle.count("") != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// A table that only the publisher who plans has missed for a while, as while it was made anew, is planned once more. What others still hold of the plan before is none of
// it: their spans would wait for as many cycles as it was old.
func TestATableThatWasMissedForAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.a": 60, "public.b": 60})
		c := newCrew(t, f, "schedule: {cycle: 10s}")
		crew := []*member{c.hire(), c.hire()}
		after(5 * time.Minute)
		planner := crew[slices.IndexFunc(crew, func(m *member) bool { return slices.Contains(m.scheduler.Status().Mine, cursor.BoardShare) })]
		miss := func(table string) {
			planner.mu.Lock()
			defer planner.mu.Unlock()
			planner.missed = table
		}
		miss("public.a")
		after(40 * time.Second)
		if p, ok := c.stored().Board.Plans["public.a"]; ok {
			t.Fatalf("it is still planned: %+v", p)
		}
		miss("")
		after(time.Minute)
		began := time.Since(f.began)
		after(40 * time.Second)
		covered := map[string]bool{}
		for _, s := range f.seen() {
			if s.job.Table == "public.a" && s.at > began {
				covered[s.job.Range.Bounds.String()] = true
			}
		}
		if len(covered) != 60 {
			t.Errorf("%d of 60 ranges were scanned in four cycles", len(covered))
		}
	})
}

// A publisher who can't cut his part of a table keeps the others from theirs for a while only.
func TestAPublisherWhoCannotCutHoldsNobodyUpForLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(t, newFake(map[string]int{"public.a": 60}), "schedule: {cycle: 1s}")
		c.hireAs(&fake{blunt: true})
		able := c.hire()
		after(longestCut - time.Second)
		if n := able.count(""); n != 0 {
			t.Errorf("%d ranges were scanned, and nobody could know how many there are", n)
		}
		after(longestCut)
		if times, _, _ := able.cycle("public.a", 1); len(times) != 30 {
			t.Errorf("%d ranges of 30 were scanned: %s", len(times), able.scheduler.Status().Waiting)
		}
	})
}

// What was being scanned when its share went to another is scanned by that one, and not saved by the first.
func TestAReadingOfAShareThatWentAwayIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.a": 60})
		f.took = 10 * time.Second
		c := newCrew(t, f, "schedule: {cycle: 1s}")
		first := c.hire()
		after(15 * time.Second)
		for range 11 {
			c.hire()
		}
		after(15 * time.Minute)
		times, _, _ := f.cycle("public.a", 1)
		if most := slices.Max(slices.Collect(maps.Values(times))); most != 2 {
			t.Errorf("no range was being scanned when its share went: each was %d times", most)
		}
		if n := first.store.vain.Load(); n != 0 {
			t.Errorf("%d readings were saved in vain", n)
		}
	})
}
