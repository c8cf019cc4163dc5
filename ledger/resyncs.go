package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/message"
)

// Request records a resync unless one is under way over the same table and scope or the cooldown has not passed. It reports whether it did.
// A full one takes over from partial ones that wait or run.
func (l *Ledger) Request(ctx context.Context, w entry.Wish) (bool, error) {
	made := false
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('trickle.resync.' || $1, 0))`, l.pipeline); err != nil {
			return err
		}
		if !w.Since.IsZero() {
			_, err := tx.Exec(ctx, `UPDATE trickle.resyncs r SET state = 'done', ended_at = clock_timestamp(), failure = 'taken over by ' || $3 WHERE pipeline = $1 AND table_name = $2
				AND (state = 'waiting' OR state = 'running' AND (requested_at < $4 OR EXISTS (SELECT FROM trickle.snapshots WHERE resync_id = r.id)))`, l.pipeline, w.Table, w.ID, w.Since)
			if err != nil {
				return err
			}
		}
		state := "running"
		if w.Waiting {
			state = "waiting"
		}
		tag, err := tx.Exec(ctx, `INSERT INTO trickle.resyncs (id, pipeline, scope, table_name, lo, hi, state, reason, approved_at)
			SELECT $1, $2, $3, $4, $5, $6, $7, $8, CASE WHEN $7 = 'running' THEN clock_timestamp() END
			WHERE NOT EXISTS (SELECT FROM trickle.resyncs r WHERE r.pipeline = $2 AND r.table_name = $4 AND (
				-- Under way: the whole table, or the same part of it.
				r.state IN ('waiting', 'running') AND (r.scope = 'full' OR $3 = 'partial' AND $9::interval > '0' OR (r.lo, r.hi) IS NOT DISTINCT FROM ($5::text[], $6::text[]))
				OR $9::interval > '0' AND r.requested_at > clock_timestamp() - $9::interval
					AND (r.scope = 'full' OR r.scope = $3 AND (r.lo, r.hi) IS NOT DISTINCT FROM ($5::text[], $6::text[]))))`,
			w.ID, l.pipeline, w.Scope, w.Table, array(w.Range.Lo), array(w.Range.Hi), state, l.plain(w.Reason), w.Cooldown)
		if err != nil {
			return err
		}
		made = tag.RowsAffected() > 0
		if made && w.Scope == entry.Full && !w.Waiting {
			_, err = tx.Exec(ctx, `UPDATE trickle.resyncs SET state = 'done', ended_at = clock_timestamp(), failure = 'taken over by ' || $3
				WHERE pipeline = $1 AND table_name = $2 AND id <> $3 AND state IN ('waiting', 'running')`, l.pipeline, w.Table, w.ID)
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("asking for a resync of %s: %w", w.Table, missing(err))
	}
	return made, nil
}

// ErrNoResync is returned by Approve where there is none of that id waiting.
var ErrNoResync = errors.New("no resync of that id is waiting for approval")

// Approve releases a waiting resync.
func (l *Ledger) Approve(ctx context.Context, id string) error {
	tag, err := l.pool.Exec(ctx, `UPDATE trickle.resyncs SET state = 'running', approved_at = clock_timestamp() WHERE pipeline = $1 AND id = $2 AND state = 'waiting'`, l.pipeline, id)
	if err != nil {
		return fmt.Errorf("approving resync %s: %w", id, missing(err))
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("resync %s: %w; see trickle-consumer status", id, ErrNoResync)
	}
	return nil
}

// Cancel ends a waiting or running resync because a person says so.
func (l *Ledger) Cancel(ctx context.Context, id string) error {
	tag, err := l.pool.Exec(ctx, `UPDATE trickle.resyncs SET state = 'failed', failure = 'cancelled by hand', ended_at = clock_timestamp()
		WHERE pipeline = $1 AND id = $2 AND state IN ('waiting', 'running')`, l.pipeline, id)
	if err != nil {
		return fmt.Errorf("cancelling resync %s: %w", id, missing(err))
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("resync %s neither waits nor runs; see trickle-consumer status", id)
	}
	return nil
}

// Note keeps why a running resync does not get on, for status.
func (l *Ledger) Note(ctx context.Context, id, failure string) error {
	_, err := l.pool.Exec(ctx, `UPDATE trickle.resyncs SET failure = $2 WHERE id = $1 AND state = 'running'`, id, l.plain(failure))
	if err != nil {
		return fmt.Errorf("noting why resync %s does not get on: %w", id, err)
	}
	return nil
}

// Running lists the resyncs that are to be worked on, oldest first.
func (l *Ledger) Running(ctx context.Context) ([]entry.Resync, error) {
	rows, err := l.pool.Query(ctx, `SELECT id, scope, table_name, lo, hi, state, reason, planned, rows, EXISTS (SELECT FROM trickle.snapshots WHERE resync_id = id) FROM trickle.resyncs
		WHERE pipeline = $1 AND state = 'running' ORDER BY requested_at`, l.pipeline)
	if err != nil {
		return nil, fmt.Errorf("listing resyncs: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (entry.Resync, error) {
		var r entry.Resync
		var lo, hi []string
		err := row.Scan(&r.ID, &r.Scope, &r.Table, &lo, &hi, &r.State, &r.Reason, &r.Planned, &r.Rows, &r.Snapshot)
		r.Range = message.Range{Lo: lo, Hi: hi}
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("listing resyncs: %w", err)
	}
	return out, nil
}

// Plan stores a resync's ranges, once: a second instance that plans at the same time finds it done.
func (l *Ledger) Plan(ctx context.Context, id string, ranges []message.Range) error {
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE trickle.resyncs SET planned = true, started_at = clock_timestamp() WHERE id = $1 AND NOT planned`, id)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		var b pgx.Batch
		for n, r := range ranges {
			b.Queue(`INSERT INTO trickle.resync_ranges (resync_id, n, lo, hi) VALUES ($1, $2, $3, $4)`, id, n, array(r.Lo), array(r.Hi))
		}
		return tx.SendBatch(ctx, &b).Close()
	})
	if err != nil {
		return fmt.Errorf("planning resync %s: %w", id, err)
	}
	return nil
}

