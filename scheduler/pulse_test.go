package scheduler

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/telemetry/pulse"
)

// A scheduler that waits for its window, or whose source is away, is not stuck; one whose scan never comes back is.
func TestStuck(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		policy string
		scan   func(hung chan struct{}) // nil: as always
		stuck  bool
	}{
		"a window that is closed for months":  {policy: "schedule: {windows: [{start: '0 0 1 1 *', for: 1h}]}"},
		"at work":                             {policy: "schedule: {cycle: 1h}"},
		"a scan that waits for what is never": {policy: "schedule: {cycle: 1h}", scan: func(hung chan struct{}) { <-hung }, stuck: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFake(map[string]int{"public.a": 3})
				hung := make(chan struct{})
				if c.scan != nil {
					f.onJob = func(j Job) ([]cursor.Range, error) { c.scan(hung); return []cursor.Range{j.Range}, nil }
				}
				m := pulse.New(pulse.Bound)
				m.Started()
				_, stop := runningIn(m.In(t.Context()), t, Config{Policy: parsed(t, c.policy), Scanner: f})
				after(time.Hour)
				if s := m.State(); (len(s.Stuck) > 0) != c.stuck {
					t.Errorf("%+v", s)
				}
				close(hung)
				stop()
			})
		})
	}
}

// absent is a store whose broker goes away with the first sample that is saved: that, and whatever comes after it, waits.
type absent struct {
	cursor.Sole
	once *sync.Once
	away chan struct{}
}

func (a absent) Save(ctx context.Context, share int, c cursor.Change) error {
	if len(c.Samples) > 0 {
		a.once.Do(func() { close(a.away) })
	}
	select {
	case <-a.away:
		defer pulse.Away(ctx)()
		<-ctx.Done()
		return ctx.Err()
	default:
		return a.Sole.Save(ctx, share, c)
	}
}

// While a broker is away one waits in the store, and whoever else has something to save waits for that one: nobody is stuck. In real time, since who waits for a
// lock stops synctest's clock.
func TestAStoreThatIsAwayMakesNobodyStuck(t *testing.T) {
	t.Parallel()
	const bound = 2 * time.Second // the sampler rests for one
	m := pulse.New(bound)
	m.Started()
	store := absent{cursor.Sole{Single: new(cursor.Memory)}, new(sync.Once), make(chan struct{})}
	_, stop := runningIn(m.In(t.Context()), t, Config{Policy: parsed(t, "schedule: {cycle: 30s}\nquiet: 1s"), Scanner: newFake(map[string]int{"public.a": 60}), Store: store})
	<-store.away
	for began := time.Now(); time.Since(began) < 3*bound; time.Sleep(bound / 20) {
		if s := m.State(); len(s.Stuck) > 0 {
			t.Fatalf("%v of %v", s.Stuck, s.Loops)
		}
	}
	stop()
}
