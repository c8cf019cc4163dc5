package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed/cdc"
	"github.com/trickle-verify/trickle/internal/testbed/workload"
	"github.com/trickle-verify/trickle/ledger"
)

// phase is one part of the story.
type phase struct {
	name  string
	share float64 // of the demo's duration that it lasts at least
	play  func(*story, context.Context) error
}

func phases() []phase {
	return []phase{
		{"build two servers, a broker and CDC between them", 0, (*story).replicate},
		{"verify while nothing is wrong", 0.20, (*story).clean},
		{"scatter a little drift: rows are corrected one by one", 0.25, (*story).scatter},
		{"spoil one neighbourhood: a partial resync", 0.20, (*story).spoilNeighbourhood},
		{"spoil a whole table: a full resync", 0.20, (*story).spoilTable},
		{"stop the load and compare everything", 0, (*story).prove},
	}
}

// How much is made wrong.
const scatterRounds = 3

func scattered() workload.Drift       { return workload.Drift{Missing: 10, Mismatched: 10, Extra: 10} } // a round
func inNeighbourhood() workload.Drift { return workload.Drift{Missing: 40, Mismatched: 40, Extra: 30} }
func inTable() workload.Drift         { return workload.Drift{Missing: 600, Mismatched: 400, Extra: 200} }

// production is what a story needs besides its own parts.
type production struct {
	options Options
	work    *workspace
	board   *board
}

// story is a demo that is being played.
type story struct {
	production
	fail     context.CancelCauseFunc
	rig      *rig
	book     *book
	watcher  *watcher
	stops    []func() // of what runs, in the order it was started
	stopLoad func()
	result   Result
}

// play goes through the phases. What was started is stopped when it returns, also after an error.
func play(ctx context.Context, fail context.CancelCauseFunc, p production) (_ Result, err error) {
	s := &story{production: p, fail: fail, book: newBook()}
	defer func() {
		if ctx.Err() != nil {
			err = ended(ctx) // what it made fail says nothing
		}
		err = errors.Join(err, s.stop(ctx))
	}()
	for i, ph := range phases() {
		p.board.phase(i+1, ph.name)
		begin := time.Now()
		if err := ph.play(s, ctx); err != nil {
			return s.result, err
		}
		rest := time.Duration(ph.share*float64(p.options.Duration)) - time.Since(begin)
		if err := sleep(ctx, rest); err != nil {
			return s.result, err
		}
	}
	return s.result, nil
}

func (s *story) stop(ctx context.Context) error {
	s.stopRunning()
	if s.rig == nil {
		return nil
	}
	if err := s.rig.stop(ctx); err != nil {
		return fmt.Errorf("stopping the servers: %w", err)
	}
	return nil
}

func (s *story) stopRunning() {
	for i := len(s.stops) - 1; i >= 0; i-- {
		s.stops[i]()
	}
	s.stops = nil
}

// cycle is how long one pass over everything takes.
func (s *story) cycle() time.Duration {
	return min(max(s.options.Duration*8/60, 5*time.Second), 30*time.Second).Round(100 * time.Millisecond)
}

// patience is how long a phase waits for what must happen: two passes, and what a slow machine needs.
func (s *story) patience() time.Duration { return 2*s.cycle() + time.Minute }

func (s *story) replicate(ctx context.Context) (err error) {
	file, err := s.work.policy(s.cycle())
	if err != nil {
		return err
	}
	if s.rig, err = newRig(ctx, s.work.log, s.options.Rows); err != nil {
		return err
	}
	s.watcher = &watcher{pool: s.rig.pool, ledger: ledger.New(s.rig.pool, pipeline), book: s.book, writes: s.rig.writer.Writes}
	s.start(ctx, []part{{"the view", func(ctx context.Context) error { return s.watcher.run(ctx, s.board, s.work.log) }}})
	s.board.event("%d rows in %d tables, copied to the replica", s.options.Rows, len(workload.Tables()))
	s.start(ctx, s.rig.replication())
	s.stopLoad = s.start(ctx, s.rig.load())
	s.board.event("the load begins: %d statements a second", writesPerSecond)
	s.start(ctx, s.rig.trickle(file, page{s.options.Listen, s.board.page}))
	return s.await(ctx, "the consumer began to verify", func(st State) bool { return st.Gate.Open && len(st.Tables) == len(workload.Tables()) })
}

// start runs parts until the story ends or the returned function is called.
func (s *story) start(ctx context.Context, parts []part) (stop func()) {
	stop = start(ctx, s.fail, parts)
	s.stops = append(s.stops, stop)
	return stop
}

