package keeper

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/telemetry/pulse"
	"github.com/trickle-verify/trickle/transport"
)

func TestFirstSetAndRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		k, _ := w.keeping(t, oneTable)
		after(5 * time.Minute)
		r := k.Status()
		if r == nil || r.Valid || r.Reason != "there is no complete set yet" || r.Building == nil || r.Building.Set != "s1" || r.Building.RowsTotal != 10 || r.Building.Waiting == "" {
			t.Fatalf("while the first is being built: %+v", r)
		}
		after(6 * time.Minute)
		w.lock(func() { w.log.Partitions[0].End += 42 })
		after(time.Minute)
		r = k.Status()
		if !r.Valid || r.Set != "s1" || r.Building != nil || r.Events != 42 || r.AgeSeconds == nil || *r.AgeSeconds < 700 || r.Expires == nil || r.RefreshDue == nil || r.Late != "" {
			t.Fatalf("once it is complete: %+v", r)
		}
		if w.got().builds != 1 || fmt.Sprint(w.got().announced) != "[s1]" || fmt.Sprint(w.got().pruned) != "[3]" {
			t.Errorf("%d builds, announced %v, pruned %v", w.got().builds, w.got().announced, w.got().pruned)
		}
		after(5*time.Hour + 47*time.Minute)
		if w.got().builds != 1 {
			t.Errorf("%d builds before the refresh is due", w.got().builds)
		}
		after(time.Minute + time.Second)
		if w.got().builds != 2 || k.Status().Building == nil {
			t.Errorf("%d builds when the refresh is due", w.got().builds)
		}
		after(11 * time.Minute)
		if r := k.Status(); r.Set != "s2" || fmt.Sprint(w.got().announced) != "[s1 s2]" {
			t.Errorf("%+v, announced %v", r, w.got().announced)
		}
		if w.count("there is no valid restore point") != 1 || w.count("there is a valid restore point again") != 1 {
			t.Error(w.lines())
		}
	})
}

// A view that is lost is told at once, once, and a set is built.
func TestAViewThatIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		k, _ := w.keeping(t, oneTable)
		after(time.Hour)
		w.lock(func() { w.log.Partitions[0] = transport.Extent{Start: 150, End: 200}; w.held = true })
		after(31 * time.Second)
		if r := k.Status(); r.Valid || !strings.Contains(r.Reason, "the log has expired") {
			t.Errorf("%+v", r)
		}
		after(time.Hour)
		if n := w.count("level=ERROR"); n != 2 { // no set at first, and now
			t.Errorf("told %d times:\n%s", n, w.lines())
		}
		w.lock(func() { w.held = false })
		after(11 * time.Minute)
		if r := k.Status(); !r.Valid || r.Set != "s2" {
			t.Errorf("%+v", r)
		}
	})
}

// A build that fails is tried again, ever later, and shown; nothing of the view that is there is touched.
func TestBuildsThatFail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.broken, w.took = errors.New("table public.t can't be read"), time.Second
		k, _ := w.keeping(t, oneTable)
		after(10 * time.Minute)
		r := k.Status()
		if r.Failure != "table public.t can't be read" || r.Failures < 4 || r.Failures > 6 || r.Retry == nil {
			t.Errorf("after ten minutes: %+v", r)
		}
		after(5 * time.Hour)
		was := w.got().builds
		after(5 * time.Hour)
		if n := w.got().builds - was; n < 9 || n > 11 {
			t.Errorf("%d builds in five hours", n)
		}
		if len(w.got().pruned)+len(w.got().announced) > 0 {
			t.Errorf("announced %v, pruned %v", w.got().announced, w.got().pruned)
		}
		w.lock(func() { w.broken = nil })
		after(time.Hour)
		if r := k.Status(); !r.Valid || r.Failures != 0 || r.Failure != "" || r.Retry != nil {
			t.Errorf("once it works: %+v", r)
		}
	})
}

