package gate

import (
	"maps"
	"slices"
	"time"
)

// mostMarks bounds the memory; the older half is then remembered half as finely.
const mostMarks = 512

// mark is where the topics of the sink's group ended at a moment or after it.
type mark struct {
	at time.Time // here, before the ends were read
	// through was known before the ends were read: what had committed at the source before it was in the topics by then, so it lies before the ends. Zero: unknown.
	through time.Time
	ends    map[Partition]int64
}

// marks turns offsets into times. When a group has dealt with everything before the ends of a mark, it has dealt with everything that was in its topics at that
// mark, whichever topic or partition it was in and in whatever order, and so with every source transaction before the mark's time through. No clock but the
// source's, and this side's own for elapsed time, takes part.
type marks struct {
	list   []mark // not passed yet, oldest first
	passed mark   // the newest that was, without its ends; zero: none yet
	done   map[Partition]int64
}

// add takes in one reading of the group: its ends, read after the mark's time, and what it had dealt with.
func (m *marks) add(next mark, done map[Partition]int64) {
	if !sameKeys(m.done, done) {
		// What was in a partition before the group was seen to read it, is in no mark.
		*m = marks{}
	}
	for p, was := range m.done {
		if done[p] < was {
			m.passed = mark{} // the sink was set back, and so will the replica be until it is here again
		}
	}
	m.done = done
	if n := len(m.list); n > 0 && maps.Equal(m.list[n-1].ends, next.ends) {
		if m.list[n-1].through.After(next.through) {
			next.through = m.list[n-1].through
		}
		m.list = m.list[:n-1] // nothing came in between, so the later times say more
	}
	m.list = append(m.list, next)
	for i := len(m.list) - 1; i >= 0; i-- {
		if m.covers(m.list[i]) {
			m.pass(m.list[:i+1])
			m.list = slices.Delete(m.list, 0, i+1)
			break
		}
	}
	if len(m.list) > mostMarks {
		m.thin()
	}
}

// covers tells whether everything before the ends has been dealt with.
func (m *marks) covers(k mark) bool {
	for p, end := range k.ends {
		if m.done[p] < end {
			return false
		}
	}
	return true
}

func (m *marks) pass(some []mark) {
	for _, k := range some {
		if k.at.After(m.passed.at) {
			m.passed.at = k.at
		}
		if k.through.After(m.passed.through) {
			m.passed.through = k.through
		}
	}
}

// thin leaves out every other mark of the older half: the one before is passed sooner, and claims less.
func (m *marks) thin() {
	half, kept := len(m.list)/2, m.list[:0]
	for i, k := range m.list {
		if i >= half || i%2 == 0 {
			kept = append(kept, k)
		}
	}
	clear(m.list[len(kept):])
	m.list = kept
}

// rewind forgets times of the source's clock that lie in its future: the clock was set back.
func (m *marks) rewind(now time.Time) {
	if m.passed.through.After(now) {
		m.passed.through = time.Time{}
	}
	for i := range m.list {
		if m.list[i].through.After(now) {
			m.list[i].through = time.Time{}
		}
	}
}

func sameKeys(a, b map[Partition]int64) bool {
	if len(a) != len(b) {
		return false
	}
	for p := range b {
		if _, ok := a[p]; !ok {
			return false
		}
	}
	return true
}
