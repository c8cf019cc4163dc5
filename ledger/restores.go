package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/entry"
)

// restoring is true while a restore of the pipeline $1 is under way: what the replica holds is of many moments, or not all there, so nothing that differs is drift.
// One that failed before it was being proven has left such a replica behind, until it is taken up again or given up. While it is being proven, what differs is to be corrected.
const restoring = `EXISTS (SELECT FROM trickle.restores o WHERE o.pipeline = $1 
	AND (o.state IN ('loading', 'loaded', 'playing', 'finishing') OR o.state = 'failed' AND o.stopped <> 'proving'))`

// Restoring says why nothing may be corrected, empty where no restore is under way.
func (l *Ledger) Restoring(ctx context.Context) (string, error) {
	var set, state string
	err := l.pool.QueryRow(ctx, `SELECT set_name, state FROM trickle.restores WHERE pipeline = $1 AND `+restoring+` AND state NOT IN ('done', 'abandoned')`, l.pipeline).Scan(&set, &state)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("looking for a restore: %w", missing(err))
	case state == entry.RestoreFailed:
		return fmt.Sprintf("a restore of set %s stopped half-way: run trickle-consumer restore again to go on with it", set), nil
	default:
		return fmt.Sprintf("a restore of set %s is under way (%s)", set, state), nil
	}
}

// ErrRestoring is wrapped where another process restores this pipeline's replica.
var ErrRestoring = errors.New("another process is restoring this replica")

