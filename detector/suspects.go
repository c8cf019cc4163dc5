package detector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/gate"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/tracing"
)

const (
	suspectBatch = 500
	// suspectLease is how long an instance has a batch to itself; whoever dies with one delays it by this.
	suspectLease = 30 * time.Second
	// openAge is how long a correction may be unconfirmed before it counts as abandoned.
	openAge = 20 * time.Second
	// whileWalked is how often suspects are looked at while a resync walks their table.
	whileWalked = 5 * time.Second
	// whileHeld is how often suspects are looked at while the brake is on.
	whileHeld = 10 * time.Second
	// unproven is how often suspects are looked at when nothing can be proven about them.
	unproven = time.Minute
)

// Settle takes one batch of suspects that are due, looks at them again and corrects what is proven. It reports how many it looked at; 0 means that
// there is nothing to do now.
func (d *Detector) Settle(ctx context.Context) (int, error) {
	state := d.Gate.Check(ctx)
	if state.Configured && !state.Open {
		return 0, nil
	}
	name, suspects, err := d.Ledger.Due(ctx, suspectBatch, suspectLease)
	if err != nil || len(suspects) == 0 {
		return 0, err
	}
	t, err := d.source.Table(ctx, name, 0)
	if err != nil {
		return 0, d.pauseOrRetry(ctx, name, err)
	}
	settled, err := d.settleApart(ctx, t, state, suspects)
	if d.Replica.Stale(err) {
		d.source.Forget(name)
	}
	if err != nil && ctx.Err() == nil && d.ofTable(err) {
		// Its suspects come up again with their lease; those of other tables need not wait.
		d.logOnce("suspects can't be settled yet", slog.String("table", name), err)
		err = d.Ledger.Pause(ctx, name, err.Error())
	}
	return len(suspects), errors.Join(err, d.Ledger.Settle(ctx, name, settled))
}

// settleApart settles a batch, in halves where a key is at fault: that one is given up, and keeps no other waiting.
func (d *Detector) settleApart(ctx context.Context, t Table, state gate.State, suspects []drift.Suspect) (entry.Settled, error) {
	out, err := d.settle(ctx, t, state, suspects)
	if err == nil || !d.Replica.KeyAtFault(err) {
		return out, err
	}
	if len(suspects) == 1 {
		key := suspects[0].Key
		return entry.Settled{Done: []message.Key{key}, Failed: 1, Failure: fmt.Sprintf("key %s: %v", d.rules().Privacy.Key(key.String()), err)}, nil
	}
	half := len(suspects) / 2
	out, err = d.settleApart(ctx, t, state, suspects[:half])
	if err != nil {
		return out, err
	}
	rest, err := d.settleApart(ctx, t, state, suspects[half:])
	out.Done, out.Again = append(out.Done, rest.Done...), append(out.Again, rest.Again...)
	out.Left = append(out.Left, rest.Left...)
	out.Resolved, out.Failed = out.Resolved+rest.Resolved, out.Failed+rest.Failed
	if out.FailedOf == nil {
		out.FailedOf = make(map[string]int)
	}
	for id, n := range rest.FailedOf {
		out.FailedOf[id] += n
	}
	if rest.Failure != "" {
		out.Failure = rest.Failure
	}
	return out, err
}

// settle returns how the suspects came out, also of those before an error.
func (d *Detector) settle(ctx context.Context, t Table, state gate.State, suspects []drift.Suspect) (entry.Settled, error) {
	rules := d.rules()
	out := entry.Settled{Due: time.Duration(rules.Detect.Confirm.Delay)}
	if !state.Configured {
		out.Due = max(out.Due, unproven)
	}
	keys := make([]message.Key, len(suspects))
	for i, s := range suspects {
		keys[i] = s.Key
	}
	look := looks{lag: state.Lag}
	began := time.Now()
	observed, err := d.Replica.Observe(ctx, t.Name, keys, t.Kind)
	if err != nil {
		return out, err
	}
	look.observe, began = tracing.Since(began), time.Now()
	fetched, err := d.source.Refetch(ctx, t, keys, Refetching{Through: state.Through})
	if err != nil {
		return out, err
	}
	look.refetch = tracing.Since(began)
	var found []entry.Discrepancy
	var changes []drift.Change
	var proven []drift.Suspect
	for i, s := range suspects {
		now := drift.Sighting{Through: state.Through, Replica: observed[i], Source: fetched[i]}
		switch drift.Judge(s.Last, now) {
		case drift.Equal:
			out.Done = append(out.Done, s.Key)
			out.Resolved++
		case drift.InFlight:
			s.Last = &now
			out.Again = append(out.Again, s)
		case drift.Proven:
			s.Last = &now
			if s.ResyncID == "" {
				found = append(found, entry.Discrepancy{Key: s.Key, Kind: now.Kind(), Range: s.Range, RangeID: s.RangeID})
			}
			changes = append(changes, drift.Change{Replica: observed[i], Source: fetched[i], ResyncID: s.ResyncID, Trace: d.remembering(s, look, fetched[i])})
			proven = append(proven, s)
		}
	}
	if len(changes) == 0 {
		return out, nil
	}
	walked, err := d.count(ctx, t.Name, found)
	if err != nil {
		return out, err
	}
	if walked || rules.Detect.Action == policy.ActionReport {
		// What a resync found is its own to correct; the rest is left to the one that walks the table, or only reported.
		if !walked {
			out.Left = found
		}
		proven, changes = slices.DeleteFunc(proven, func(s drift.Suspect) bool {
			if s.ResyncID != "" {
				return false
			}
			if walked {
				out.Again = append(out.Again, s)
			} else {
				out.Done = append(out.Done, s.Key)
			}
			return true
		}), slices.DeleteFunc(changes, func(c drift.Change) bool { return c.ResyncID == "" })
		if walked {
			out.Due = max(5*out.Due, whileWalked)
		} else if len(found) > 0 {
			d.Log.Warn("drift found; detect.action is report, so nothing is corrected: trickle-consumer drift lists it", "table", t.Name, "rows", len(found))
		}
		if len(changes) == 0 {
			return out, nil
		}
	}
	outcomes, err := d.corrector.Correct(ctx, t, changes)
	if outcomes == nil {
		return out, err
	}
	d.sort(&out, proven, outcomes, rules.Detect.Confirm.Attempts)
	if out.Failure != "" {
		d.logOnce("the replica refuses a correction", slog.String("table", t.Name), errors.New(out.Failure))
	}
	return out, err
}

