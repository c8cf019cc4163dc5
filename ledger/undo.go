package ledger

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// BeginUndo makes a transaction wait for those that write corrections, as they wait for each other, so that what it finds stays as it is. A brake that is on does not
// stop it: a person asks. A restore that is under way does, since it writes the rows anew.
func (l *Ledger) BeginUndo(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('trickle.brake.' || $1, 0))`, l.pipeline); err != nil {
		return fmt.Errorf("waiting for corrections that are being written: %w", err)
	}
	var under bool
	if err := tx.QueryRow(ctx, `SELECT `+restoring, l.pipeline).Scan(&under); err != nil {
		return fmt.Errorf("looking for a restore: %w", outdated(err))
	}
	if under {
		return ErrUnderRestore
	}
	return nil
}

// ErrUnderRestore is returned where a restore is under way.
var ErrUnderRestore = fmt.Errorf("a restore of this replica is under way, which writes its rows anew: see trickle-consumer status")

// UndoneAlready is why a correction can't be undone once more.
var errUndoneAlready = fmt.Errorf("it was undone already")

// Undone marks a line of the journal as taken back, in the transaction that does; version is the xmin of the row that was put back, 0 where there is none. Whoever was to
// confirm it need not any more.
func (l *Ledger) Undone(ctx context.Context, tx pgx.Tx, id CorrectionID, version uint64) error {
	sql, args := `UPDATE trickle.corrections SET undone_at = clock_timestamp(), undone_version = nullif($3::bigint, 0), closed_at = coalesce(closed_at, clock_timestamp()), outcome = coalesce(outcome, 'superseded')
		WHERE pipeline = $1 AND id = $2 AND undone_at IS NULL`, []any{l.pipeline, id.N, int64(version)}
	if id.Copy {
		sql, args = `UPDATE trickle.copies SET undone_at = clock_timestamp(), closed_at = coalesce(closed_at, clock_timestamp()) WHERE pipeline = $1 AND id = $2 AND undone_at IS NULL`, args[:2]
	}
	tag, err := tx.Exec(ctx, sql, args...)
	if err != nil {
		return fmt.Errorf("marking correction %s as undone: %w", id, outdated(err))
	}
	if tag.RowsAffected() == 0 {
		return errUndoneAlready
	}
	return nil
}

// Left is every version under which a row may still be what a correction left: the one that it wrote, or one that was put back by undoing a later correction, which had found the
// row under one of these. What somebody has written in between breaks that chain.
func (l *Ledger) Left(ctx context.Context, tx pgx.Tx, c Recorded) ([]uint64, error) {
	rows, err := tx.Query(ctx, `SELECT found, undone_version FROM trickle.corrections WHERE pipeline = $1 AND table_name = $2 AND key = $3::jsonb AND undone_at IS NOT NULL
		AND found IS NOT NULL AND undone_version IS NOT NULL AND id > $4 ORDER BY id`, l.pipeline, c.Table, c.KeyJSON, c.ID.N)
	if err != nil {
		return nil, fmt.Errorf("reading what was undone of %s: %w", c.Table, outdated(err))
	}
	left := []uint64{c.Version}
	var found, undone int64
	_, err = pgx.ForEachRow(rows, []any{&found, &undone}, func() error {
		if slices.Contains(left, uint64(found)) {
			left = append(left, uint64(undone))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading what was undone of %s: %w", c.Table, outdated(err))
	}
	return left, nil
}

// Later finds, of corrections, the next one of the same row that was not undone: it has rewritten what they left.
func (l *Ledger) Later(ctx context.Context, ids []int64) (map[int64]int64, error) {
	rows, err := l.pool.Query(ctx, `SELECT c.id, min(n.id) FROM trickle.corrections c JOIN trickle.corrections n ON n.pipeline = c.pipeline AND n.table_name = c.table_name AND n.key = c.key AND n.id > c.id
		WHERE c.id = ANY($2) AND c.pipeline = $1 AND n.undone_at IS NULL GROUP BY 1`, l.pipeline, ids)
	if err != nil {
		return nil, fmt.Errorf("looking for later corrections: %w", outdated(err))
	}
	later := make(map[int64]int64)
	var id, next int64
	if _, err = pgx.ForEachRow(rows, []any{&id, &next}, func() error { later[id] = next; return nil }); err != nil {
		return nil, fmt.Errorf("looking for later corrections: %w", outdated(err))
	}
	return later, nil
}
