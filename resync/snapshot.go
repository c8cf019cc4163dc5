package resync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/policy"
)

// Debezium is the way to a connector and back; see package debezium.
type Debezium interface {
	// Prepare sees to it that signals have a topic.
	Prepare(ctx context.Context, to policy.Debezium) error
	Send(ctx context.Context, to policy.Debezium, s debezium.Signal) error
	// Unread: signals wait that the connector has not read. false also where that can't be known.
	Unread(ctx context.Context, to policy.Debezium) (bool, error)
	Listen(ctx context.Context, to policy.Debezium) (*debezium.Listener, error)
}

// Snapshots is where it is kept how far Debezium is with those that resyncs asked for; see package ledger.
//
// A resync that begins under via: debezium goes that way to its end, through these states, whichever instance works on it:
//
//	due        the signal is to be sent: one of the pipeline at a time, gate open, brake off
//	signalled  it was; noted first, so that no crash sends it twice. Unanswered for started_within it is due again under another id, but not while the connector has yet to read it
//	started    the connector has taken it. Silent for progress_within, aborted or failed, it is due again, later each time, attempts times in all
//	applying   the table was read. The source's clock is asked, and the gate has to pass what it says: then the replica has applied the snapshot
//	sweeping   the ranges are walked, and rows that only the replica has are removed
//
// While the gate is closed no silence is held against the connector: what closes it may well be that the connector is down.
type Snapshots interface {
	BeginSnapshot(ctx context.Context, resyncID string) error
	Snapshots(ctx context.Context) ([]entry.Snapshot, error)
	// StoreSnapshot reports false where somebody else stored it since it was read, or another signal is under way.
	StoreSnapshot(ctx context.Context, s entry.Snapshot) (bool, error)
	Remained(ctx context.Context, resyncID string, n int) error
}

// sendBound is how long Kafka may take to take a signal.
const sendBound = 30 * time.Second

// entrust sees to resyncs that go through Debezium. It returns those that are not to be walked now.
func (r *Runner) entrust(ctx context.Context, running []entry.Resync) (held map[string]bool, err error) {
	if r.Debezium == nil {
		return nil, nil
	}
	via := r.Policy().Resync.Via == policy.ViaDebezium
	known := make(map[string]entry.Resync, len(running))
	for _, s := range running {
		known[s.ID] = s
		if via && !s.Snapshot && !s.Planned {
			if err := r.Snapshots.BeginSnapshot(ctx, s.ID); err != nil {
				return nil, err
			}
		}
	}
	all, err := r.Snapshots.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	held = make(map[string]bool, len(all))
	var failures []error
	for _, snap := range all {
		s, ok := known[snap.ResyncID]
		if !ok {
			continue
		}
		held[s.ID] = snap.State != entry.SnapshotSweeping
		if !held[s.ID] || r.later(s.ID) {
			continue
		}
		if err := r.advance(ctx, s, snap); err != nil {
			failures = append(failures, r.failed(ctx, s, err))
		}
	}
	return held, errors.Join(failures...)
}

// advance does what can be done for one snapshot now.
func (r *Runner) advance(ctx context.Context, s entry.Resync, snap entry.Snapshot) error {
	switch snap.State {
	case entry.SnapshotDue:
		return r.signal(ctx, s, snap)
	case entry.SnapshotSignalled:
		return r.await(ctx, snap, time.Duration(r.Policy().Resync.Debezium.StartedWithin))
	case entry.SnapshotStarted:
		return r.await(ctx, snap, time.Duration(r.Policy().Resync.Debezium.ProgressWithin))
	case entry.SnapshotApplying:
		return r.applied(ctx, s, snap)
	case entry.SnapshotRefused:
		r.Log.Error("giving up on a resync", "resync", s.ID, "table", s.Table, "err", snap.Failure)
		return r.ended(ctx, s, snap.Failure)
	default: // paused, by somebody who has a reason
		return nil
	}
}

