package scheduler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/policy"
)

const (
	discoverEvery = 30 * time.Second
	firstRetry    = time.Second
	lastRetry     = time.Minute
)

// runOnce takes one step: it scans one range, or says until when there is nothing to do. Its error is about the source or the store as a
// whole; what is wrong with one table pauses that table.
func (s *Scheduler) runOnce(ctx context.Context) (Result, error) {
	now := time.Now()
	s.mu.Lock()
	look := s.discovered.IsZero() || now.Sub(s.discovered) >= discoverEvery
	windows := s.windows
	s.mu.Unlock()
	if err := s.follow(ctx, now); err != nil {
		return Result{}, err
	}
	if look {
		if err := s.discover(ctx, now); err != nil {
			return Result{}, err
		}
	}
	if err := errors.Join(s.settle(ctx), s.announce(ctx, now), s.note(ctx)); err != nil {
		return Result{}, err
	}
	if !windows.Open(now) {
		opens := windows.Next(now)
		if opens.IsZero() {
			opens = now.Add(horizon)
		}
		return Result{Until: earliest(opens, now.Add(discoverEvery)), By: ByWindow, Reason: "window closed until " + opens.Format(time.RFC3339)}, nil
	}
	s.measure(ctx, now)
	if planned, err := s.planNext(ctx, now); planned || err != nil {
		return Result{Scanned: planned}, err
	}
	if d := s.pace(); d.at.After(now) {
		return Result{Until: earliest(d.at, now.Add(loadEvery)), By: d.by, Reason: d.reason}, nil
	}
	sp, next := s.pick(now)
	if sp == nil {
		return next, nil
	}
	if cut, err := s.prepare(ctx, sp, now); err != nil {
		return s.fail(ctx, sp, err)
	} else if cut {
		return Result{Scanned: true}, nil // its table may have others that are to be cut first
	}
	return s.scan(ctx, sp)
}

