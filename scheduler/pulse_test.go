package scheduler

import (
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
