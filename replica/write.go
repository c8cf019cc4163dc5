package replica

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/postgres"
)

// SQLSTATEs that decide how a refused batch is taken apart.
const (
	uniqueViolation      = "23505"
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	lockNotAvailable     = "55P03"
)

// errStoredOtherwise says that the replica took a row and holds something else: a trigger, or a column that can't hold the value.
var errStoredOtherwise = errors.New("the replica stores something else than the source's row (a trigger, or a narrower type): name the column under columns.exclude or columns.compare")

// errCascades refuses a delete that would reach rows which nobody looked at.
var errCascades = errors.New("rows of another table refer to it and would be deleted or changed with it (ON DELETE): they must go first, or set detect.session_replication_role: replica")

// method is how a batch's mismatched rows are written.
type method int

const (
	updateInPlace method = iota
	// deleteAndInsert frees unique values before they are taken again: rows that swap one can't be updated one by one. It also
	// gives identity columns a value, which no update can.
	deleteAndInsert
)

// Write carries out the changes, each under its guard, and returns one outcome for each, in order. A change that the replica refuses
// is found by halving the batch; its neighbours are written. The error is for what hit the batch as a whole: then nothing was written,
// or what was is in the journal and will be confirmed from there.
func (r *Replica) Write(ctx context.Context, table string, changes []drift.Change, kind digest.Kind) ([]drift.Outcome, error) {
	l, err := r.layout(table)
	if err != nil {
		return nil, err
	}
	b := batch{table: table, layout: l, kind: kind, out: make([]drift.Outcome, len(changes)), changes: changes}
	all := make([]int, len(changes))
	for i := range all {
		all[i] = i
	}
	if err := r.write(ctx, &b, all); err != nil {
		return nil, fmt.Errorf("writing to %s: %w", table, err)
	}
	if b.held != "" {
		if err := r.journal.Brake(ctx, b.held); err != nil {
			return nil, err
		}
	}
	return b.out, nil
}

type batch struct {
	table   string
	layout  *postgres.Layout
	kind    digest.Kind
	changes []drift.Change
	out     []drift.Outcome
	held    string // why the brake goes on
}

// write tries the changes of these indexes in one transaction, then in halves.
func (r *Replica) write(ctx context.Context, b *batch, idx []int) error {
	err := r.transact(ctx, b, idx, updateInPlace)
	if err == nil {
		return nil
	}
	if !r.refused(err) {
		return err
	}
	if postgres.State(err) == uniqueViolation || errors.Is(err, errStoredOtherwise) && b.layout.InsertOnly() {
		safe, ferr := r.rewritable(ctx, b.layout)
		if ferr != nil {
			return ferr
		}
		if safe {
			if err = r.transact(ctx, b, idx, deleteAndInsert); err == nil {
				return nil
			}
			if !r.refused(err) {
				return err
			}
		}
	}
	if len(idx) == 1 {
		result := drift.Failed
		switch postgres.State(err) {
		case serializationFailure, deadlockDetected, lockNotAvailable:
			result = drift.Moved // somebody else was writing it
		}
		b.out[idx[0]] = drift.Outcome{Result: result, Err: err}
		return nil
	}
	if err := r.write(ctx, b, idx[:len(idx)/2]); err != nil {
		return err
	}
	return r.write(ctx, b, idx[len(idx)/2:])
}

// refused tells a row's fault from the table's (rights, missing objects) and the connection's.
func (r *Replica) refused(err error) bool {
	if errors.Is(err, errStoredOtherwise) || errors.Is(err, errCascades) {
		return true
	}
	return postgres.State(err) != "" && !r.Unreachable(err) && !strings.HasPrefix(postgres.State(err), "42")
}

