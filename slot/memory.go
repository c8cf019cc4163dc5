package slot

import (
	"slices"
	"sort"
	"time"

	"github.com/trickle-verify/trickle/postgres"
)

// mostTips bounds the memory: half an hour in full, and then ever more coarsely.
const mostTips = 2048

// memory is where the log ended at which time, oldest first; times and positions both only rise. It takes the clock to run forwards, or to be set back by more than
// the time between two looks, as whoever reads a heartbeat does.
type memory struct{ tips []postgres.Tip }

// add takes a tip in. What a failover or a clock that was set back makes untrue goes.
func (m *memory) add(t postgres.Tip) {
	if n := len(m.tips); n > 0 {
		last := m.tips[n-1]
		if last.Timeline == t.Timeline && last.LSN > t.LSN && last.At.After(t.At) {
			return // two looks at once, told in the wrong order
		}
		if last.Timeline != t.Timeline || last.LSN > t.LSN {
			m.tips = m.tips[:0] // another history of the log
		}
	}
	for n := len(m.tips); n > 0 && !m.tips[n-1].At.Before(t.At); n = len(m.tips) {
		m.tips = m.tips[:n-1] // the clock was set back: at that time, as it is told now, the log had not come so far
	}
	if n := len(m.tips); n > 0 && m.tips[n-1].LSN == t.LSN {
		m.tips[n-1] = t // nothing was logged in between, so the later time says more
		return
	}
	m.tips = append(m.tips, t)
	if len(m.tips) > mostTips {
		m.thin()
	}
}

// thin leaves out every other tip of the older half: a position between two that are left is then taken for the earlier one, which claims less.
func (m *memory) thin() {
	half := len(m.tips) / 2
	kept := m.tips[:0]
	for i, t := range m.tips {
		if i >= half || i%2 == 0 {
			kept = append(kept, t)
		}
	}
	m.tips = slices.Clip(kept)
}

// before gives the latest time such that everything that committed before it lies below the position; false: memory does not reach back so far.
func (m *memory) before(lsn uint64) (time.Time, bool) {
	i := sort.Search(len(m.tips), func(i int) bool { return m.tips[i].LSN > lsn })
	if i == 0 {
		return time.Time{}, false
	}
	return m.tips[i-1].At, true
}