// A store that is away for a moment changes nothing; one that stays away leaves no restore point.
func TestAStoreThatIsAway(t *testing.T) {
	t.Parallel()
	for _, lose := range []func(w *world, err error){
		func(w *world, err error) { w.away = err },
		func(w *world, err error) { w.blind = err },
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			k, _ := w.keeping(t, oneTable)
			after(time.Hour)
			w.lock(func() { lose(w, errors.New("no route to host")) })
			after(4 * time.Minute)
			if r := k.Status(); !r.Valid || r.Trouble != "no route to host" {
				t.Errorf("after four minutes: %+v", r)
			}
			after(10 * time.Hour)
			if r := k.Status(); r.Valid || !strings.Contains(r.Reason, "no route to host") {
				t.Errorf("after ten hours: %+v", r)
			}
			if w.got().builds != 1 || w.count("level=WARN") != 1 {
				t.Errorf("%d builds\n%s", w.got().builds, w.lines())
			}
			w.lock(func() { lose(w, nil) })
			after(time.Hour)
			if r := k.Status(); !r.Valid || r.Set != "s2" || r.Trouble != "" {
				t.Errorf("when it is back: %+v", r)
			}
		})
	}
}

// Whoever leads builds, another takes over, and the one that lost the lead stops at once.
func TestAnotherTakesOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		k, _ := w.keeping(t, oneTable)
		after(5 * time.Minute)
		w.lock(func() { w.leads = false })
		after(2 * time.Second)
		if w.got().stopped != 1 || k.Status() != nil || w.got().closed != 1 {
			t.Errorf("%d stopped, status %+v, closed %d", w.got().stopped, k.Status(), w.got().closed)
		}
		told := len(w.got().told)
		after(time.Hour)
		if w.got().builds != 1 || len(w.got().told) != told {
			t.Errorf("%d builds, told %d times", w.got().builds, len(w.got().told)-told)
		}
		w.lock(func() { w.leads = true })
		after(11 * time.Minute)
		if r := k.Status(); r == nil || !r.Valid || r.Failures != 0 {
			t.Errorf("%+v", r)
		}
	})
}

func TestAnotherPolicy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		k, stop := w.keeping(t, oneTable)
		after(5 * time.Minute)
		k.SetPolicy(parsed(t, "tables: [{table: public.t}, {table: public.u}]"))
		after(12 * time.Minute)
		if w.got().builds != 2 || w.got().stopped != 1 || w.got().tables[1] != "public.u" || !k.Status().Valid {
			t.Errorf("%d builds, %d stopped, of %v", w.got().builds, w.got().stopped, w.got().tables)
		}
		k.SetPolicy(parsed(t, "tables: [{table: public.t}, {table: public.u}]\nrate: {rows_per_second: 7}"))
		after(time.Hour)
		if w.got().builds != 2 {
			t.Errorf("%d builds where nothing about the sets has changed", w.got().builds)
		}
		k.SetPolicy(parsed(t, oneTable))
		after(12 * time.Minute)
		if w.got().builds != 3 {
			t.Errorf("%d builds where a table was taken out", w.got().builds)
		}
		none := parsed(t, oneTable)
		none.Baseline.URL = ""
		k.SetPolicy(none)
		after(12 * time.Hour)
		if w.got().builds != 3 || k.Status() != nil {
			t.Errorf("%d builds without a view, status %+v", w.got().builds, k.Status())
		}
		k.SetPolicy(parsed(t, oneTable))
		after(5 * time.Minute)
		if w.got().builds != 4 {
			t.Errorf("%d builds once there is one again", w.got().builds)
		}
		stop() // in the middle of a build
		if w.got().stopped != 2 {
			t.Errorf("%d builds stopped", w.got().stopped)
		}
	})
}

// The ceilings hold even where the view expires meanwhile, and that is told: before it happens.
func TestCeilingsThatAreTooLow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.log.Retention.Time, w.pieces = 10*time.Hour, 1000
		k, _ := w.keeping(t, oneTable)
		after(time.Hour)
		w.lock(func() { w.took = 8 * time.Hour })
		after(5 * time.Hour) // half of what the topics keep has passed
		r := k.Status()
		if !r.Valid || r.Building == nil || !strings.Contains(r.Late, "ready at about") {
			t.Errorf("%+v", r)
		}
		if n := w.count("expires before it can be refreshed"); n != 1 {
			t.Errorf("told %d times", n)
		}
		w.lock(func() { w.log.Partitions[0] = transport.Extent{Start: 101, End: 200} })
		after(7 * time.Hour)
		if w.got().builds != 2 {
			t.Errorf("%d builds: the one that is late goes on", w.got().builds)
		}
	})
}