func (r *Replica) rewritable(ctx context.Context, l *postgres.Layout) (bool, error) {
	conn, err := r.pool.Acquire(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Release()
	return l.Reinsertable(ctx, conn.Conn().PgConn())
}

// begin locks a table against being rewritten, as the first thing that a transaction does, and checks that it still is what was fitted.
func begin(ctx context.Context, c *pgconn.PgConn, l *postgres.Layout) error {
	if err := l.Share(ctx, c); err != nil {
		return err
	}
	return l.CheckShape(ctx, c)
}

// set makes the settings under which rows are written.
func (w Writing) set(ctx context.Context, c *pgconn.PgConn) error {
	setting := "SET LOCAL lock_timeout = '2s'"
	if w.Role != "" && w.Role != "origin" {
		setting += "; SET LOCAL session_replication_role = " + w.Role
	}
	return c.Exec(ctx, setting).Close()
}

func (r *Replica) transact(ctx context.Context, b *batch, idx []int, how method) error {
	var done []drift.Outcome
	held := ""
	err := pgx.BeginTxFunc(ctx, r.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		c := tx.Conn().PgConn()
		if err := begin(ctx, c, b.layout); err != nil {
			return err
		}
		mode := r.opts.Write()
		allowed, err := r.journal.Allow(ctx, tx, mode.Brake)
		if err != nil {
			return err
		}
		if err := mode.set(ctx, c); err != nil {
			return err
		}
		w := writing{batch: b, idx: idx, done: make([]drift.Outcome, len(idx)), how: how, triggers: mode.Role != "replica"}
		held = w.hold(allowed, mode.Brake)
		if err := w.run(ctx, c); err != nil {
			return err
		}
		ids, err := r.journal.Journal(ctx, tx, b.table, w.entries)
		if err != nil {
			return err
		}
		for i, at := range w.entryOf {
			w.done[at].Entry = ids[i]
		}
		done = w.done
		return nil
	})
	if err != nil {
		return err
	}
	for i, at := range idx {
		b.out[at] = done[i]
	}
	if held != "" {
		b.held = held
	}
	return nil
}

// writing is one transaction's work.
type writing struct {
	*batch
	idx  []int // into changes
	done []drift.Outcome
	how  method
	// triggers: foreign keys act on what is written.
	triggers bool
	entries  []ledger.Entry
	entryOf  []int // entries[i] belongs to done[entryOf[i]]
}

// hold marks what the brake does not allow and says why.
func (w *writing) hold(a ledger.Allowance, lim ledger.Limits) string {
	reason := ""
	for i, at := range w.idx {
		ch := w.changes[at]
		w.done[i].Result = drift.Moved // until it is written
		single := ch.ResyncID == ""
		switch {
		case !ch.Source.Present && a.Deletes == 0:
			w.done[i].Result = drift.Held
			reason = fmt.Sprintf("more than %d deletes within %s (detect.brake.deletes)", lim.Deletes, lim.Window)
		case single && a.Corrections == 0:
			w.done[i].Result = drift.Held
			reason = fmt.Sprintf("more than %d corrections within %s (detect.brake.corrections)", lim.Corrections, lim.Window)
		default:
			if !ch.Source.Present {
				a.Deletes--
			}
			if single {
				a.Corrections--
			}
		}
	}
	return reason
}

// pick collects the targets of one kind; at[i] is the position in done of target i.
func (w *writing) pick(kind drift.Kind) (targets []postgres.Target, at []int) {
	for i, n := range w.idx {
		ch := w.changes[n]
		if w.done[i].Result == drift.Held || ch.Kind() != kind {
			continue
		}
		if !ch.Source.Present && !ch.Replica.Present {
			continue // both lack it: nothing to do
		}
		targets = append(targets, postgres.Target{Key: ch.Replica.Key, Version: ch.Replica.Version, Digest: ch.Replica.Digest, Values: ch.Source.Values})
		at = append(at, i)
	}
	return targets, at
}

