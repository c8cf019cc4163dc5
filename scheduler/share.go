package scheduler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/trickle-verify/trickle/cursor"
)

const (
	followEvery = time.Second      // how often it is looked up what other publishers have to tell
	longestCut  = 30 * time.Second // that a publisher waits for others to cut their part of a table
)

// share is a part of the work that is ours.
type share struct {
	term   uint64
	stored cursor.State // tables of which no span was taken up yet
}

// follow finds out which shares are ours, takes up those that are new, leaves those that are gone at once, and hears what others have done.
func (s *Scheduler) follow(ctx context.Context, now time.Time) error {
	shares, err := s.store.Shares()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.shares = shares
	for n, h := range s.held {
		if shares.Mine[n] != h.term {
			s.leave(n)
			s.unsettled = true
		}
	}
	due := shares.Of > 1 && now.Sub(s.followed) >= followEvery
	s.mu.Unlock()
	for _, n := range slices.Sorted(maps.Keys(shares.Mine)) {
		if s.held[n] != nil {
			continue
		}
		err := s.load(ctx, n, shares.Mine[n])
		if errors.Is(err, cursor.ErrNotMine) {
			continue
		}
		if err != nil {
			return err
		}
		due = due || shares.Of > 1
	}
	if due {
		board, err := s.store.Follow(ctx)
		if err != nil {
			return err
		}
		s.mu.Lock()
		if board.Build.Set != "" && board.Build != s.board.Build && s.held[cursor.BoardShare] == nil {
			s.heard = now
		}
		s.board, s.followed, s.unsettled = board, now, true
		s.mu.Unlock()
	}
	return nil
}

// leave forgets a share that is another publisher's now; the lock is held.
func (s *Scheduler) leave(n int) {
	delete(s.held, n)
	for id := range s.spans {
		if id.share == n {
			delete(s.spans, id)
		}
	}
	if s.shares.Of > 1 {
		s.log.Info("a share of the work is given up", "share", n)
	}
}

// load takes up a share, unless what is stored there is about another source.
func (s *Scheduler) load(ctx context.Context, n int, term uint64) error {
	state, err := s.store.Load(ctx, n)
	if err != nil {
		return fmt.Errorf("loading the cursor: %w", err)
	}
	if state.Source != "" && state.Source != s.source {
		s.log.Warn("the cursor is about another source and is dropped", "source", s.source, "was", state.Source)
		change := cursor.Change{DroppedTables: storedNames(state), Samples: []cursor.Sample{}}
		if err := s.save(ctx, n, change); err != nil {
			return err
		}
		state = cursor.State{}
	}
	if state.Source == "" {
		if err := s.save(ctx, n, cursor.Change{Source: s.source}); err != nil {
			return err
		}
	}
	s.samples.recall(state.Samples)
	state.Samples = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[n], s.unsettled = &share{term: term, stored: state}, true
	if s.shares.Of > 1 {
		s.log.Info("a share of the work is taken up", "share", n, "shares", s.shares.Of)
	}
	return nil
}

// planOf returns the plan of a table in force, false when there is none yet; the lock is held.
func (s *Scheduler) planOf(name string) (cursor.Plan, bool) {
	if s.shares.Of <= 1 {
		return cursor.Whole(name), true
	}
	p, ok := s.board.Plans[name]
	return p, ok && p.Source == s.source
}

// settle makes spans of the plans in the shares that are ours, and drops what is stored there of tables that have gone or moved.
func (s *Scheduler) settle(ctx context.Context) error {
	s.mu.Lock()
	if !s.unsettled {
		s.mu.Unlock()
		return nil
	}
	for id, sp := range s.spans {
		if p, ok := s.planOf(id.table); ok && s.tables[id.table] != nil && p.Version == sp.plan.Version {
			continue
		}
		// What was stored of it is to be removed, by the span that takes its place, or else with the table.
		h := s.held[id.share]
		keep(&h.stored, sp)
		delete(s.spans, id)
	}
	for name, t := range s.tables {
		p, _ := s.planOf(name)
		for n, piece := range p.Spans {
			h := s.held[piece.Share]
			if h == nil || s.spans[spanID{piece.Share, name}] != nil {
				continue
			}
			sp := newSpan(t, p, n, h.stored)
			sp.begun = time.Now()
			if told, ok := s.board.Report(p, n); ok && sp.fresh { // it had begun, and what was stored of it is lost
				sp.state.Cycle = max(sp.state.Cycle, told.Cycle)
			}
			s.spans[sp.id()] = sp
			delete(h.stored.Tables, name)
			delete(h.stored.Ranges, name)
		}
	}
	drop := map[int][]string{}
	for n, h := range s.held {
		for _, name := range storedNames(h.stored) {
			if s.tables[name] != nil {
				if _, planned := s.planOf(name); !planned { // it may come back as it was
					continue
				}
			} else if why := h.stored.Tables[name].Paused; why != "" {
				s.told[name] = told{reason: why} // perhaps by a process before this one
			}
			drop[n] = append(drop[n], name)
		}
	}
	s.weigh()
	s.unsettled = false
	s.mu.Unlock()
	for _, n := range slices.Sorted(maps.Keys(drop)) {
		if err := s.save(ctx, n, cursor.Change{DroppedTables: drop[n]}); err != nil {
			s.mu.Lock()
			s.unsettled = true
			s.mu.Unlock()
			return err
		}
		s.mu.Lock()
		for _, name := range drop[n] {
			delete(s.held[n].stored.Tables, name)
			delete(s.held[n].stored.Ranges, name)
		}
		s.mu.Unlock()
	}
	return nil
}

