package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/message"
)

// suspect adds suspects, or refreshes the sighting of those that are known. A key's first_seen and attempts stay.
func (l *Ledger) suspect(ctx context.Context, tx pgx.Tx, table string, suspects []drift.Suspect, due time.Duration) error {
	if len(suspects) == 0 {
		return nil
	}
	var b pgx.Batch
	for _, s := range suspects {
		var readAt, through *time.Time
		if !s.Last.Source.ReadAt.IsZero() {
			readAt = &s.Last.Source.ReadAt
		}
		if !s.Last.Through.IsZero() {
			through = &s.Last.Through
		}
		b.Queue(`INSERT INTO trickle.suspects AS s (pipeline, table_name, key, range_id, lo, hi, resync_id, due, attempts, through,
				replica_present, replica_version, replica_digest, source_present, source_version, source_digest, source_read_at, trace)
			VALUES ($1, $2, $3, $4, $5, $6, nullif($7, ''), clock_timestamp() + $8::interval, $9, $10, $11, $12, $13, $14, $15, $16, $17, nullif($18, ''))
			ON CONFLICT (pipeline, table_name, key) DO UPDATE SET due = excluded.due, attempts = greatest(s.attempts, excluded.attempts), through = excluded.through,
				resync_id = coalesce(excluded.resync_id, s.resync_id), replica_present = excluded.replica_present, replica_version = excluded.replica_version,
				replica_digest = excluded.replica_digest, source_present = excluded.source_present, source_version = excluded.source_version,
				source_digest = excluded.source_digest, source_read_at = excluded.source_read_at, trace = coalesce(excluded.trace, s.trace)
			-- An untouched replica row keeps its older sighting: the sooner CDC has passed it. One that only named the key was never passed.
			WHERE s.attempts < excluded.attempts OR excluded.source_read_at < coalesce(s.source_read_at, 'infinity') OR (s.replica_present, s.replica_version, s.source_present, s.source_version) IS DISTINCT FROM
				(excluded.replica_present, excluded.replica_version, excluded.source_present, excluded.source_version)`,
			l.pipeline, table, array(s.Key), int64(s.RangeID), array(s.Range.Lo), array(s.Range.Hi), s.ResyncID, due, s.Attempts, through,
			s.Last.Replica.Present, int64(s.Last.Replica.Version), int64(s.Last.Replica.Digest),
			s.Last.Source.Present, int64(s.Last.Source.Version), int64(s.Last.Source.Digest), readAt, s.Trace)
		if s.ResyncID != "" { // it is the resync's, whichever sighting stays
			b.Queue(`UPDATE trickle.suspects SET resync_id = $4 WHERE pipeline = $1 AND table_name = $2 AND key = $3 AND resync_id IS DISTINCT FROM $4`, l.pipeline, table, array(s.Key), s.ResyncID)
		}
	}
	return tx.SendBatch(ctx, &b).Close()
}

// Suspect adds suspects outside of a range's record: a resync's leftovers.
func (l *Ledger) Suspect(ctx context.Context, table string, suspects []drift.Suspect, due time.Duration) error {
	err := l.locked(ctx, table, func(tx pgx.Tx) error { return l.suspect(ctx, tx, table, suspects, due) })
	if err != nil {
		return fmt.Errorf("recording suspects of %s: %w", table, err)
	}
	return nil
}