// A set that the logs have lost by the time it is complete is no restore point, and nothing older goes for it.
func TestASetThatTookTooLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		k, _ := w.keeping(t, oneTable)
		after(5 * time.Minute)
		w.lock(func() { w.log.Partitions[0] = transport.Extent{Start: 101, End: 200} })
		after(6 * time.Minute)
		if r := k.Status(); r.Valid || !strings.Contains(r.Failure, "is no restore point now that it is complete") {
			t.Errorf("%+v", r)
		}
		if len(w.got().pruned)+len(w.got().announced) > 0 {
			t.Errorf("announced %v, pruned %v", w.got().announced, w.got().pruned)
		}
	})
}

func TestASetOfAnotherSource(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.sets = []*baseline.Manifest{{Set: "s0", Source: "8/shop", Begun: time.Now(), Completed: time.Now(), Positions: []baseline.Point{{Taken: time.Now()}}}}
		k, _ := w.keeping(t, oneTable)
		after(5 * time.Minute)
		if r := k.Status(); r.Valid || !strings.Contains(r.Reason, "source 8/shop") || r.Building == nil {
			t.Errorf("%+v", r)
		}
	})
}

func TestASetThatIsDamaged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.damaged = true
		w.sets = []*baseline.Manifest{{Set: "s0", Source: "7/shop"}}
		k, _ := w.keeping(t, oneTable)
		after(5 * time.Minute)
		if r := k.Status(); r.Valid || !strings.Contains(r.Reason, "cut off") || r.Building == nil {
			t.Errorf("%+v", r)
		}
	})
}

// A set of which an object was removed by somebody else is no restore point, which is found out within the hour, and another is built.
func TestASetOfWhichAnObjectIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		k, _ := w.keeping(t, oneTable)
		after(20 * time.Minute)
		if r := k.Status(); !r.Valid {
			t.Fatalf("%+v", r)
		}
		w.lock(func() { w.lost = w.sets[0].Set })
		after(time.Hour)
		if r := k.Status(); r.Valid && r.Set == w.lost || !strings.Contains(w.lines(), "it is missing") {
			t.Errorf("%+v", r)
		}
		after(20 * time.Minute)
		if r := k.Status(); !r.Valid || r.Set == w.lost {
			t.Errorf("%+v", r)
		}
	})
}

// A store that takes its time, with removing old sets above all, makes no keeper stuck.
func TestAStoreThatTakesItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.slow, w.monitor = 10*time.Minute, pulse.New(pulse.Bound)
		w.monitor.Started()
		_, stop := w.keeping(t, oneTable)
		watch := func(d time.Duration) {
			for range int(d / time.Minute) {
				after(time.Minute)
				if s := w.monitor.State(); len(s.Stuck) > 0 {
					t.Fatalf("%v", s.Stuck)
				}
			}
		}
		watch(20 * time.Hour)
		w.lock(func() { w.leads = false })
		watch(time.Hour)
		if d := w.got(); len(d.pruned) < 2 || d.closed == 0 {
			t.Errorf("old sets were removed %d times, and the store was closed %d times", len(d.pruned), d.closed)
		}
		stop()
	})
}

// While the policy has no base-line view, a keeper is none of the loops that somebody would look at.
func TestALoopOnlyWithAView(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.monitor = pulse.New(pulse.Bound)
		k, stop := w.keeping(t, oneTable)
		with := parsed(t, oneTable)
		without := *with
		without.Baseline.URL = ""
		for i, p := range []*policy.Policy{&without, with} {
			k.SetPolicy(p)
			after(time.Minute)
			if s := w.monitor.State(); len(s.Loops) != i {
				t.Errorf("with baseline.url %q the loops are %v", p.Baseline.URL, s.Loops)
			}
		}
		stop()
	})
}
