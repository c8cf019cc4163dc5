package scheduler

import (
	"maps"
	"slices"
	"time"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/message"
)

var everything message.Range //nolint:gochecknoglobals // from -infinity to +infinity: a constant that Go has no syntax for

// table is where the scan of one table stands.
type table struct {
	name   string
	state  cursor.Table
	chain  []cursor.Range // in key order; none: to be planned
	stale  []cursor.Range // stored ranges that are no part of the chain
	done   int            // ranges of the chain verified in this cycle
	from   int            // all ranges before it are done
	rows   uint64         // read in this cycle, since the start of the process
	paused string         // as discovered
	found  time.Time      // when it was discovered

	failure string // of the last try
	retry   time.Time
	delay   time.Duration
}

// newTable takes up what is stored about a table.
func newTable(name string, stored cursor.State) *table {
	t := &table{name: name, state: cursor.Table{Name: name}}
	if state, ok := stored.Tables[name]; ok {
		t.state = state
	}
	t.chain, t.stale = chainOf(stored.Ranges[name])
	for _, r := range t.chain { // ranges outlive a lost table record
		t.state.Cycle = max(t.state.Cycle, r.Cycle)
	}
	t.recount()
	return t
}

func (t *table) recount() {
	t.done, t.from = 0, 0
	for _, r := range t.chain {
		if t.verified(r) {
			t.done++
		}
	}
}

func (t *table) verified(r cursor.Range) bool { return t.state.Cycle > 0 && r.Cycle >= t.state.Cycle }

// begin starts with these ranges and this cycle.
func (t *table) begin(chain []cursor.Range, state cursor.Table) {
	if state.Cycle != t.state.Cycle {
		t.rows = 0
	}
	t.chain, t.state, t.stale = slices.Clone(chain), state, nil
	t.recount()
}

// first is the first range in key order that this cycle has yet to verify; there is one.
func (t *table) first() int {
	for t.verified(t.chain[t.from]) {
		t.from++
	}
	return t.from
}

// replace puts ranges in the place of those from lo to, not including, hi.
func (t *table) replace(lo, hi int, ranges []cursor.Range) {
	for _, r := range t.chain[lo:hi] {
		if t.verified(r) {
			t.done--
		}
	}
	for _, r := range ranges {
		if t.verified(r) {
			t.done++
		}
	}
	t.chain = slices.Replace(t.chain, lo, hi, ranges...)
	t.from = min(t.from, lo)
}

func (t *table) left() int { return len(t.chain) - t.done }

// ahead is the share of the cycle's ranges that are done less the share of its time that is gone: the table with the least is the furthest
// behind. A table that waits for its first or next cycle falls behind as well, yet no faster than the others, so that none starves another
// even when there is no time for all of them.
func (t *table) ahead(now time.Time, cycle time.Duration) float64 {
	since, done := t.state.Started, 0.0
	switch {
	case t.state.Cycle == 0:
		since = t.found
	case len(t.chain) > 0 && t.left() == 0:
		since = since.Add(cycle)
	case len(t.chain) > 0:
		done = float64(t.done) / float64(len(t.chain))
	}
	return done - now.Sub(since).Seconds()/cycle.Seconds()
}

// due is when the table may be scanned: at once while ranges are left, else when its next cycle begins, and not before its retry.
func (t *table) due(cycle time.Duration) time.Time {
	at := t.retry
	if t.state.Cycle > 0 && len(t.chain) > 0 && t.left() == 0 {
		if next := t.state.Started.Add(cycle); next.After(at) {
			at = next
		}
	}
	return at
}

// storedNames lists the tables that a state is about.
func storedNames(s cursor.State) []string {
	names := slices.AppendSeq(slices.Collect(maps.Keys(s.Tables)), maps.Keys(s.Ranges))
	slices.Sort(names)
	return slices.Compact(names)
}

// adopt takes ranges from the scanner in, once they are known to cover exactly what within covers.
func adopt(table string, ranges []cursor.Range, within message.Range, now time.Time) ([]cursor.Range, error) {
	if err := verifyChain(ranges, within); err != nil {
		return nil, err
	}
	out := slices.Clone(ranges)
	for i := range out {
		out[i].Table, out[i].ID = table, RangeID(out[i].Bounds)
		if out[i].CompleteAt.IsZero() {
			out[i].CompleteAt = now // max_staleness counts from the plan on: a new range is not overdue
		}
	}
	return out, nil
}

// without returns the ranges whose ids are not among those that stay.
func without(ranges, stay []cursor.Range) []cursor.Range {
	if len(ranges) == 0 {
		return nil
	}
	ids := make(map[uint64]bool, len(stay))
	for _, r := range stay {
		ids[r.ID] = true
	}
	var out []cursor.Range
	for _, r := range ranges {
		if !ids[r.ID] {
			out = append(out, r)
		}
	}
	return out
}