// discover finds out which tables there are.
func (s *Scheduler) discover(ctx context.Context, now time.Time) error {
	found, err := s.scanner.Tables(ctx)
	if err != nil {
		return fmt.Errorf("finding the tables: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := map[string]bool{}
	for _, f := range found {
		known[f.Name] = true
		t := s.tables[f.Name]
		if t == nil {
			t = &table{name: f.Name, found: now}
			s.tables[f.Name] = t
		}
		t.paused = f.Paused
	}
	for name := range s.tables {
		if !known[name] {
			delete(s.tables, name)
		}
	}
	s.discovered, s.unsettled = now, true
	return nil
}

// note stores why tables are paused, for whoever reads the cursor.
func (s *Scheduler) note(ctx context.Context) error {
	s.mu.Lock()
	changes := map[int]*cursor.Change{}
	add := func(share int, t cursor.Table) {
		if changes[share] == nil {
			changes[share] = new(cursor.Change)
		}
		changes[share].Tables = append(changes[share].Tables, t)
	}
	for _, sp := range s.spans {
		if sp.state.Paused != sp.table.paused {
			state := sp.state
			state.Paused = sp.table.paused
			add(sp.share, state)
		}
	}
	if h := s.held[cursor.BoardShare]; h != nil { // a table that was never planned has no span to say so
		for name, t := range s.tables {
			_, planned := s.planOf(name)
			if state := h.stored.Tables[name]; !planned && state.Paused != t.paused {
				add(cursor.BoardShare, cursor.Table{Name: name, Paused: t.paused})
			}
		}
	}
	s.mu.Unlock()
	for _, share := range slices.Sorted(maps.Keys(changes)) {
		if err := s.save(ctx, share, *changes[share]); err != nil {
			return err
		}
		s.mu.Lock()
		for _, state := range changes[share].Tables {
			if sp := s.spans[spanID{share, state.Name}]; sp != nil {
				sp.state.Paused = state.Paused
			} else {
				keepTable(&s.held[share].stored, state)
			}
			if state.Paused != "" {
				s.log.Warn("a table is paused", "table", state.Name, "reason", state.Paused)
			}
		}
		s.mu.Unlock()
	}
	return nil
}

// measure asks how busy the source is, now and then and only where the policy wants to know.
func (s *Scheduler) measure(ctx context.Context, now time.Time) {
	s.mu.Lock()
	limits, asked := s.policy.Backoff, s.backoff.asked
	if s.meter == nil || limits == (policy.Backoff{}) {
		s.backoff = backoff{speed: 1}
		s.mu.Unlock()
		return
	}
	due := now.Sub(asked) >= loadEvery
	if due {
		s.backoff.asked = now
	}
	s.mu.Unlock()
	if !due {
		return
	}
	l, err := s.meter.SourceLoad(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.backoff.observe(limits, l, err)
}

func (s *Scheduler) pace() decision {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last.start.IsZero() {
		return decision{}
	}
	ofRate, ofTime := s.parts(time.Now())
	return s.backoff.hold(s.last, pace(s.last, s.policy, s.windows, obligations{s.loads, ofRate}), ofTime)
}

// pick finds the span that is furthest behind, or says when there may be one.
func (s *Scheduler) pick(now time.Time) (*span, Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cycle := time.Duration(s.policy.Schedule.Cycle)
	idle := Result{Until: s.discovered.Add(discoverEvery), By: ByIdle, Reason: "there is no table to scan"}
	switch {
	case len(s.held) == 0:
		idle.Reason = "no share of the work is this publisher's"
	case len(s.spans) == 0 && len(s.tables) > 0:
		idle.Reason = "no part of a table is this publisher's"
	}
	var best *span
	var first time.Time // when the first of those that are done or failed is due
	for _, id := range slices.SortedFunc(maps.Keys(s.spans), spanID.compare) {
		sp := s.spans[id]
		switch due := sp.due(cycle); {
		case sp.table.paused != "":
			idle.By, idle.Reason = ByPaused, "every table that is due is paused"
		case due.After(now):
			if first.IsZero() || due.Before(first) {
				first = due
			}
		case sp.idle() && !s.over(sp.plan, sp.state.Cycle):
			idle.By, idle.Reason = ByOthers, "waiting for the other publishers to end the cycle"
		case len(sp.chain) > 0 && !s.cut(sp, now):
			idle.By, idle.Reason = ByOthers, "waiting for the other publishers to cut their part of a table"
		case best == nil || sp.ahead(now, cycle) < best.ahead(now, cycle):
			best = sp
		}
	}
	if !first.IsZero() {
		idle.By, idle.Reason = ByIdle, "nothing is due: the next cycle or retry begins at "+first.Format(time.RFC3339)
		idle.Until = earliest(idle.Until, first)
	}
	return best, idle
}

// prepare makes sure that a span has ranges and a cycle in which some are left, and tells whether it had to cut it into ranges.
func (s *Scheduler) prepare(ctx context.Context, sp *span, now time.Time) (cut bool, err error) {
	s.mu.Lock()
	chain, stale, state, next := sp.chain, sp.stale, sp.state, sp.idle()
	s.mu.Unlock()
	var change cursor.Change
	if len(chain) == 0 {
		planned, err := s.scanner.Plan(ctx, sp.table.name, sp.bounds())
		if err != nil {
			return false, fmt.Errorf("planning the ranges: %w", err)
		}
		if chain, err = sp.adopt(planned, sp.bounds(), now); err != nil {
			return false, fmt.Errorf("planning the ranges: %w", err)
		}
		for i := range chain {
			chain[i].Cycle = 0
		}
		change.Ranges = chain
	}
	change.Removed = without(stale, chain)
	if next {
		state.Cycle, state.Started = state.Cycle+1, now
		change.Tables = []cursor.Table{state}
	}
	if len(change.Ranges)+len(change.Removed)+len(change.Tables) == 0 {
		return false, nil
	}
	if err := s.save(ctx, sp.share, change); err != nil {
		return false, err
	}
	s.mu.Lock()
	sp.begin(chain, state)
	s.mu.Unlock()
	return len(change.Ranges) > 0, s.tell(ctx)
}

// scan has one range scanned and remembers what came of it.
func (s *Scheduler) scan(ctx context.Context, sp *span) (Result, error) {
	s.mu.Lock()
	i := sp.first()
	r, target, stale := sp.chain[i], s.policy.RangeRows, time.Duration(s.policy.MaxStaleness)
	job := Job{Table: sp.table.name, Cycle: sp.state.Cycle, Range: r}
	for n := range sp.plan.Spans {
		job.Ranges += s.ranges(sp.plan, n)
	}
	s.mu.Unlock()

	start := time.Now()
	job.Complete = start.Sub(r.CompleteAt) > stale
	scanned, err := s.scanner.Scan(ctx, job)
	s.spend(job.Table, scanned)
	if err != nil {
		return s.fail(ctx, sp, err)
	}
	end := time.Now()
	if !s.owns(sp) {
		return Result{Scanned: true}, nil // whoever has it now scans the range again; that it was sent twice does no harm
	}
	if len(scanned.Ranges) == 1 {
		scanned.Ranges[0].Cycle = job.Cycle
	}
	ranges, err := sp.adopt(scanned.Ranges, r.Bounds, start)
	if err != nil {
		return s.fail(ctx, sp, err)
	}
	lo, hi := i, i+1
	if len(ranges) == 1 && i > 0 {
		if m, ok := merge(sp.chain[i-1], ranges[0], target); ok {
			ranges, lo = []cursor.Range{m}, i-1
		}
	}
	state := sp.state
	state.Digest = ranges[0].Digest
	change := cursor.Change{Ranges: ranges, Removed: without(sp.chain[lo:hi], ranges)}
	if state != sp.state {
		change.Tables = []cursor.Table{state}
	}
	if err := s.save(ctx, sp.share, change); err != nil {
		return Result{}, err
	}
	s.mu.Lock()
	sp.replace(lo, hi, ranges)
	sp.state, sp.trial = state, trial{}
	sp.rows += uint64(max(scanned.Rows, 0))
	s.remember(work{start, end, scanned.Rows, scanned.Bytes, scanned.SourceTime})
	idle := sp.idle()
	s.mu.Unlock()
	if idle {
		err = s.tell(ctx)
	}
	return Result{Scanned: true}, err
}

// owns tells whether a span is still ours.
func (s *Scheduler) owns(sp *span) bool {
	shares, err := s.store.Shares()
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.held[sp.share]
	return err == nil && h != nil && shares.Mine[sp.share] == h.term
}

// remember keeps what pacing goes by.
func (s *Scheduler) remember(w work) {
	if !s.last.start.IsZero() {
		const smooth = 30 // seconds
		dt := w.end.Sub(s.last.end).Seconds()
		s.rate += (float64(w.rows) - s.rate*dt) / (smooth + dt)
	}
	s.last, s.loads = w, s.loads[:0]
	for _, sp := range s.spans {
		if sp.table.paused != "" || sp.failure != "" {
			continue
		}
		if sp.fresh || len(sp.chain) == 0 { // how many ranges it has isn't known: begin with it before spreading anything
			s.loads = nil
			return
		}
		s.loads = append(s.loads, load{sp.left(), sp.state.Started})
	}
}

// fail pauses one span for a while. The context's own end is nobody's fault.
func (s *Scheduler) fail(ctx context.Context, sp *span, err error) (Result, error) {
	if ctx.Err() != nil {
		return Result{}, context.Cause(ctx)
	}
	s.mu.Lock()
	sp.failed(err, time.Now())
	delay, part := sp.delay, s.policy.Privacy.Key(sp.bounds().String())
	s.mu.Unlock()
	s.log.Warn("a table is paused", "table", sp.table.name, "range", part, "err", err, "retry_in", delay)
	return Result{Scanned: true}, nil
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
