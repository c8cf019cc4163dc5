// Package resync walks a table, or a part of it, on the replica's behalf and makes it what the source has.
//
// It decides in which order a resync's ranges are walked and what each costs: an equal range a thumbprint, an empty one a copy, any other the
// keys and then only the rows that differ. What always holds: every row goes the detector's way (observe, refetch, compare-and-set, confirm)
// and is journalled under the resync's id. A large empty range does so as a whole: it was observed empty before the source was read, its rows are
// written only while their keys are absent, and after the write the source is asked whether the range still is what was read; what is not is
// looked at key by key. A copy is closed only after that, by whoever gets there; what is not proven stays a suspect and is settled like any other; the plan and its progress are
// in the ledger, so the publisher remembers nothing and any instance goes on after a crash. While the gate is closed or the brake is on, it waits; a
// range that fails is given back and tried again, later each time, with the reason in the ledger; one that the two sides can't be compared over, or that the
// publisher goes on refusing, is given up as failed. None keeps another waiting.
//
// With resync.via: debezium a connector brings the rows and the sink applies them, and what is left here is to see to that (Run signals, Listen hears how it goes)
// and then to what a snapshot can't do, remove rows. There no range is looked at before the replica has applied the snapshot, and what differs then, but for
// rows that only the replica has, is drift that no resync found. What becomes of a signal or a snapshot that is lost, Snapshots says.
package resync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/detector"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/gate"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/telemetry/pulse"
	"github.com/trickle-verify/trickle/tracing"
)

// Ledger is where resyncs are kept; see package ledger.
type Ledger interface {
	Running(ctx context.Context) ([]entry.Resync, error)
	Plan(ctx context.Context, id string, ranges []message.Range) error
	Take(ctx context.Context, id string, lease time.Duration) (entry.Piece, int, bool, error)
	Finish(ctx context.Context, id string, p entry.Piece, rows int) error
	Drop(ctx context.Context, id string, n int) error
	End(ctx context.Context, id, failure string) (entry.Ended, error)
	Braked(ctx context.Context) (string, error)
	Suspect(ctx context.Context, table string, suspects []drift.Suspect, due time.Duration) error
	Suspects(ctx context.Context, resyncID string) (int, error)
	Note(ctx context.Context, id, failure string) error
	Abandoned(ctx context.Context, age time.Duration) (entry.OpenCopy, bool, error)
	CloseCopies(ctx context.Context, ids []int64) error
}

// Source is the other side; see detector.Source.
type Source interface {
	Table(ctx context.Context, name string, fingerprint uint64) (detector.Table, error)
	Forget(name string)
	Boundaries(ctx context.Context, t detector.Table, r message.Range, size detector.Size) ([]message.Range, error)
	Copy(ctx context.Context, t detector.Table, q detector.Question) (detector.Listing, error)
	Agrees(ctx context.Context, t detector.Table, was *detector.Streamed) (bool, error)
	Refetch(ctx context.Context, t detector.Table, keys []message.Key, o detector.Refetching) ([]drift.Fetched, error)
	Look(ctx context.Context, t detector.Table, r message.Range) (detector.Page, error)
}

// Corrector writes; see detector.Corrector.
type Corrector interface {
	Correct(ctx context.Context, t detector.Table, changes []drift.Change) ([]drift.Outcome, error)
}

// Copier writes whole ranges; see package replica.
type Copier interface {
	// Streamable names the columns that a copy has to have, and whether it may be in COPY's binary format.
	Streamable(table string) (columns []string, binary bool, err error)
	// Copy writes a range that was observed empty: all of it, with its line in the journal, or nothing.
	Copy(ctx context.Context, table string, c drift.Copy, kind digest.Kind) (drift.Outcome, error)
}

// Parts are what a Runner is made of.
type Parts struct {
	Ledger    Ledger
	Source    Source
	Replica   detector.Replica
	Corrector Corrector
	Copier    Copier // nil: every row is written by the Corrector
	Gate      *gate.Gate
	Log       *slog.Logger
	// Debezium and Snapshots are for resyncs that go through a connector; nil where there is no Kafka.
	Debezium  Debezium
	Snapshots Snapshots
	// Policy gives the one in force.
	Policy func() *policy.Policy
	// Spans are made of resyncs and of their ranges; nil: none.
	Spans *tracing.Spans
}

// Runner works on whatever resyncs the ledger has running.
type Runner struct {
	Parts

	mu      sync.Mutex
	failing map[string]failing
}

// failing is a resync that did not get on when it was last tried.
type failing struct {
	times int
	again time.Time
}

