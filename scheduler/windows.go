package scheduler

import (
	"fmt"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/trickle-verify/trickle/policy"
)

// horizon is how far ahead windows are looked at: what stays open longer than this is open for good.
const horizon = 400 * 24 * time.Hour

// Windows tells when scanning is allowed. All of it is pure functions of the time asked about. The zero value is always open.
type Windows struct {
	windows []window
}

type window struct {
	opens cron.Schedule
	stays time.Duration
}

// NewWindows reads the policy's windows.
func NewWindows(from []policy.Window) (Windows, error) {
	var w Windows
	for i, p := range from {
		opens, err := p.Opens()
		if err != nil {
			return Windows{}, fmt.Errorf("schedule.windows[%d]: %w", i, err)
		}
		w.windows = append(w.windows, window{opens, time.Duration(p.For)})
	}
	return w, nil
}

// Open reports whether scanning is allowed at t. A window is open from its opening until, not including, its end.
func (w Windows) Open(t time.Time) bool {
	return len(w.windows) == 0 || w.closing(t).After(t)
}

// Next returns when Open changes after t; the zero time when it never does, as far as can be seen.
func (w Windows) Next(t time.Time) time.Time {
	if len(w.windows) == 0 {
		return time.Time{}
	}
	if !w.Open(t) {
		return w.opening(t)
	}
	for limit := t.Add(horizon); ; {
		end := w.closing(t)
		if !end.After(t) {
			return t
		}
		if end.After(limit) {
			return time.Time{}
		}
		t = end
	}
}

// Between returns for how long scanning is allowed from one time to another.
func (w Windows) Between(from, to time.Time) time.Duration {
	if len(w.windows) == 0 {
		return max(0, to.Sub(from))
	}
	var open time.Duration
	for t := from; t.Before(to); {
		if end := w.closing(t); end.After(t) {
			if end.After(to) {
				end = to
			}
			open += end.Sub(t)
			t = end
			continue
		}
		if t = w.opening(t); t.IsZero() {
			break
		}
	}
	return open
}

// opening is the first opening of any window after t, the zero time for none.
func (w Windows) opening(t time.Time) time.Time {
	var first time.Time
	for _, one := range w.windows {
		if next := one.opens.Next(t); !next.IsZero() && (first.IsZero() || next.Before(first)) {
			first = next
		}
	}
	return first
}

// closing is the latest end of the windows that are open at t, the zero time for none. A window may open again before it ends.
func (w Windows) closing(t time.Time) time.Time {
	var last time.Time
	for _, one := range w.windows {
		if end := one.latest(t).Add(one.stays); end.After(t) && end.After(last) {
			last = end
		}
	}
	return last
}

// latest is the window's last opening that is not after t and could still be open. It looks back in growing steps, since a cron expression
// only tells what comes next.
func (w window) latest(t time.Time) time.Time {
	for _, back := range []time.Duration{time.Minute, time.Hour, 24 * time.Hour, w.stays} {
		at := w.opens.Next(t.Add(-min(back, w.stays)))
		if at.IsZero() || at.After(t) {
			continue
		}
		for {
			next := w.opens.Next(at)
			if next.IsZero() || next.After(t) {
				return at
			}
			at = next
		}
	}
	return time.Time{}
}