// await waits for something that must happen, and notes when it does not.
func (s *story) await(ctx context.Context, what string, met func(State) bool) error {
	ok, err := s.board.await(ctx, s.patience(), met)
	if err == nil && !ok {
		s.result.unmet = append(s.result.unmet, fmt.Sprintf("within %s it did not come to this: %s", s.patience(), what))
		s.board.event("did not happen within %s: %s", s.patience(), what)
	}
	return err
}

func (s *story) clean(ctx context.Context) error {
	since := s.board.state().cycles()
	if err := s.await(ctx, "every table was verified once", func(st State) bool { return st.verified(since) }); err != nil {
		return err
	}
	st := s.board.state()
	var rows int64
	for _, t := range st.Tables {
		rows += t.Rows
	}
	s.board.event("one whole cycle, %d rows verified under load, %d corrections", rows, len(st.Drift.False))
	return nil
}

func (s *story) scatter(ctx context.Context) error {
	injector := workload.NewInjector(s.rig.replicaDSN, 1)
	pause := time.Duration(0.4 * phases()[2].share / scatterRounds * float64(s.options.Duration))
	for range scatterRounds {
		drift, err := injector.Inject(ctx, scattered())
		if err != nil {
			return err
		}
		s.injected(drift, "over all tables")
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
	return s.await(ctx, "all scattered drift was corrected", State.healed)
}

func (s *story) spoilNeighbourhood(ctx context.Context) error {
	if err := s.inject(ctx, neighbourhood(), inNeighbourhood()); err != nil {
		return err
	}
	return s.await(ctx, "a partial resync was done and the neighbourhood corrected", func(st State) bool {
		return st.healed() && st.Resyncs.Partial > 0 && !st.resyncing()
	})
}

func (s *story) spoilTable(ctx context.Context) error {
	if err := s.inject(ctx, wholeTable(), inTable()); err != nil {
		return err
	}
	return s.await(ctx, "a full resync was done and the table corrected", func(st State) bool {
		return st.healed() && st.Resyncs.Full > 0 && !st.resyncing()
	})
}

func (s *story) inject(ctx context.Context, m mass, d workload.Drift) error {
	drift, err := m.inject(ctx, s.rig.replicaDSN, d, s.book.keys(m.table))
	if err != nil {
		return err
	}
	s.injected(drift, "in "+m.table)
	return nil
}

func (s *story) injected(drift []workload.Injected, where string) {
	s.book.add(drift)
	var k ledger.Kinds
	for _, d := range drift {
		count(&k, d.Kind)
	}
	s.board.event("made %d rows wrong %s: %d missing, %d mismatched, %d extra", len(drift), where, k.Missing, k.Mismatched, k.Extra)
}

// prove lets replication come to rest and compares both databases while trickle still runs; then it stops trickle and reads the journal.
func (s *story) prove(ctx context.Context) error {
	s.stopLoad()
	waiting, cancel := context.WithTimeout(ctx, s.patience())
	defer cancel()
	if err := cdc.Barrier(waiting, s.rig.sourceDSN, s.rig.sink); err != nil {
		return err
	}
	s.board.event("the load has stopped and CDC has drained")
	if err := s.await(ctx, "nothing was under way any more", func(st State) bool { return st.Unconfirmed == 0 && !st.resyncing() }); err != nil {
		return err
	}
	all, err := workload.Compare(ctx, s.rig.sourceDSN, s.rig.replicaDSN, workload.Tables())
	if err != nil {
		return err
	}
	s.result.Identical = workload.Identical(all)
	for _, c := range all {
		s.result.rows += c.SourceRows
		if n := c.Missing + c.Mismatched + c.Extra; n > 0 {
			s.result.differences = append(s.result.differences, fmt.Sprintf("%d rows of %s (%s …)", n, c.Table, c.Examples[0]))
		}
	}
	if s.options.Listen != "" {
		if err := sleep(ctx, lastLook); err != nil {
			return err
		}
	}
	s.stopRunning()
	last, err := s.watcher.sample(ctx)
	if err != nil {
		return fmt.Errorf("reading the journal: %w", err)
	}
	s.board.put(last.State)
	s.result.DriftInjected, s.result.Corrected = last.Drift.Injected, last.Drift.Corrected
	s.result.FalseCorrections, s.result.falses = len(last.Drift.False), last.Drift.False[:min(3, len(last.Drift.False))]
	s.result.Resyncs, s.result.SourceWrites = last.Resyncs, last.Writes
	return nil
}

// lastLook is how long the page stays after the end, so that whoever watches it sees the end too.
const lastLook = 5 * time.Second

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ended(ctx)
	case <-timer.C:
		return nil
	}
}
