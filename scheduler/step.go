package scheduler

import (
	"context"
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
	if look {
		if err := s.discover(ctx, now); err != nil {
			return Result{}, err
		}
	}
	if !windows.Open(now) {
		opens := windows.Next(now)
		if opens.IsZero() {
			opens = now.Add(horizon)
		}
		return Result{Until: earliest(opens, now.Add(discoverEvery)), Reason: "window closed until " + opens.Format(time.RFC3339)}, nil
	}
	s.measure(ctx, now)
	if d := s.pace(); d.at.After(now) {
		return Result{Until: earliest(d.at, now.Add(loadEvery)), Reason: d.reason}, nil
	}
	t, next := s.pick(now)
	if t == nil {
		return next, nil
	}
	if err := s.prepare(ctx, t, now); err != nil {
		return s.fail(ctx, t, err)
	}
	return s.scan(ctx, t)
}

// discover brings the tables up to date with the source.
func (s *Scheduler) discover(ctx context.Context, now time.Time) error {
	found, err := s.scanner.Tables(ctx)
	if err != nil {
		return fmt.Errorf("finding the tables: %w", err)
	}
	s.mu.Lock()
	known := map[string]bool{}
	var change cursor.Change
	for _, f := range found {
		known[f.Name] = true
		t := s.tables[f.Name]
		if t == nil {
			t = newTable(f.Name, s.stored)
			t.found = now
			s.tables[f.Name] = t
		}
		t.paused = f.Paused
		if state := t.state; state.Paused != f.Paused {
			state.Paused = f.Paused
			change.Tables = append(change.Tables, state)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.tables)) {
		if !known[name] {
			change.DroppedTables = append(change.DroppedTables, name)
		}
	}
	for _, name := range storedNames(s.stored) {
		if !known[name] && s.tables[name] == nil {
			change.DroppedTables = append(change.DroppedTables, name)
		}
	}
	s.mu.Unlock()
	if len(change.DroppedTables)+len(change.Tables) > 0 {
		if err := s.save(ctx, change); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range change.DroppedTables {
		delete(s.tables, name)
	}
	for _, state := range change.Tables {
		s.tables[state.Name].state.Paused = state.Paused
		if state.Paused != "" {
			s.log.Warn("a table is paused", "table", state.Name, "reason", state.Paused)
		}
	}
	s.stored = cursor.State{}
	s.discovered = now
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
	s.mu.Unlock()
	if now.Sub(asked) < loadEvery {
		return
	}
	l, err := s.meter.SourceLoad(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.backoff.asked = now
	s.backoff.observe(limits, l, err)
}

func (s *Scheduler) pace() decision {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last.start.IsZero() {
		return decision{}
	}
	return s.backoff.hold(s.last, pace(s.last, s.policy, s.windows, s.loads))
}

// pick finds the table that is furthest behind, or says when there may be one.
func (s *Scheduler) pick(now time.Time) (*table, Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cycle := time.Duration(s.policy.Schedule.Cycle)
	idle := Result{Until: s.discovered.Add(discoverEvery), Reason: "there is no table to scan"}
	var best *table
	var first time.Time // when the first of the tables that are done or failed is due
	for _, name := range slices.Sorted(maps.Keys(s.tables)) {
		t := s.tables[name]
		switch due := t.due(cycle); {
		case t.paused != "":
			idle.Reason = "every table that is due is paused"
		case due.After(now):
			if first.IsZero() || due.Before(first) {
				first = due
			}
		case best == nil || t.ahead(now, cycle) < best.ahead(now, cycle):
			best = t
		}
	}
	if !first.IsZero() {
		idle.Reason = "nothing is due: the next cycle or retry begins at " + first.Format(time.RFC3339)
		idle.Until = earliest(idle.Until, first)
	}
	return best, idle
}

// prepare makes sure that a table has ranges and a cycle in which some are left.
func (s *Scheduler) prepare(ctx context.Context, t *table, now time.Time) error {
	s.mu.Lock()
	chain, stale, state := t.chain, t.stale, t.state
	done := len(chain) > 0 && t.left() == 0
	s.mu.Unlock()
	var change cursor.Change
	if len(chain) == 0 {
		planned, err := s.scanner.Plan(ctx, t.name)
		if err != nil {
			return fmt.Errorf("planning the ranges: %w", err)
		}
		if chain, err = adopt(t.name, planned, everything, now); err != nil {
			return fmt.Errorf("planning the ranges: %w", err)
		}
		for i := range chain {
			chain[i].Cycle = 0
		}
		change.Ranges = chain
	}
	change.Removed = without(stale, chain)
	if state.Cycle == 0 || done {
		state.Cycle, state.Started = state.Cycle+1, now
		change.Tables = []cursor.Table{state}
	}
	if len(change.Ranges)+len(change.Removed)+len(change.Tables) == 0 {
		return nil
	}
	if err := s.save(ctx, change); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.begin(chain, state)
	return nil
}

// scan has one range scanned and remembers what came of it.
func (s *Scheduler) scan(ctx context.Context, t *table) (Result, error) {
	s.mu.Lock()
	i := t.first()
	r, target, stale := t.chain[i], s.policy.RangeRows, time.Duration(s.policy.MaxStaleness)
	job := Job{Table: t.name, Cycle: t.state.Cycle, Ranges: len(t.chain), Range: r}
	s.mu.Unlock()

	start := time.Now()
	job.Complete = start.Sub(r.CompleteAt) > stale
	scanned, err := s.scanner.Scan(ctx, job)
	if err != nil {
		return s.fail(ctx, t, err)
	}
	end := time.Now()
	if len(scanned.Ranges) == 1 {
		scanned.Ranges[0].Cycle = job.Cycle
	}
	ranges, err := adopt(t.name, scanned.Ranges, r.Bounds, start)
	if err != nil {
		return s.fail(ctx, t, err)
	}
	lo, hi := i, i+1
	if len(ranges) == 1 && i > 0 {
		if m, ok := merge(t.chain[i-1], ranges[0], target); ok {
			ranges, lo = []cursor.Range{m}, i-1
		}
	}
	state := t.state
	state.Digest = ranges[0].Digest
	change := cursor.Change{Ranges: ranges, Removed: without(t.chain[lo:hi], ranges)}
	if state != t.state {
		change.Tables = []cursor.Table{state}
	}
	if err := s.save(ctx, change); err != nil {
		return Result{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.replace(lo, hi, ranges)
	t.state, t.retry, t.delay, t.failure = state, time.Time{}, 0, ""
	t.rows += uint64(max(scanned.Rows, 0))
	s.remember(work{start, end, scanned.Rows, scanned.Bytes, scanned.SourceTime})
	return Result{Scanned: true}, nil
}

// remember keeps what pacing goes by.
func (s *Scheduler) remember(w work) {
	if !s.last.start.IsZero() {
		const smooth = 30 // seconds
		dt := w.end.Sub(s.last.end).Seconds()
		s.rate += (float64(w.rows) - s.rate*dt) / (smooth + dt)
	}
	s.last, s.loads = w, s.loads[:0]
	for _, t := range s.tables {
		if t.paused != "" || t.failure != "" {
			continue
		}
		if t.state.Cycle == 0 { // how many ranges it has isn't known: begin with it before spreading anything
			s.loads = nil
			return
		}
		s.loads = append(s.loads, load{t.left(), t.state.Started})
	}
}

// fail pauses one table for a while. The context's own end is nobody's fault.
func (s *Scheduler) fail(ctx context.Context, t *table, err error) (Result, error) {
	if ctx.Err() != nil {
		return Result{}, context.Cause(ctx)
	}
	s.mu.Lock()
	t.delay = min(max(2*t.delay, firstRetry), lastRetry)
	t.retry, t.failure = time.Now().Add(t.delay), err.Error()
	delay := t.delay
	s.mu.Unlock()
	s.log.Warn("a table is paused", "table", t.name, "err", err, "retry_in", delay)
	return Result{Scanned: true}, nil
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