// count puts proven drift into the window, asks for a resync where that passes a threshold, and reports whether one now walks the whole table: then
// it will meet these rows too, and they need not be written one by one.
func (d *Detector) count(ctx context.Context, table string, found []entry.Discrepancy) (bool, error) {
	if len(found) == 0 {
		return false, nil
	}
	if err := d.Ledger.Count(ctx, table, found); err != nil {
		return false, err
	}
	if err := d.escalate(ctx, table); err != nil {
		return false, err
	}
	return d.Ledger.Covers(ctx, table)
}

// sort puts proven suspects where the outcome of their correction wants them.
func (d *Detector) sort(out *entry.Settled, proven []drift.Suspect, outcomes []drift.Outcome, attempts int) {
	for i, o := range outcomes {
		s := proven[i]
		switch o.Result {
		case drift.Written:
			out.Done = append(out.Done, s.Key)
		case drift.Moved:
			out.Again = append(out.Again, s)
		case drift.Held:
			// A person has to come first, or the gate has closed.
			out.Again, out.Due = append(out.Again, s), max(out.Due, whileHeld)
		case drift.Failed:
			s.Attempts++
			out.Failure = fmt.Sprintf("key %s: %v", d.rules().Privacy.Key(s.Key.String()), o.Err)
			if s.Attempts < attempts {
				out.Again = append(out.Again, s)
				continue
			}
			// Given up until the next cycle finds it again.
			out.Done = append(out.Done, s.Key)
			out.Failed++
			if s.ResyncID != "" {
				if out.FailedOf == nil {
					out.FailedOf = make(map[string]int)
				}
				out.FailedOf[s.ResyncID]++
			}
		}
	}
}

// Resume confirms one batch of abandoned corrections and reports how many there were.
func (d *Detector) Resume(ctx context.Context) (int, error) {
	name, open, err := d.Ledger.Open(ctx, openAge, suspectBatch)
	if err != nil || len(open) == 0 {
		return 0, err
	}
	t, err := d.source.Table(ctx, name, 0)
	if err != nil {
		return 0, d.pauseOrRetry(ctx, name, err)
	}
	return len(open), d.corrector.Resume(ctx, t, open)
}

// escalate asks for a resync where a table's window has passed a threshold; never where the policy only wants reports.
func (d *Detector) escalate(ctx context.Context, table string) error {
	rules := d.rules()
	if rules.Detect.Action == policy.ActionReport {
		return nil
	}
	window := time.Duration(rules.Detect.Window)
	tally, err := d.Ledger.Tally(ctx, table, window)
	if err != nil || tally.Discrepancies == 0 {
		return err
	}
	w := entry.Wish{ID: d.NewID(), Table: table, Waiting: rules.Resync.Approval == policy.ApprovalManual, Cooldown: time.Duration(rules.Resync.Cooldown)}
	if why := Passed(rules.Resync.Full, tally.Discrepancies, tally.Rows); why != "" {
		w.Scope, w.Reason = entry.Full, fmt.Sprintf("%s within %s (resync.full)", why, window)
	} else if why := Passed(rules.Resync.Partial, tally.WorstCount, tally.WorstRows); why != "" {
		w.Scope, w.Range, w.Reason = entry.Partial, tally.Worst, fmt.Sprintf("%s in one neighbourhood within %s (resync.partial)", why, window)
	} else {
		return nil
	}
	made, err := d.Ledger.Request(ctx, w)
	if err != nil || !made {
		return err
	}
	d.Log.Warn("too much drift: asking for a resync", "resync", w.ID, "scope", w.Scope, "table", table, "reason", w.Reason, "waits_for_approval", w.Waiting)
	return nil
}

// Fill is how much of a threshold is reached: at 1, Passed names the limit.
func Fill(t policy.Threshold, discrepancies, rows int) float64 {
	fill := 0.0
	if t.Discrepancies > 0 {
		fill = float64(discrepancies) / float64(t.Discrepancies)
	}
	if t.Ratio > 0 && rows > 0 && rows >= t.MinRows {
		fill = max(fill, float64(discrepancies)/(float64(t.Ratio)*float64(rows)))
	}
	return fill
}

// Passed tells which limit of a threshold is reached, in words; empty: none. It is a pure function of the window's counts.
func Passed(t policy.Threshold, discrepancies, rows int) string {
	if t.Discrepancies > 0 && discrepancies >= t.Discrepancies {
		return fmt.Sprintf("%d discrepancies", discrepancies)
	}
	if t.Ratio > 0 && rows > 0 && rows >= t.MinRows && float64(discrepancies) >= float64(t.Ratio)*float64(rows) {
		return fmt.Sprintf("%d discrepancies in %d rows", discrepancies, rows)
	}
	return ""
}
