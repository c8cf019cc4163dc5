package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/message"
)

// Copied is a copy about to be committed.
type Copied struct {
	drift.Copy
	Version uint64 // xmin of its rows
	Undo    string // the statement that takes them back
}

// Copied writes a copy in the transaction that made it and returns its id, or 0 where the brake is on, or a restore under way: then the transaction must not be committed.
func (l *Ledger) Copied(ctx context.Context, tx pgx.Tx, table string, c Copied) (int64, error) {
	var id int64
	err := tx.QueryRow(ctx, `INSERT INTO trickle.copies (pipeline, table_name, lo, hi, rows, version, undo, resync_id, piece)
		SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 FROM trickle.pipelines p WHERE p.pipeline = $1 AND p.brake_reason IS NULL AND NOT `+restoring+` RETURNING id`,
		l.pipeline, table, array(c.Range.Lo), array(c.Range.Hi), int64(c.Print.Rows), int64(c.Version), c.Undo, c.ResyncID, c.Piece).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("journalling a copy of %s: %w", table, err)
	}
	return id, nil
}

// Abandoned takes one copy that was written and never confirmed, that nobody set out to confirm for age, and that no piece of a running resync will meet
// again: whoever wrote it died, and its resync was ended. ok is false where there is none.
func (l *Ledger) Abandoned(ctx context.Context, age time.Duration) (c entry.OpenCopy, ok bool, err error) {
	var lo, hi []string
	err = l.pool.QueryRow(ctx, `UPDATE trickle.copies c SET checked_at = clock_timestamp() WHERE c.id = (
			SELECT o.id FROM trickle.copies o WHERE o.closed_at IS NULL AND o.pipeline = $1 AND o.checked_at < clock_timestamp() - $2::interval
				AND NOT EXISTS (SELECT FROM trickle.resync_ranges r JOIN trickle.resyncs s ON s.id = r.resync_id
					WHERE r.resync_id = o.resync_id AND r.n = o.piece AND NOT r.done AND s.state = 'running')
			ORDER BY o.checked_at, o.id LIMIT 1 FOR UPDATE SKIP LOCKED)
		RETURNING c.id, c.table_name, c.lo, c.hi, c.resync_id`, l.pipeline, age).Scan(&c.ID, &c.Table, &lo, &hi, &c.ResyncID)
	if errors.Is(err, pgx.ErrNoRows) {
		return entry.OpenCopy{}, false, nil
	}
	if err != nil {
		return entry.OpenCopy{}, false, fmt.Errorf("looking for unconfirmed copies: %w", err)
	}
	c.Range = message.Range{Lo: lo, Hi: hi}
	return c, true, nil
}

// CloseCopies ends copies whose ranges were looked at after they were written: what differed by then is a suspect.
func (l *Ledger) CloseCopies(ctx context.Context, ids []int64) error {
	if err := closeCopies(ctx, l.pool, ids); err != nil {
		return fmt.Errorf("closing copies: %w", err)
	}
	return nil
}

// execer is a pool or a transaction.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

func closeCopies(ctx context.Context, on execer, ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := on.Exec(ctx, `UPDATE trickle.copies SET closed_at = clock_timestamp() WHERE id = ANY($1) AND closed_at IS NULL`, ids)
	return err
}
