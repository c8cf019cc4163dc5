package scheduler

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/message"
)

var everything message.Range //nolint:gochecknoglobals // from -infinity to +infinity: a constant that Go has no syntax for

// table is one that the policy names, as the source has it now.
type table struct {
	name   string
	paused string    // as discovered
	found  time.Time // when it was discovered
	trial            // of planning it
}

// trial is how often in a row something has failed, and when it is tried again.
type trial struct {
	failure string // of the last try
	retry   time.Time
	delay   time.Duration
}

func (t *trial) failed(err error, now time.Time) {
	t.delay = min(max(2*t.delay, firstRetry), lastRetry)
	t.retry, t.failure = now.Add(t.delay), err.Error()
}

// spanID names a span: a share holds at most one of a table.
type spanID struct {
	share int
	table string
}

func (i spanID) compare(o spanID) int {
	return cmp.Or(cmp.Compare(i.table, o.table), cmp.Compare(i.share, o.share))
}

// span is where the scan of one of our pieces of a table stands.
type span struct {
	table  *table
	share  int
	plan   cursor.Plan
	number int       // within the plan
	begun  time.Time // when we took it up
	fresh  bool      // nothing of this plan was stored: its first cycle is yet to begin
	state  cursor.Table
	chain  []cursor.Range // in key order; none: to be planned
	stale  []cursor.Range // stored ranges that are no part of the chain
	done   int            // ranges of the chain verified in this cycle
	from   int            // all ranges before it are done
	rows   uint64         // read in this cycle, since the start of the process
	trial
}

// newSpan takes up what is stored about a span.
func newSpan(t *table, p cursor.Plan, number int, stored cursor.State) *span {
	s := &span{table: t, share: p.Spans[number].Share, plan: p, number: number}
	state, ok := stored.Tables[t.name]
	if ok = ok && state.Plan == p.Version; ok {
		s.state = state
	} else {
		s.state = cursor.Table{Name: t.name, Plan: p.Version, Cycle: p.Cycle, Paused: state.Paused}
	}
	var ours []cursor.Range
	for _, r := range stored.Ranges[t.name] {
		if r.Plan == p.Version {
			ours = append(ours, r)
		} else {
			s.stale = append(s.stale, r)
		}
	}
	chain, stale := chainOf(ours, s.bounds())
	s.chain, s.stale = chain, append(s.stale, stale...)
	for _, r := range s.chain { // ranges outlive a lost table record
		s.state.Cycle = max(s.state.Cycle, r.Cycle)
	}
	s.fresh = s.state.Started.IsZero() && len(s.chain) == 0
	s.recount()
	return s
}

func (s *span) id() spanID { return spanID{s.share, s.table.name} }

func (s *span) bounds() message.Range { return s.plan.Spans[s.number].Bounds }

func (s *span) recount() {
	s.done, s.from = 0, 0
	for _, r := range s.chain {
		if s.verified(r) {
			s.done++
		}
	}
}

func (s *span) verified(r cursor.Range) bool { return s.state.Cycle > 0 && r.Cycle >= s.state.Cycle }

// begin starts with these ranges and this cycle.
func (s *span) begin(chain []cursor.Range, state cursor.Table) {
	if state.Cycle != s.state.Cycle {
		s.rows = 0
	}
	s.chain, s.state, s.stale, s.fresh = slices.Clone(chain), state, nil, false
	s.recount()
}

// first is the first range in key order that this cycle has yet to verify; there is one.
func (s *span) first() int {
	for s.verified(s.chain[s.from]) {
		s.from++
	}
	return s.from
}

// replace puts ranges in the place of those from lo to, not including, hi.
func (s *span) replace(lo, hi int, ranges []cursor.Range) {
	for _, r := range s.chain[lo:hi] {
		if s.verified(r) {
			s.done--
		}
	}
	for _, r := range ranges {
		if s.verified(r) {
			s.done++
		}
	}
	s.chain = slices.Replace(s.chain, lo, hi, ranges...)
	s.from = min(s.from, lo)
}

func (s *span) left() int { return len(s.chain) - s.done }

// idle tells that no cycle is under way: the last one is over, or the first has yet to begin.
func (s *span) idle() bool { return s.fresh || len(s.chain) > 0 && s.left() == 0 }

// over is the last cycle that is over in this span.
func (s *span) over() uint64 {
	if s.idle() {
		return s.state.Cycle
	}
	return max(s.state.Cycle, 1) - 1
}

// report is what others get to know.
func (s *span) report() cursor.Report {
	r := cursor.Report{Table: s.table.name, Plan: s.plan.Version, Span: s.number, Cycle: s.over(), Ranges: len(s.chain)}
	for _, c := range s.chain {
		r.Rows += c.Rows
	}
	return r
}

// ahead is the share of the cycle's ranges that are done less the share of its time that is gone: the span with the least is the furthest
// behind. One that waits for its first or next cycle falls behind as well, yet no faster than the others, so that none starves another
// even when there is no time for all of them.
func (s *span) ahead(now time.Time, cycle time.Duration) float64 {
	since, done := s.state.Started, 0.0
	switch {
	case s.fresh:
		since = s.table.found
	case s.idle():
		since = since.Add(cycle)
	case len(s.chain) > 0:
		done = float64(s.done) / float64(len(s.chain))
	}
	return done - now.Sub(since).Seconds()/cycle.Seconds()
}

// due is when the span may be scanned: at once while ranges are left, else when its next cycle begins, and not before its retry.
func (s *span) due(cycle time.Duration) time.Time {
	at := s.retry
	if s.idle() && !s.fresh {
		if next := s.state.Started.Add(cycle); next.After(at) {
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
func (s *span) adopt(ranges []cursor.Range, within message.Range, now time.Time) ([]cursor.Range, error) {
	if err := verifyChain(ranges, within); err != nil {
		return nil, err
	}
	out := slices.Clone(ranges)
	for i := range out {
		out[i].Table, out[i].ID, out[i].Plan = s.table.name, RangeID(out[i].Bounds), s.plan.Version
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
