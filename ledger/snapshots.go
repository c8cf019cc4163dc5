package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/entry"
)

// BeginSnapshot decides that a resync goes by way of a snapshot of Debezium's: once, and only while it has not begun in another way.
func (l *Ledger) BeginSnapshot(ctx context.Context, resyncID string) error {
	_, err := l.pool.Exec(ctx, `INSERT INTO trickle.snapshots (resync_id) SELECT id FROM trickle.resyncs
		WHERE id = $1 AND state = 'running' AND NOT planned ON CONFLICT DO NOTHING`, resyncID)
	if err != nil {
		return fmt.Errorf("beginning the snapshot of resync %s: %w", resyncID, err)
	}
	return nil
}

// Snapshots lists the snapshots of running resyncs, the oldest resync's first.
func (l *Ledger) Snapshots(ctx context.Context) ([]entry.Snapshot, error) {
	rows, err := l.pool.Query(ctx, `SELECT s.resync_id, r.table_name, s.state, s.signal, s.attempts, clock_timestamp() - s.progress_at, s.scan, s.rows, s.through,
			s.remaining, s.failure, s.version
		FROM trickle.snapshots s JOIN trickle.resyncs r ON r.id = s.resync_id WHERE r.pipeline = $1 AND r.state = 'running' ORDER BY r.requested_at`, l.pipeline)
	if err != nil {
		return nil, fmt.Errorf("listing snapshots: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (entry.Snapshot, error) {
		var s entry.Snapshot
		var through *time.Time
		err := row.Scan(&s.ResyncID, &s.Table, &s.State, &s.Signal, &s.Attempts, &s.Idle, &s.Scan, &s.Rows, &through, &s.Remaining, &s.Failure, &s.Version)
		if through != nil {
			s.Through = through.UTC()
		}
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("listing snapshots: %w", err)
	}
	return out, nil
}

// StoreSnapshot writes a snapshot back, unless somebody else did since it was read, or its resync ended, or it would be under way beside another one of the
// pipeline: a connector has one queue. It reports whether it did.
func (l *Ledger) StoreSnapshot(ctx context.Context, s entry.Snapshot) (bool, error) {
	var through *time.Time
	if !s.Through.IsZero() {
		through = &s.Through
	}
	stored := false
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('trickle.snapshot.' || $1, 0))`, l.pipeline); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `UPDATE trickle.snapshots s SET state = $4, signal = $5, attempts = $6, progress_at = clock_timestamp() - $7::interval, scan = $8, rows = $9,
				through = $10, failure = $11, version = s.version + 1
			FROM trickle.resyncs r WHERE s.resync_id = $2 AND s.version = $3 AND r.id = s.resync_id AND r.state = 'running' AND ($4 <> 'signalled' OR NOT EXISTS (
				SELECT FROM trickle.snapshots o JOIN trickle.resyncs q ON q.id = o.resync_id
				WHERE q.pipeline = $1 AND q.state = 'running' AND o.resync_id <> $2 AND o.state IN ('signalled', 'started', 'paused')))`,
			l.pipeline, s.ResyncID, s.Version, s.State, s.Signal, s.Attempts, s.Idle, l.plain(s.Scan), s.Rows, through, l.plain(s.Failure))
		stored = err == nil && tag.RowsAffected() > 0
		return err
	})
	if err != nil {
		return false, fmt.Errorf("storing the snapshot of resync %s: %w", s.ResyncID, err)
	}
	return stored, nil
}

// Remained counts rows that a snapshot was to mend and did not.
func (l *Ledger) Remained(ctx context.Context, resyncID string, n int) error {
	_, err := l.pool.Exec(ctx, `UPDATE trickle.snapshots SET remaining = remaining + $2 WHERE resync_id = $1`, resyncID, n)
	if err != nil {
		return fmt.Errorf("counting what the snapshot of resync %s left: %w", resyncID, err)
	}
	return nil
}