// New makes a runner.
func New(parts Parts) *Runner {
	return &Runner{Parts: parts, failing: make(map[string]failing)}
}

const (
	lease      = time.Minute
	pause      = 300 * time.Millisecond
	pauseMost  = 10 * time.Second // after failures
	mostErrors = 8
	copyRows   = 2000    // rows that are copied one by one; more of them are streamed
	pieceBytes = 8 << 20 // of a range of a large table that the replica has none of
)

// errHeld gives a range back until the gate or the brake lets it be walked.
var errHeld = errors.New("held by the gate or the brake")

// Run works until the context ends.
func (r *Runner) Run(ctx context.Context) error {
	ctx, end := pulse.Loop(ctx, "resyncing")
	defer end()
	wait := pause
	for {
		pulse.Beat(ctx)
		worked, err := r.runOnce(ctx)
		if err == nil {
			wait = pause
		} else if ctx.Err() == nil {
			r.Log.Warn("looking after resyncs failed; trying again", "err", err, "retry_in", wait)
		}
		if worked && err == nil && ctx.Err() == nil {
			continue
		}
		t := time.NewTimer(wait)
		if err != nil {
			wait = min(2*wait, pauseMost)
		}
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}

// runOnce works on the oldest running resync until it has no range left to take. It reports whether it did anything.
func (r *Runner) runOnce(ctx context.Context) (bool, error) {
	if worked, err := r.resume(ctx); worked || err != nil {
		return worked, err
	}
	running, err := r.Ledger.Running(ctx)
	if err != nil || len(running) == 0 {
		return false, err
	}
	held, failed := r.entrust(ctx, running)
	if held == nil && failed != nil {
		return false, failed
	}
	// Before any message has come, the first word with the publisher tells the gate what time it is at the source.
	ok, err := r.free(ctx)
	if err != nil {
		return false, err
	}
	if !ok {
		if _, err := r.Source.Table(ctx, running[0].Table, 0); err != nil {
			return false, errors.Join(failed, r.failed(ctx, running[0], err))
		}
		return false, failed
	}
	failures := []error{failed} // of one resync; they keep no other waiting
	for _, s := range running {
		if held[s.ID] || r.later(s.ID) {
			continue
		}
		worked, err := r.work(ctx, s)
		if err != nil {
			failures = append(failures, r.failed(ctx, s, err))
			continue
		}
		r.mu.Lock()
		delete(r.failing, s.ID)
		r.mu.Unlock()
		if worked {
			return true, errors.Join(failures...)
		}
	}
	return false, errors.Join(failures...)
}

// resume confirms what was copied for a resync that was ended before it could be.
func (r *Runner) resume(ctx context.Context) (bool, error) {
	if ok, err := r.free(ctx); err != nil || !ok {
		return false, err
	}
	c, ok, err := r.Ledger.Abandoned(ctx, lease)
	if err != nil || !ok {
		return false, err
	}
	if err := r.confirm(ctx, c); err != nil {
		return false, fmt.Errorf("confirming copy %d of %s: %w", c.ID, c.Table, err)
	}
	return true, nil
}

// later tells that a resync failed a moment ago.
func (r *Runner) later(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Before(r.failing[id].again)
}

// free tells whether anything may be written now.
func (r *Runner) free(ctx context.Context) (bool, error) {
	if !r.Gate.Check(ctx).Open {
		return false, nil
	}
	braked, err := r.Ledger.Braked(ctx)
	return braked == "", err
}

// failed gives a resync up where only a person can help: the two sides can't be compared, or the publisher goes on refusing the table.
func (r *Runner) failed(ctx context.Context, s entry.Resync, err error) error {
	if ctx.Err() != nil {
		return err
	}
	if errors.Is(err, errHeld) {
		return nil // waiting for the gate or the brake is no failure
	}
	r.mu.Lock()
	f := r.failing[s.ID]
	f.times++
	f.again = time.Now().Add(min(pause<<min(f.times, 10), pauseMost))
	r.failing[s.ID] = f
	r.mu.Unlock()
	var refusal detector.Refusal
	unknown := errors.As(err, &refusal) && (refusal.Refused() == tricklepb.ErrorCode_ERROR_CODE_UNKNOWN_TABLE || refusal.Refused() == tricklepb.ErrorCode_ERROR_CODE_REFUSED)
	if !r.Replica.Incomparable(err) && (!unknown || f.times < mostErrors) {
		return errors.Join(fmt.Errorf("resync %s of %s: %w", s.ID, s.Table, err), r.Ledger.Note(ctx, s.ID, err.Error()))
	}
	r.Log.Error("giving up on a resync", "resync", s.ID, "table", s.Table, "err", err)
	return r.ended(ctx, s, err.Error())
}

// ended closes a resync, and its trace.
func (r *Runner) ended(ctx context.Context, s entry.Resync, failure string) error {
	end, err := r.Ledger.End(ctx, s.ID, failure)
	if err != nil || !end.Now {
		return err
	}
	via := policy.ViaSideChannel
	if s.Snapshot {
		via = policy.ViaDebezium
	}
	r.Spans.Resynced(ctx, tracing.Resynced{
		ID: s.ID, Scope: s.Scope, Table: s.Table, Reason: s.Reason, Via: via, State: end.State, Requested: end.Requested, Rows: end.Rows, Corrected: end.Corrected,
	})
	return nil
}

// plan cuts a resync into ranges: by bytes, and at no cost, where there is nothing in the replica to compare with.
func (r *Runner) plan(ctx context.Context, s entry.Resync, t detector.Table) ([]message.Range, error) {
	size := detector.Size{Rows: r.Policy().RangeRows}
	if r.Copier != nil {
		own, _, err := r.Replica.Range(ctx, s.Table, s.Range, 1, t.Kind)
		if err != nil {
			return nil, err
		}
		if len(own) == 0 {
			size.Bytes = pieceBytes
		}
	}
	return r.Source.Boundaries(ctx, t, s.Range, size)
}

// work plans a resync if need be and walks its ranges, several at a time.
func (r *Runner) work(ctx context.Context, s entry.Resync) (bool, error) {
	t, err := r.Source.Table(ctx, s.Table, 0)
	if err != nil {
		return false, err
	}
	p := r.Policy()
	if !s.Planned {
		ranges, err := r.plan(ctx, s, t)
		if err != nil {
			return false, err
		}
		r.Log.Info("resync begins", "resync", s.ID, "scope", s.Scope, "table", s.Table, "ranges", len(ranges), "reason", s.Reason)
		if err := r.Ledger.Plan(ctx, s.ID, ranges); err != nil {
			return false, err
		}
	}
	worked := make([]bool, max(1, p.Resync.InFlight))
	g, gctx := errgroup.WithContext(ctx)
	for i := range worked {
		g.Go(func() error {
			for {
				more, err := r.next(gctx, s, t)
				if err != nil || !more {
					return err
				}
				worked[i] = true
			}
		})
	}
	if err := g.Wait(); err != nil {
		if r.Replica.Stale(err) {
			r.Source.Forget(s.Table)
		}
		return true, err
	}
	ended, err := r.end(ctx, s)
	for _, w := range worked {
		ended = ended || w
	}
	return ended, err
}

// end closes a resync whose ranges are done and whose suspects are settled.
func (r *Runner) end(ctx context.Context, s entry.Resync) (bool, error) {
	_, left, ok, err := r.Ledger.Take(ctx, s.ID, 0)
	if err != nil || ok || left > 0 {
		return false, err
	}
	waiting, err := r.Ledger.Suspects(ctx, s.ID)
	if err != nil || waiting > 0 {
		return false, err
	}
	r.Log.Info("resync is done", "resync", s.ID, "scope", s.Scope, "table", s.Table)
	return true, r.ended(ctx, s, "")
}

// next takes one range and walks it.
func (r *Runner) next(ctx context.Context, s entry.Resync, t detector.Table) (bool, error) {
	if ok, err := r.free(ctx); err != nil {
		return false, err
	} else if !ok {
		return false, errHeld
	}
	piece, _, ok, err := r.Ledger.Take(ctx, s.ID, lease)
	if err != nil || !ok {
		return false, err
	}
	w := walk{Runner: r, resync: s, table: t, piece: piece, whole: r.Copier != nil}
	run := w.run
	if s.Snapshot && r.Debezium != nil {
		run = w.sweep
	}
	began := time.Now()
	if err := run(r.Spans.Walking(ctx, s.ID, piece.N)); err != nil {
		return false, errors.Join(err, r.Ledger.Drop(context.WithoutCancel(ctx), s.ID, piece.N))
	}
	if err := r.Ledger.Finish(ctx, s.ID, w.piece, w.rows); err != nil {
		return true, err
	}
	r.Spans.Walked(ctx, tracing.Walked{ResyncID: s.ID, N: piece.N, Took: tracing.Since(began), Table: s.Table, Rows: w.rows, Differing: w.piece.Differing})
	return true, nil
}