// LockRestore keeps other processes from restoring this pipeline's replica, until release is called or this process ends.
func (l *Ledger) LockRestore(ctx context.Context) (release func(), err error) {
	conn, err := l.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connecting to the replica: %w", err)
	}
	const name = `hashtextextended('trickle.restore.' || $1, 0)`
	got := false
	if err = conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(`+name+`)`, l.pipeline).Scan(&got); err == nil && !got {
		err = fmt.Errorf("pipeline %s: %w: wait for it, or stop it and try again", l.pipeline, ErrRestoring)
	}
	if err != nil {
		conn.Release()
		return nil, err
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if _, err := conn.Exec(ctx, `SELECT pg_advisory_unlock(`+name+`)`, l.pipeline); err != nil {
			_ = conn.Conn().Close(ctx) // which lets go of it as well
		}
		conn.Release()
	}, nil
}

// BeginRestore records a restore with its tables and ranges, in the transaction that makes the replica ready for it. Another that is open is given up.
func (l *Ledger) BeginRestore(ctx context.Context, tx pgx.Tx, r entry.Restore, ranges []entry.RestoredRange) error {
	if r.Arguments == nil {
		r.Arguments = map[string]string{}
	}
	var b pgx.Batch
	b.Queue(`UPDATE trickle.restores SET state = 'abandoned', ended_at = clock_timestamp(), failure = 'taken over by ' || $2 WHERE pipeline = $1 AND state NOT IN ('done', 'abandoned')`, l.pipeline, r.ID)
	b.Queue(`INSERT INTO trickle.restores (id, pipeline, set_name, source, state, arguments) VALUES ($1, $2, $3, $4, 'loading', $5)`, r.ID, l.pipeline, r.Set, r.Source, r.Arguments)
	for _, t := range r.Tables {
		b.Queue(`INSERT INTO trickle.restore_tables (restore_id, table_name, replica_name, created, indexed) VALUES ($1, $2, $3, $4, $5)`, r.ID, t.Table, t.Replica, t.Created, t.Indexed)
	}
	for _, g := range ranges {
		b.Queue(`INSERT INTO trickle.restore_ranges (restore_id, n, table_name, object, rows, bytes) VALUES ($1, $2, $3, $4, $5, $6)`, r.ID, g.N, g.Table, g.Object, g.Rows, g.Bytes)
	}
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return fmt.Errorf("recording the restore: %w", err)
	}
	return nil
}

// OpenRestore is the restore that has yet to come to an end, nil where there is none.
func (l *Ledger) OpenRestore(ctx context.Context) (*entry.Restore, error) {
	r, err := l.restore(ctx, l.pool, `r.state NOT IN ('done', 'abandoned')`)
	if err != nil {
		return nil, fmt.Errorf("looking for a restore: %w", missing(err))
	}
	return r, nil
}

// reportRestore reports the newest restore.
func (l *Ledger) reportRestore(ctx context.Context, tx pgx.Tx, to *Report) error {
	r, err := l.restore(ctx, tx, `true`)
	if r == nil || err != nil {
		return err
	}
	to.Restore = &RestoreReport{ID: r.ID, Set: r.Set, State: r.State, Stopped: r.Stopped, Failure: r.Failure, Ranges: r.Ranges, RangesDone: r.Done, Rows: r.Rows, Started: r.Started}
	if !r.Ended.IsZero() {
		to.Restore.Ended = &r.Ended
	}
	return nil
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func (l *Ledger) restore(ctx context.Context, on querier, which string) (*entry.Restore, error) {
	var r entry.Restore
	var ended *time.Time
	err := on.QueryRow(ctx, `SELECT r.id, r.set_name, r.source, r.state, r.stopped, r.failure, r.arguments, r.started_at, r.ended_at, r.not_made, g.ranges, g.done, g.rows, g.bytes
		FROM trickle.restores r, LATERAL (SELECT count(*) AS ranges, count(*) FILTER (WHERE done) AS done, coalesce(sum(rows) FILTER (WHERE done), 0)::bigint AS rows,
			coalesce(sum(bytes) FILTER (WHERE done), 0)::bigint AS bytes FROM trickle.restore_ranges WHERE restore_id = r.id) g
		WHERE r.pipeline = $1 AND `+which+` ORDER BY r.started_at DESC LIMIT 1`, l.pipeline).
		Scan(&r.ID, &r.Set, &r.Source, &r.State, &r.Stopped, &r.Failure, &r.Arguments, &r.Started, &ended, &r.NotMade, &r.Ranges, &r.Done, &r.Rows, &r.Bytes)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r.Started = r.Started.UTC()
	if ended != nil {
		r.Ended = ended.UTC()
	}
	rows, err := on.Query(ctx, `SELECT table_name, replica_name, created, indexed FROM trickle.restore_tables WHERE restore_id = $1 ORDER BY table_name`, r.ID)
	if err != nil {
		return nil, err
	}
	r.Tables, err = pgx.CollectRows(rows, pgx.RowToStructByPos[entry.RestoredTable])
	return &r, err
}

// RestoreRanges lists a restore's ranges, in order.
func (l *Ledger) RestoreRanges(ctx context.Context, id string) ([]entry.RestoredRange, error) {
	rows, err := l.pool.Query(ctx, `SELECT n, table_name, object, rows, bytes, done FROM trickle.restore_ranges WHERE restore_id = $1 ORDER BY n`, id)
	if err != nil {
		return nil, fmt.Errorf("listing the ranges of restore %s: %w", id, err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[entry.RestoredRange])
	if err != nil {
		return nil, fmt.Errorf("listing the ranges of restore %s: %w", id, err)
	}
	return out, nil
}

// LoadRange marks a range as copied in, as the first thing that the transaction does which copies it: nobody else can take it then, and it is marked only if that
// commits. It reports whether the range is the caller's, which it is not where it is done, or the restore is not being loaded any more.
func (l *Ledger) LoadRange(ctx context.Context, tx pgx.Tx, id string, n int) (bool, error) {
	tag, err := tx.Exec(ctx, `UPDATE trickle.restore_ranges g SET done = true FROM trickle.restores r WHERE g.restore_id = $1 AND g.n = $2 AND NOT g.done AND r.id = g.restore_id AND r.state = 'loading'`, id, n)
	if err != nil {
		return false, fmt.Errorf("taking a range of restore %s: %w", id, err)
	}
	return tag.RowsAffected() > 0, nil
}

// ReloadTable marks all ranges of a table as not copied in, in the transaction that empties it.
func (l *Ledger) ReloadTable(ctx context.Context, tx pgx.Tx, id, table string) error {
	_, err := tx.Exec(ctx, `UPDATE trickle.restore_ranges SET done = false WHERE restore_id = $1 AND table_name = $2`, id, table)
	if err != nil {
		return fmt.Errorf("recording that %s is to be copied in again: %w", table, err)
	}
	return nil
}

// Indexed marks a table of which all that holds for any rows has been made.
func (l *Ledger) Indexed(ctx context.Context, id, table string) error {
	_, err := l.pool.Exec(ctx, `UPDATE trickle.restore_tables SET indexed = true WHERE restore_id = $1 AND table_name = $2`, id, table)
	if err != nil {
		return fmt.Errorf("recording that %s has its indexes: %w", table, err)
	}
	return nil
}

// NotMade remembers an index or a constraint that could not be made, so that who goes on with the restore knows of it; without an error, that it was made after all.
func (l *Ledger) NotMade(ctx context.Context, id string, n entry.NotMade) error {
	_, err := l.pool.Exec(ctx, `UPDATE trickle.restores SET not_made = (SELECT coalesce(jsonb_agg(e), '[]') FROM jsonb_array_elements(not_made) e
		WHERE (e->>'table', e->>'name') IS DISTINCT FROM ($2, $3)) || CASE WHEN $5 = '' THEN '[]' ELSE jsonb_build_array(jsonb_build_object('table', $2::text, 'name', $3::text, 'sql', $4::text, 'error', $5::text)) END WHERE id = $1`,
		id, n.Table, n.Name, n.SQL, n.Error)
	if err != nil {
		return fmt.Errorf("recording that %s of %s could not be made: %w", n.Name, n.Table, err)
	}
	return nil
}

// AdvanceRestore puts a restore into a state, unless it has come to an end; one that had failed goes on with that. Once it returns, all that was committed before is on the server's disk,
// though no commit of a range waited for that.
func (l *Ledger) AdvanceRestore(ctx context.Context, id, state string) error {
	changed := int64(0)
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('synchronous_commit', 'local', true) WHERE current_setting('synchronous_commit') = 'off'`); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `UPDATE trickle.restores SET state = $2, stopped = '', failure = '', ended_at = CASE WHEN $2 IN ('done', 'abandoned') THEN clock_timestamp() END
			WHERE id = $1 AND state NOT IN ('done', 'abandoned')`, id, state)
		changed = tag.RowsAffected()
		return err
	})
	if err != nil {
		return fmt.Errorf("recording how far restore %s is: %w", id, err)
	}
	if changed == 0 {
		return fmt.Errorf("restore %s has come to an end: see trickle-consumer status", id)
	}
	return nil
}

// FailRestore records why a restore stopped, and in which state, in which it may be taken up again.
func (l *Ledger) FailRestore(ctx context.Context, id, failure string) error {
	_, err := l.pool.Exec(ctx, `UPDATE trickle.restores SET stopped = CASE WHEN state = 'failed' THEN stopped ELSE state END, state = 'failed', failure = $2
		WHERE id = $1 AND state NOT IN ('done', 'abandoned')`, id, l.plain(failure))
	if err != nil {
		return fmt.Errorf("recording why restore %s stopped: %w", id, err)
	}
	return nil
}
