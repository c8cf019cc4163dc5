package detector

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/gate"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/tracing"
)

// Corrector writes proven drift away: compare-and-set, then confirm until a source read that began after the write agrees. It is safe for
// concurrent use.
type Corrector struct {
	Replica Replica
	Ledger  Ledger
	Source  *Source
	Gate    *gate.Gate // nil: nothing holds writes up
	Log     *slog.Logger
	// Spans are made of corrections, with keys as Privacy lets them be shown; nil: none.
	Spans   *tracing.Spans
	Privacy func() policy.Privacy
}

// written is a correction that waits for its confirmation.
type written struct {
	entry    int64
	kind     drift.Kind
	resyncID string
	now      drift.Observed // what the replica held after the write
	digest   uint64         // of the source's row that was written; with present false: none
	present  bool
	tell     telling
}

// Correct writes the changes and confirms them. The outcomes are those of the first writes, one for each change. An error after them means that
// some corrections are not confirmed yet; they are open in the journal, and Resume goes on with them.
func (c *Corrector) Correct(ctx context.Context, t Table, changes []drift.Change) ([]drift.Outcome, error) {
	began := time.Now()
	outcomes, err := c.write(ctx, t, changes)
	if err != nil {
		return nil, err
	}
	open := c.pending(t, changes, outcomes)
	for i := range open {
		open[i].tell.writes = []tracing.Stretch{tracing.Since(began)}
	}
	return outcomes, c.confirm(ctx, t, open)
}

// write asks the gate first, once more: the source's rows came in answers that the gate has heard, so it knows by now whether they come from a server
// that the source failed over to in between. While it is closed every change is held.
func (c *Corrector) write(ctx context.Context, t Table, changes []drift.Change) ([]drift.Outcome, error) {
	if c.Gate != nil && !c.Gate.Check(ctx).Open {
		held := make([]drift.Outcome, len(changes))
		for i := range held {
			held[i].Result = drift.Held
		}
		return held, nil
	}
	name(changes)
	return c.Replica.Write(ctx, t.Name, changes, t.Kind)
}

func (c *Corrector) pending(t Table, changes []drift.Change, outcomes []drift.Outcome) []written {
	var out []written
	for i, o := range outcomes {
		if o.Result != drift.Written {
			continue
		}
		ch := changes[i]
		out = append(out, written{
			entry: o.Entry, kind: ch.Kind(), resyncID: ch.ResyncID, now: o.Replica, digest: ch.Source.Digest, present: ch.Source.Present,
			tell: telling{traceID: ch.TraceID, kept: ch.Trace, columns: o.Columns, confirm: time.Now()},
		})
		c.Log.Debug("a row was corrected", "table", t.Name, "correction", o.Entry, "kind", ch.Kind(), "trace_id", ch.TraceID)
	}
	if len(out) > 0 {
		log := c.Log
		if resync := out[0].resyncID; resync != "" {
			log = log.With("resync", resync)
		}
		log.Info("corrected", "table", t.Name, "rows", len(out), "correction", out[0].entry, "trace_id", out[0].tell.traceID)
	}
	return out
}

// confirmRounds bounds how often one call goes round; what is still open then is resumed later.
const confirmRounds = 10

// confirm closes corrections that the source agrees with, and rewrites those that it does not while the replica still holds them.
func (c *Corrector) confirm(ctx context.Context, t Table, open []written) error {
	for range confirmRounds {
		if len(open) == 0 {
			return nil
		}
		var err error
		if open, err = c.confirmOnce(ctx, t, open); err != nil {
			return fmt.Errorf("confirming %d corrections of %s: %w", len(open), t.Name, err)
		}
	}
	return nil
}

// confirmOnce returns what is to be confirmed in the next round: the rewrites of this one.
func (c *Corrector) confirmOnce(ctx context.Context, t Table, open []written) ([]written, error) {
	keys := make([]message.Key, len(open))
	for i, w := range open {
		keys[i] = w.now.Key
	}
	sources, err := c.Source.Refetch(c.confirming(ctx, open), t, keys, Refetching{DigestsOnly: true})
	if err != nil {
		return open, err
	}
	var agreed, disagree []written
	for i, w := range open {
		w.tell.asked = true
		if sources[i].Present == w.present && (!w.present || sources[i].Digest == w.digest) {
			agreed = append(agreed, w)
		} else {
			disagree = append(disagree, w)
		}
	}
	if err := c.closed(ctx, t, entry.Confirmed, agreed); err != nil || len(disagree) == 0 {
		return disagree, err
	}
	return c.again(ctx, t, disagree)
}

// again goes round for corrections that the source disagrees with: unless CDC has moved the row on, it is written once more under the same guard.
func (c *Corrector) again(ctx context.Context, t Table, open []written) ([]written, error) {
	keys := make([]message.Key, len(open))
	for i, w := range open {
		keys[i] = w.now.Key
	}
	observed, err := c.Replica.Observe(ctx, t.Name, keys, t.Kind)
	if err != nil {
		return open, err
	}
	sources, err := c.Source.Refetch(ctx, t, keys, Refetching{})
	if err != nil {
		return open, err
	}
	var agreed, moved, rewritten []written
	var changes []drift.Change
	for i, w := range open {
		switch {
		case sources[i].Present == w.present && (!w.present || sources[i].Digest == w.digest):
			agreed = append(agreed, w)
		case observed[i].Present != w.now.Present || observed[i].Version != w.now.Version:
			moved = append(moved, w)
		default:
			changes = append(changes, drift.Change{
				Replica: observed[i], Source: sources[i], Rewrites: w.entry, ResyncID: w.resyncID, TraceID: w.tell.traceID, Trace: w.tell.kept,
			})
			rewritten = append(rewritten, w)
		}
	}
	if err := c.closed(ctx, t, entry.Confirmed, agreed); err != nil {
		return open, err
	}
	if err := c.closed(ctx, t, entry.Superseded, moved); err != nil {
		return open, err
	}
	if len(changes) == 0 {
		return nil, nil
	}
	began := time.Now()
	outcomes, err := c.write(ctx, t, changes)
	if err != nil {
		return open, err
	}
	// What moved in the very last moment, or is held now, is looked at again with the next round of Resume: its entry is still open.
	next := c.pending(t, changes, outcomes)
	n := 0
	for i, o := range outcomes {
		if o.Result == drift.Written {
			next[n].tell = rewritten[i].tell.again(began)
			n++
		}
	}
	return next, nil
}

// Resume confirms corrections that were written and never closed, because whoever wrote them died or lost the publisher.
func (c *Corrector) Resume(ctx context.Context, t Table, open []entry.OpenCorrection) error {
	keys := make([]message.Key, len(open))
	for i, o := range open {
		keys[i] = o.Key
	}
	observed, err := c.Replica.Observe(ctx, t.Name, keys, t.Kind)
	if err != nil {
		return err
	}
	var moved, still []written
	for i, o := range open {
		present := o.Kind != drift.Extra
		w := written{
			entry: o.Entry, kind: o.Kind, resyncID: o.ResyncID, now: observed[i], digest: observed[i].Digest, present: present, tell: resumed(o),
		}
		if observed[i].Present != present || present && observed[i].Version != o.Version {
			moved = append(moved, w)
			continue
		}
		still = append(still, w)
	}
	if err := c.closed(ctx, t, entry.Superseded, moved); err != nil {
		return err
	}
	return c.confirm(ctx, t, still)
}
