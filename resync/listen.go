package resync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/telemetry/pulse"
)

const (
	lookAround  = time.Second // how often the policy is looked at while nothing is heard
	listenAgain = 2 * time.Second
)

// Listen follows Debezium's notifications until the context ends, while the policy or a resync that goes that way asks for it. A notification is committed once
// the ledger has what it means.
func (r *Runner) Listen(ctx context.Context) error {
	if r.Debezium == nil {
		return nil
	}
	ctx, end := pulse.Loop(ctx, "following Debezium's notifications")
	defer end()
	for ctx.Err() == nil {
		wait := lookAround
		to, wanted, err := r.connector(ctx)
		if err == nil && wanted {
			err = r.listen(ctx, to)
		}
		if err != nil && ctx.Err() == nil {
			r.Log.Warn("Debezium's notifications can't be followed; trying again", "err", err)
			wait = listenAgain
		}
		if err == nil && !wanted {
			pulse.Idle(ctx)
		} else {
			pulse.Beat(ctx)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
	return nil
}

// connector is the one to listen to, if any.
func (r *Runner) connector(ctx context.Context) (policy.Debezium, bool, error) {
	p := r.Policy().Resync
	if p.Via == policy.ViaDebezium || p.Debezium.TopicPrefix == "" {
		return p.Debezium, p.Via == policy.ViaDebezium, nil
	}
	all, err := r.Snapshots.Snapshots(ctx) // from before the policy was changed
	return p.Debezium, len(all) > 0, err
}

// listen follows one connector until another is to be followed.
func (r *Runner) listen(ctx context.Context, to policy.Debezium) (err error) {
	l, err := r.Debezium.Listen(ctx, to)
	if err != nil {
		r.noteAll(ctx, err.Error())
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	for {
		pulse.Beat(ctx)
		if err := r.listenOnce(ctx, l); err != nil {
			return err
		}
		if now, wanted, err := r.connector(ctx); err != nil || !wanted || now != to {
			return err
		}
	}
}

func (r *Runner) listenOnce(ctx context.Context, l *debezium.Listener) error {
	bound, cancel := context.WithTimeout(ctx, lookAround)
	defer cancel()
	notes, refused, err := l.Next(bound)
	if err != nil {
		if bound.Err() != nil && ctx.Err() == nil {
			return nil // nothing was said
		}
		return err
	}
	if refused > 0 {
		r.noteAll(ctx, fmt.Sprintf("%d of Debezium's notifications can't be read: the connector's value.converter has to be JsonConverter", refused))
	}
	if err := r.heard(ctx, notes); err != nil {
		return err // not committed: they come again
	}
	return l.Commit(ctx)
}

// heard keeps what notifications mean for the snapshots that are under way.
func (r *Runner) heard(ctx context.Context, notes []debezium.Notification) error {
	for len(notes) > 0 {
		all, err := r.Snapshots.Snapshots(ctx)
		if err != nil {
			return err
		}
		again := false
		for _, before := range all {
			collection, err := debezium.Collection(before.Table)
			if err != nil {
				continue // it was never signalled
			}
			after := before
			for _, n := range notes {
				after = debezium.Follow(after, collection, n)
			}
			if after == before {
				continue
			}
			stored, err := r.Snapshots.StoreSnapshot(ctx, after)
			if err != nil {
				return err
			}
			again = again || !stored
			if stored && after.State != before.State {
				r.Log.Info("Debezium's snapshot", "resync", after.ResyncID, "table", after.Table, "signal", after.Signal, "state", after.State, "rows", after.Rows, "reason", after.Failure)
			}
		}
		if !again {
			return nil
		}
	}
	return nil
}

// noteAll shows with each resync that waits for Debezium why it may wait in vain.
func (r *Runner) noteAll(ctx context.Context, why string) {
	all, err := r.Snapshots.Snapshots(ctx)
	for _, s := range all {
		if s.State != entry.SnapshotSweeping {
			err = errors.Join(err, r.Ledger.Note(ctx, s.ResyncID, why))
		}
	}
	if err != nil && ctx.Err() == nil {
		r.Log.Warn("noting why a resync may wait", "err", err)
	}
}
