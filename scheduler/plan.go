package scheduler

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"time"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/message"
)

const (
	lopsided = 3   // a span this many times as large as the mean calls for another plan
	grown    = 1.2 // once the table has this many times the rows that it had

	worthRanges = 4 // ranges that a span has at least, where a table is large enough for several
)

// planNext has one table planned that has no plan, or has outgrown it, and tells whether there was one. Only the owner of the first share plans:
// whatever another one might write there counts for nothing.
func (s *Scheduler) planNext(ctx context.Context, now time.Time) (bool, error) {
	s.mu.Lock()
	h, shares := s.held[cursor.BoardShare], s.shares.Of
	if h == nil || shares <= 1 {
		s.mu.Unlock()
		return false, nil
	}
	var gone []string
	for name := range s.board.Plans {
		if s.tables[name] == nil {
			gone = append(gone, name)
		}
	}
	var t *table
	var old cursor.Plan
	for _, name := range slices.Sorted(maps.Keys(s.tables)) {
		candidate := s.tables[name]
		if candidate.paused != "" || candidate.retry.After(now) {
			continue
		}
		p, planned := s.planOf(name)
		if !planned || s.outgrown(p) {
			t, old = candidate, s.board.Plans[name]
			break
		}
	}
	s.mu.Unlock()
	if len(gone) > 0 {
		slices.Sort(gone)
		if err := s.save(ctx, cursor.BoardShare, cursor.Change{DroppedPlans: gone}); err != nil {
			return false, err
		}
		s.mu.Lock()
		for _, name := range gone {
			delete(s.board.Plans, name)
		}
		s.mu.Unlock()
	}
	if t == nil {
		return false, nil
	}
	return true, s.plan(ctx, t, old)
}

// plan makes a table's next plan.
func (s *Scheduler) plan(ctx context.Context, t *table, old cursor.Plan) error {
	s.mu.Lock()
	shares, least, cycle := s.shares.Of, worthRanges*max(1, s.policy.RangeRows), time.Duration(s.policy.Schedule.Cycle)
	s.mu.Unlock()
	d, err := s.scanner.Divide(ctx, t.name, shares, least)
	if err == nil {
		err = covers(d.Pieces)
	}
	s.mu.Lock()
	if err != nil {
		if ctx.Err() == nil {
			t.failed(fmt.Errorf("planning the table: %w", err), time.Now())
			s.log.Warn("a table is paused", "table", t.name, "err", err, "retry_in", t.delay)
			err = nil
		}
		s.mu.Unlock()
		return err
	}
	p := cursor.Plan{Table: t.name, Version: s.version(t.name, old), Source: s.source, Shares: shares, Rows: d.Rows}
	if old.Source == s.source {
		if old.Shares == shares && float64(d.Rows) < grown*float64(old.Rows) { // a sample would cut it no better
			t.retry = time.Now().Add(cycle)
			s.mu.Unlock()
			return nil
		}
		p.Cycle = old.Cycle
		for n := range old.Spans {
			if r, ok := s.board.Report(old, n); ok {
				p.Cycle = max(p.Cycle, r.Cycle)
			}
		}
	}
	s.mu.Unlock()
	for n, piece := range d.Pieces {
		p.Spans = append(p.Spans, cursor.Span{Share: (home(t.name, shares) + n) % shares, Bounds: piece})
	}
	if err := s.save(ctx, cursor.BoardShare, cursor.Change{Plans: []cursor.Plan{p}}); err != nil {
		return err
	}
	s.log.Info("a table is shared out", "table", t.name, "parts", len(p.Spans), "rows", p.Rows, "plan", p.Version)
	s.mu.Lock()
	defer s.mu.Unlock()
	t.trial = trial{}
	s.board.Put(p)
	s.unsettled = true
	return nil
}

// version numbers a table's next plan by the time, so that no number comes back after a plan was dropped: what others hold of that one, or tell late, would be taken for
// part of the new one. The lock is held.
func (s *Scheduler) version(table string, old cursor.Plan) uint64 {
	v := max(old.Version+1, uint64(max(time.Now().Unix(), 0)))
	for _, r := range s.board.Reports[table] {
		v = max(v, r.Plan+1)
	}
	return v
}

// home is the share of a table's first span, so that small tables are spread over all shares.
func home(table string, shares int) int {
	h := fnv.New32a()
	h.Write([]byte(table))
	return int(h.Sum32() % uint32(shares))
}

// covers makes sure that pieces follow each other from -infinity to +infinity.
func covers(pieces []message.Range) error {
	ranges := make([]cursor.Range, len(pieces))
	for i, p := range pieces {
		ranges[i].Bounds = p
	}
	return verifyChain(ranges, everything)
}

// outgrown tells that a plan is no good any more: between two cycles, when there are more shares than it was made for, one span has got far larger
// than the others, or the table could do with more of them; the lock is held.
func (s *Scheduler) outgrown(p cursor.Plan) bool {
	var rows, most uint64
	for n := range p.Spans {
		r, ok := s.board.Report(p, n)
		if !ok || r.Cycle <= p.Cycle {
			return false // it has not been through once
		}
		rows, most = rows+r.Rows, max(most, r.Rows)
		if first, _ := s.board.Report(p, 0); first.Cycle != r.Cycle {
			return false
		}
	}
	if p.Shares != s.shares.Of {
		return true
	}
	if float64(rows) < grown*float64(p.Rows) {
		return false
	}
	worth := min(s.shares.Of, int(rows)/(worthRanges*max(1, s.policy.RangeRows)))
	return most > lopsided*rows/uint64(len(p.Spans)) || worth >= 2*len(p.Spans)
}