// Take leases the next piece of a resync that nobody works on. ok is false where there is none; left counts the pieces not done yet.
func (l *Ledger) Take(ctx context.Context, id string, lease time.Duration) (p entry.Piece, left int, ok bool, err error) {
	err = l.pool.QueryRow(ctx, `SELECT count(*) FROM trickle.resync_ranges WHERE resync_id = $1 AND NOT done`, id).Scan(&left)
	if err != nil {
		return entry.Piece{}, 0, false, fmt.Errorf("counting what is left of resync %s: %w", id, err)
	}
	var lo, hi []string
	err = l.pool.QueryRow(ctx, `WITH next AS (
			SELECT r.ctid FROM trickle.resync_ranges r JOIN trickle.resyncs s ON s.id = r.resync_id AND s.state = 'running'
			WHERE r.resync_id = $1 AND NOT r.done AND r.leased_until < clock_timestamp() ORDER BY r.n LIMIT 1 FOR UPDATE OF r SKIP LOCKED)
		UPDATE trickle.resync_ranges r SET leased_until = clock_timestamp() + $2::interval FROM next WHERE r.ctid = next.ctid RETURNING r.n, r.lo, r.hi,
			ARRAY(SELECT c.id FROM trickle.copies c WHERE c.resync_id = $1 AND c.piece = r.n AND c.closed_at IS NULL)`,
		id, lease).Scan(&p.N, &lo, &hi, &p.Copies)
	if errors.Is(err, pgx.ErrNoRows) {
		return entry.Piece{}, left, false, nil
	}
	if err != nil {
		return entry.Piece{}, 0, false, fmt.Errorf("taking a range of resync %s: %w", id, err)
	}
	p.Range = message.Range{Lo: lo, Hi: hi}
	return p, left, true, nil
}

// Finish marks a piece done, of which so many rows were looked at, and closes its copies, which are thereby confirmed.
func (l *Ledger) Finish(ctx context.Context, id string, p entry.Piece, rows int) error {
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		if err := closeCopies(ctx, tx, p.Copies); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `UPDATE trickle.resync_ranges SET done = true, differing = $3 WHERE resync_id = $1 AND n = $2 AND NOT done`, id, p.N, p.Differing)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE trickle.resyncs SET rows = rows + $2 WHERE id = $1`, id, rows)
		return err
	})
	if err != nil {
		return fmt.Errorf("finishing a range of resync %s: %w", id, err)
	}
	return nil
}

// Drop gives a piece back, so that it need not wait for its lease.
func (l *Ledger) Drop(ctx context.Context, id string, n int) error {
	_, err := l.pool.Exec(ctx, `UPDATE trickle.resync_ranges SET leased_until = '-infinity' WHERE resync_id = $1 AND n = $2 AND NOT done`, id, n)
	if err != nil {
		return fmt.Errorf("giving back a range of resync %s: %w", id, err)
	}
	return nil
}

// End closes a resync; an empty failure means that it is done.
func (l *Ledger) End(ctx context.Context, id, failure string) (entry.Ended, error) {
	out := entry.Ended{Now: true}
	err := l.pool.QueryRow(ctx, `UPDATE trickle.resyncs SET state = CASE WHEN $2 = '' AND refused = 0 THEN 'done' ELSE 'failed' END,
		failure = coalesce(nullif($2, ''), CASE WHEN refused > 0 THEN refused || ' rows were refused by the replica; the last reason stands with the table' END), ended_at = clock_timestamp(),
		corrected = (SELECT count(*) FROM trickle.corrections WHERE resync_id = $1) + (SELECT coalesce(sum(c.rows), 0) FROM trickle.copies c WHERE c.resync_id = $1) WHERE id = $1 AND state = 'running'
		RETURNING state, requested_at, rows, corrected`, id, l.plain(failure)).Scan(&out.State, &out.Requested, &out.Rows, &out.Corrected)
	if errors.Is(err, pgx.ErrNoRows) {
		return entry.Ended{}, nil // somebody else ended it
	}
	if err != nil {
		return entry.Ended{}, fmt.Errorf("ending resync %s: %w", id, err)
	}
	return out, nil
}

// Covers reports whether a running resync of the table takes the whole of it.
func (l *Ledger) Covers(ctx context.Context, table string) (bool, error) {
	var covers bool
	err := l.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM trickle.resyncs WHERE pipeline = $1 AND table_name = $2 AND state = 'running' AND scope = 'full')`,
		l.pipeline, table).Scan(&covers)
	if err != nil {
		return false, fmt.Errorf("looking for a resync of %s: %w", table, err)
	}
	return covers, nil
}