// Due takes up to limit suspects of one table that are due and leases them: they are due again after lease unless they were settled
// or put back. The table with the longest-waiting suspect comes first; no suspect due gives an empty table.
func (l *Ledger) Due(ctx context.Context, limit int, lease time.Duration) (table string, suspects []drift.Suspect, err error) {
	rows, err := l.pool.Query(ctx, `WITH t AS (
			SELECT table_name FROM trickle.suspects WHERE pipeline = $1 AND due <= clock_timestamp() ORDER BY due LIMIT 1),
		taken AS (
			SELECT s.ctid FROM trickle.suspects s JOIN t USING (table_name)
			WHERE s.pipeline = $1 AND s.due <= clock_timestamp() ORDER BY s.due LIMIT $2 FOR UPDATE OF s SKIP LOCKED)
		UPDATE trickle.suspects s SET due = clock_timestamp() + $3::interval FROM taken WHERE s.ctid = taken.ctid
		RETURNING s.table_name, s.key, s.range_id, s.lo, s.hi, coalesce(s.resync_id, ''), s.attempts, s.through, s.replica_present, s.replica_version,
			s.replica_digest, s.source_present, s.source_version, s.source_digest, s.source_read_at, coalesce(s.trace, '')`, l.pipeline, limit, lease)
	if err != nil {
		return "", nil, fmt.Errorf("taking suspects: %w", err)
	}
	var key, lo, hi []string
	var rangeID, rv, rd, sv, sd int64
	var resyncID, trace string
	var attempts int
	var through, readAt *time.Time
	var rp, sp bool
	_, err = pgx.ForEachRow(rows, []any{&table, &key, &rangeID, &lo, &hi, &resyncID, &attempts, &through, &rp, &rv, &rd, &sp, &sv, &sd, &readAt, &trace}, func() error {
		s := drift.Sighting{
			Replica: drift.Observed{Key: key, Present: rp, Version: uint64(rv), Digest: uint64(rd)},
			Source:  drift.Fetched{Present: sp, Version: uint64(sv), Digest: uint64(sd)},
		}
		if through != nil {
			s.Through = through.UTC()
		}
		if readAt != nil {
			s.Source.ReadAt = readAt.UTC()
		}
		suspects = append(suspects, drift.Suspect{Key: key, Range: message.Range{Lo: lo, Hi: hi}, RangeID: uint64(rangeID), ResyncID: resyncID, Attempts: attempts, Trace: trace, Last: &s})
		key, lo, hi = nil, nil, nil
		return nil
	})
	if err != nil {
		return "", nil, fmt.Errorf("taking suspects: %w", err)
	}
	return table, suspects, nil
}

// Settle writes a batch's outcome in one transaction.
func (l *Ledger) Settle(ctx context.Context, table string, s entry.Settled) error {
	left := make(map[string]bool, len(s.Left))
	for _, d := range s.Left {
		left[d.Key.ID()] = true
	}
	err := l.locked(ctx, table, func(tx pgx.Tx) error {
		var b pgx.Batch
		for _, k := range s.Done {
			b.Queue(`WITH gone AS (DELETE FROM trickle.reported WHERE pipeline = $1 AND table_name = $2 AND key = $3 AND NOT $4 RETURNING 1)
				DELETE FROM trickle.suspects WHERE pipeline = $1 AND table_name = $2 AND key = $3`, l.pipeline, table, array(k), left[k.ID()])
		}
		for _, d := range s.Left {
			b.Queue(report, l.pipeline, table, array(d.Key), string(d.Kind), int64(d.RangeID))
		}
		if s.Resolved+s.Failed > 0 {
			b.Queue(`UPDATE trickle.tables SET resolved = resolved + $3, failed = failed + $4, last_failure = coalesce(nullif($5, ''), last_failure)
				WHERE pipeline = $1 AND table_name = $2`, l.pipeline, table, s.Resolved, s.Failed, l.plain(s.Failure))
		}
		for id, n := range s.FailedOf {
			b.Queue(`UPDATE trickle.resyncs SET refused = refused + $2 WHERE id = $1`, id, n)
		}
		for _, again := range s.Again {
			b.Queue(`UPDATE trickle.suspects SET due = clock_timestamp() + $4::interval, attempts = $5 WHERE pipeline = $1 AND table_name = $2 AND key = $3`,
				l.pipeline, table, array(again.Key), s.Due, again.Attempts)
		}
		if b.Len() > 0 {
			if err := tx.SendBatch(ctx, &b).Close(); err != nil {
				return err
			}
		}
		return l.suspect(ctx, tx, table, s.Again, s.Due)
	})
	if err != nil {
		return fmt.Errorf("settling suspects of %s: %w", table, err)
	}
	return nil
}

// Suspects counts a pipeline's suspects, those of a resync only when one is named.
func (l *Ledger) Suspects(ctx context.Context, resyncID string) (int, error) {
	var n int
	err := l.pool.QueryRow(ctx, `SELECT count(*) FROM trickle.suspects WHERE pipeline = $1 AND ($2 = '' OR resync_id = $2)`, l.pipeline, resyncID).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("counting suspects: %w", err)
	}
	return n, nil
}