// run deletes first, then updates, then inserts, so that unique values are free before they are taken.
func (w *writing) run(ctx context.Context, c *pgconn.PgConn) error {
	if err := w.delete(ctx, c); err != nil {
		return err
	}
	if err := w.update(ctx, c); err != nil {
		return err
	}
	targets, at := w.pick(drift.Missing)
	if len(targets) == 0 {
		return nil
	}
	after, err := w.layout.Insert(ctx, c, targets, w.kind)
	if err != nil {
		return err
	}
	for _, img := range after {
		if img.N < 0 {
			return errStoredOtherwise
		}
		if err := w.wrote(at[img.N], nil, &img); err != nil {
			return err
		}
	}
	return nil
}

func (w *writing) delete(ctx context.Context, c *pgconn.PgConn) error {
	targets, at := w.pick(drift.Extra)
	if len(targets) == 0 {
		return nil
	}
	before, err := w.layout.Lock(ctx, c, targets, w.kind)
	if err != nil || len(before) == 0 {
		return err
	}
	gone := make([]postgres.Target, len(before))
	for i, img := range before {
		gone[i] = targets[img.N]
	}
	if w.triggers {
		key, err := w.layout.Cascades(ctx, c, gone)
		if err != nil {
			return err
		}
		if key != "" {
			return fmt.Errorf("%w: %s", errCascades, key)
		}
	}
	n, err := w.layout.Delete(ctx, c, gone)
	if err != nil {
		return err
	}
	if n != len(gone) {
		return fmt.Errorf("%w: %d of %d rows were deleted", errStoredOtherwise, n, len(gone))
	}
	for _, img := range before {
		if err := w.wrote(at[img.N], &img, nil); err != nil {
			return err
		}
	}
	return nil
}

func (w *writing) update(ctx context.Context, c *pgconn.PgConn) error {
	targets, at := w.pick(drift.Mismatched)
	if len(targets) == 0 {
		return nil
	}
	before, err := w.layout.Lock(ctx, c, targets, w.kind)
	if err != nil || len(before) == 0 {
		return err
	}
	held := make([]postgres.Target, len(before))
	for i, img := range before {
		held[i] = targets[img.N]
	}
	var after []postgres.Image
	if w.how == deleteAndInsert {
		if _, err := w.layout.Delete(ctx, c, held); err != nil {
			return err
		}
		after, err = w.layout.Insert(ctx, c, held, w.kind)
	} else {
		after, err = w.layout.Update(ctx, c, held, w.kind)
	}
	if err != nil {
		return err
	}
	if len(after) != len(before) {
		return fmt.Errorf("%w: %d of %d rows were written", errStoredOtherwise, len(after), len(before))
	}
	for _, img := range after {
		if img.N < 0 {
			return errStoredOtherwise
		}
		if err := w.wrote(at[before[img.N].N], &before[img.N], &img); err != nil {
			return err
		}
	}
	return nil
}

// wrote notes one written row: its outcome and its journal entry.
func (w *writing) wrote(i int, before, after *postgres.Image) error {
	ch := w.changes[w.idx[i]]
	e := ledger.Entry{Key: ch.Replica.Key, Kind: ch.Kind(), ResyncID: ch.ResyncID, TraceID: ch.TraceID, Trace: ch.Trace, Rewrites: ch.Rewrites}
	now := drift.Observed{Key: ch.Replica.Key}
	if before != nil {
		e.Before, e.KeyJSON, e.Found = &before.JSON, before.KeyJSON, before.Version
	}
	if after != nil {
		if after.Digest != ch.Source.Digest {
			return errStoredOtherwise
		}
		e.After, e.KeyJSON, e.Version = &after.JSON, after.KeyJSON, after.Version
		now.Present, now.Version, now.Digest = true, after.Version, after.Digest
	}
	w.done[i] = drift.Outcome{Result: drift.Written, Replica: now}
	if before != nil && after != nil {
		w.done[i].Columns = differing(before.JSON, after.JSON)
	}
	w.entries = append(w.entries, e)
	w.entryOf = append(w.entryOf, i)
	return nil
}