// keep is the inverse of taking a span up.
func keep(stored *cursor.State, sp *span) {
	keepTable(stored, sp.state)
	if stored.Ranges == nil {
		stored.Ranges = map[string][]cursor.Range{}
	}
	stored.Ranges[sp.table.name] = append(slices.Clone(sp.chain), sp.stale...)
}

func keepTable(stored *cursor.State, t cursor.Table) {
	if stored.Tables == nil {
		stored.Tables = map[string]cursor.Table{}
	}
	stored.Tables[t.Name] = t
}

// weigh reckons which part of everybody's work is ours, by ranges; the lock is held.
func (s *Scheduler) weigh() {
	ours, all := 0, 0
	for name, t := range s.tables {
		if t.paused != "" {
			continue
		}
		p, _ := s.planOf(name)
		for n, piece := range p.Spans {
			ranges := s.ranges(p, n)
			all += ranges
			if s.held[piece.Share] != nil {
				ours += ranges
			}
		}
	}
	if s.part = 1; ours > 0 {
		s.part = float64(ours) / float64(all)
	}
}

// ranges is how many ranges a span has, or is likely to have; the lock is held.
func (s *Scheduler) ranges(p cursor.Plan, n int) int {
	if sp := s.spans[spanID{p.Spans[n].Share, p.Table}]; sp != nil && len(sp.chain) > 0 {
		return len(sp.chain)
	}
	if r, ok := s.board.Report(p, n); ok && r.Ranges > 0 {
		return r.Ranges
	}
	return max(1, int(p.Rows)/max(1, s.policy.RangeRows*len(p.Spans)))
}

// cut tells whether every span of a table is cut into ranges, so that messages can say how many there are. An owner who can't cut his keeps nobody
// waiting for long; the lock is held.
func (s *Scheduler) cut(sp *span, now time.Time) bool {
	if now.Sub(sp.begun) > longestCut {
		return true
	}
	for n, piece := range sp.plan.Spans {
		if own := s.spans[spanID{piece.Share, sp.table.name}]; own != nil {
			if len(own.chain) == 0 && own.failure == "" {
				return false
			}
		} else if _, ok := s.board.Report(sp.plan, n); !ok {
			return false
		}
	}
	return true
}

// over tells whether a cycle is over in every span of a table; the lock is held.
func (s *Scheduler) over(p cursor.Plan, cycle uint64) bool {
	for n, piece := range p.Spans {
		if sp := s.spans[spanID{piece.Share, p.Table}]; sp != nil {
			if sp.over() < cycle {
				return false
			}
			continue
		}
		if r, ok := s.board.Report(p, n); cycle > p.Cycle && (!ok || r.Cycle < cycle) {
			return false
		}
	}
	return true
}

// tell reports what others don't know of our spans yet: cycles that are over, and how many ranges there are.
func (s *Scheduler) tell(ctx context.Context) error {
	s.mu.Lock()
	var reports []cursor.Report
	for _, sp := range s.spans {
		if s.shares.Of <= 1 || sp.fresh {
			continue
		}
		now := sp.report()
		if told, ok := s.board.Report(sp.plan, sp.number); !ok || told.Cycle < now.Cycle || sp.idle() && told.Cycle == now.Cycle && told.Ranges != now.Ranges {
			reports = append(reports, now)
		}
	}
	s.mu.Unlock()
	if len(reports) == 0 {
		return nil
	}
	if err := s.store.Report(ctx, reports...); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.board.Take(reports...)
	return nil
}