// signal sends the next signal of a snapshot that is due.
func (r *Runner) signal(ctx context.Context, s entry.Resync, snap entry.Snapshot) error {
	to := r.Policy().Resync.Debezium
	if snap.Attempts >= to.Attempts {
		snap.Failure = fmt.Sprintf("given up after %d signals to Debezium, of the last: %s", snap.Attempts, snap.Failure)
		snap.State = entry.SnapshotRefused
		_, err := r.Snapshots.StoreSnapshot(ctx, snap)
		return err
	}
	if snap.Idle < pauseBefore(to, snap.Attempts) {
		return nil
	}
	if ok, err := r.free(ctx); err != nil || !ok {
		return err
	}
	t, err := r.Source.Table(ctx, s.Table, 0)
	if err != nil {
		return err
	}
	if _, err := debezium.Collection(s.Table); err != nil {
		snap.State, snap.Failure = entry.SnapshotRefused, err.Error()
		_, err := r.Snapshots.StoreSnapshot(ctx, snap)
		return err
	}
	bound, cancel := context.WithTimeout(ctx, sendBound)
	defer cancel()
	if err := r.Debezium.Prepare(bound, to); err != nil {
		return err
	}
	snap.Attempts++
	snap.State, snap.Signal, snap.Idle = entry.SnapshotSignalled, debezium.SignalID(s.ID, snap.Attempts), 0
	stored, err := r.Snapshots.StoreSnapshot(ctx, snap)
	if err != nil || !stored {
		return err
	}
	r.Log.Info("asking Debezium for a snapshot", "resync", s.ID, "table", s.Table, "scope", s.Scope, "signal", snap.Signal, "reason", s.Reason)
	return r.Debezium.Send(bound, to, debezium.Signal{ID: snap.Signal, Table: s.Table, Filter: debezium.Filter(t.Schema, s.Range)})
}

// pauseBefore is how long the next signal waits, longer after each.
func pauseBefore(d policy.Debezium, attempts int) time.Duration {
	if attempts == 0 {
		return 0
	}
	return min(time.Duration(d.StartedWithin)/8<<min(attempts-1, 10), time.Duration(d.ProgressWithin))
}

// await lets a snapshot that nothing is heard of be signalled again.
func (r *Runner) await(ctx context.Context, snap entry.Snapshot, limit time.Duration) error {
	if snap.Idle < limit/4 {
		return nil
	}
	excused := !r.Gate.Check(ctx).Open
	if !excused && snap.State == entry.SnapshotSignalled {
		unread, err := r.Debezium.Unread(ctx, r.Policy().Resync.Debezium)
		if err != nil {
			return err
		}
		if excused = unread; unread {
			snap.Failure = "the connector has not read the signal yet: is it running, and is resync.debezium as its settings are?"
		}
	}
	switch {
	case excused:
		snap.Idle = 0
	case snap.Idle < limit:
		return nil
	default:
		snap = debezium.Again(snap, fmt.Sprintf("nothing was heard of signal %s for %s", snap.Signal, limit))
		r.Log.Warn("Debezium is silent; the signal counts as lost", "resync", snap.ResyncID, "signal", snap.Signal, "waited", limit)
	}
	_, err := r.Snapshots.StoreSnapshot(ctx, snap)
	return err
}

// applied waits until the replica has applied what Debezium read.
func (r *Runner) applied(ctx context.Context, s entry.Resync, snap entry.Snapshot) error {
	if snap.Through.IsZero() {
		// What Debezium read was in its topics before it said so; whatever the source's clock says now is later.
		r.Source.Forget(s.Table)
		if _, err := r.Source.Table(ctx, s.Table, 0); err != nil {
			return err
		}
		if snap.Through = r.Gate.Check(ctx).Source; snap.Through.IsZero() {
			return nil
		}
		_, err := r.Snapshots.StoreSnapshot(ctx, snap)
		return err
	}
	if g := r.Gate.Check(ctx); !g.Open || g.Through.Before(snap.Through) {
		return nil
	}
	r.Log.Info("the replica has applied Debezium's snapshot", "resync", s.ID, "table", s.Table, "rows", snap.Rows)
	snap.State, snap.Idle = entry.SnapshotSweeping, 0
	_, err := r.Snapshots.StoreSnapshot(ctx, snap)
	return err
}
