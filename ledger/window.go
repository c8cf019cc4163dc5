package ledger

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/message"
)

// Record notes a compared range together with the suspects it gave, in one transaction: once it returns, the message is dealt with.
func (l *Ledger) Record(ctx context.Context, v entry.Verified, suspects []drift.Suspect, due time.Duration) error {
	err := l.locked(ctx, v.Table, func(tx pgx.Tx) error {
		if err := l.begunAnew(ctx, tx, v); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `WITH seen AS (
				INSERT INTO trickle.ranges (pipeline, table_name, range_id, lo, hi, cycle, rows, equal, verified_at)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp())
				ON CONFLICT (pipeline, table_name, range_id) DO UPDATE SET lo = excluded.lo, hi = excluded.hi, cycle = excluded.cycle,
					rows = excluded.rows, equal = excluded.equal, verified_at = excluded.verified_at), scanned AS (
				UPDATE trickle.unscanned SET reason = '' WHERE pipeline = $1 AND table_name = $2 AND reason <> '' AND told < $11)
			UPDATE trickle.tables SET cycle = greatest(cycle, $6), ranges = $9, digest = $10, read_at = greatest(read_at, $11), rows_verified = rows_verified + $7,
				ranges_verified = ranges_verified + 1, paused = '' WHERE pipeline = $1 AND table_name = $2`,
			l.pipeline, v.Table, int64(v.RangeID), array(v.Range.Lo), array(v.Range.Hi), int64(v.Cycle), int64(v.Rows), v.Equal, int64(v.Ranges), v.Digest.String(), v.ReadAt)
		if err != nil {
			return err
		}
		// Ranges that were split or merged away are not verified again and would count as coverage for ever.
		if _, err := tx.Exec(ctx, `DELETE FROM trickle.ranges WHERE pipeline = $1 AND table_name = $2 AND cycle + 1 < $3`,
			l.pipeline, v.Table, int64(v.Cycle)); err != nil {
			return err
		}
		if err := l.suspect(ctx, tx, v.Table, suspects, due); err != nil {
			return err
		}
		return l.agree(ctx, tx, v)
	})
	if err != nil {
		return fmt.Errorf("recording a range of %s: %w", v.Table, err)
	}
	return nil
}

// begunAnew forgets what was verified in earlier cycles where the publisher has lost its cursors and counts from the beginning: they would pass for the last one until it gets there.
// A cycle that is none of the last two says so where the source was read for it after all else; else its message is only late.
func (l *Ledger) begunAnew(ctx context.Context, tx pgx.Tx, v entry.Verified) error {
	_, err := tx.Exec(ctx, `WITH t AS (
			UPDATE trickle.tables SET cycle = $3 WHERE pipeline = $1 AND table_name = $2 AND cycle > $3 + 1 AND read_at < $4 RETURNING pipeline, table_name)
		DELETE FROM trickle.ranges r USING t WHERE (r.pipeline, r.table_name) = (t.pipeline, t.table_name) AND r.cycle > $3`, l.pipeline, v.Table, int64(v.Cycle), v.ReadAt)
	return err
}

// Count puts proven discrepancies into the window, each key once.
func (l *Ledger) Count(ctx context.Context, table string, found []entry.Discrepancy) error {
	var b pgx.Batch
	for _, d := range found {
		b.Queue(`INSERT INTO trickle.discrepancies (pipeline, table_name, key, kind, range_id, lo, hi, at) VALUES ($1, $2, $3, $4, $5, $6, $7, clock_timestamp())
			ON CONFLICT (pipeline, table_name, key) DO UPDATE SET kind = excluded.kind, range_id = excluded.range_id, lo = excluded.lo, hi = excluded.hi, at = excluded.at`,
			l.pipeline, table, array(d.Key), string(d.Kind), int64(d.RangeID), array(d.Range.Lo), array(d.Range.Hi))
	}
	err := l.locked(ctx, table, func(tx pgx.Tx) error { return tx.SendBatch(ctx, &b).Close() })
	if err != nil {
		return fmt.Errorf("counting discrepancies of %s: %w", table, err)
	}
	return nil
}

// Tally counts what the window holds for a table.
func (l *Ledger) Tally(ctx context.Context, table string, window time.Duration) (entry.Tally, error) {
	var t entry.Tally
	err := l.pool.QueryRow(ctx, `SELECT
			(SELECT count(*) FROM trickle.discrepancies WHERE pipeline = $1 AND table_name = $2 AND at > clock_timestamp() - $3::interval),
			(SELECT coalesce(sum(rows), 0) FROM trickle.ranges WHERE pipeline = $1 AND table_name = $2 AND verified_at > clock_timestamp() - $3::interval)`,
		l.pipeline, table, window).Scan(&t.Discrepancies, &t.Rows)
	if err != nil {
		return entry.Tally{}, fmt.Errorf("counting the window of %s: %w", table, err)
	}
	// The neighbourhoods are put together here: joined to itself by a planner that knows nothing of a table that is new, a mass of drift takes minutes.
	rows, err := l.pool.Query(ctx, `SELECT lo, hi, count(*) FROM trickle.discrepancies WHERE pipeline = $1 AND table_name = $2 AND at > clock_timestamp() - $3::interval
			-- What led to a resync does not lead to the next one, around a neighbour.
			AND at > coalesce((SELECT max(requested_at) FROM trickle.resyncs s WHERE s.pipeline = $1 AND s.table_name = $2), '-infinity')
		GROUP BY lo, hi ORDER BY 3 DESC`, l.pipeline, table, window)
	if err != nil {
		return entry.Tally{}, fmt.Errorf("looking for the worst range of %s: %w", table, err)
	}
	groups, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (g group, err error) {
		var lo, hi []string
		err = row.Scan(&lo, &hi, &g.n)
		g.bounds = message.Range{Lo: lo, Hi: hi}
		return g, err
	})
	if err != nil {
		return entry.Tally{}, fmt.Errorf("looking for the worst range of %s: %w", table, err)
	}
	if len(groups) == 0 {
		return t, nil
	}
	middle := worst(&t, groups)
	err = l.pool.QueryRow(ctx, `SELECT coalesce(sum(r.rows), 0) FROM trickle.ranges r WHERE r.pipeline = $1 AND r.table_name = $2 AND r.verified_at > clock_timestamp() - $3::interval
		AND ((r.lo, r.hi) IS NOT DISTINCT FROM ($4::text[], $5::text[]) OR r.hi = $4 OR r.lo = $5)`, l.pipeline, table, window, array(middle.Lo), array(middle.Hi)).Scan(&t.WorstRows)
	if err != nil {
		return entry.Tally{}, fmt.Errorf("counting the rows of the worst range of %s: %w", table, err)
	}
	return t, nil
}

// group is what was found in one range.
type group struct {
	bounds message.Range
	n      int
}

// worst puts the neighbourhood with the most into the tally and returns the range in its middle. Groups come with the largest first.
func worst(t *entry.Tally, groups []group) (middle message.Range) {
	endsAt, beginsAt := map[string]group{}, map[string]group{}
	for _, g := range slices.Backward(groups) { // so that the largest of those that overlap stays
		if g.bounds.Hi != nil {
			endsAt[g.bounds.Hi.ID()] = g
		}
		if g.bounds.Lo != nil {
			beginsAt[g.bounds.Lo.ID()] = g
		}
	}
	for _, g := range groups {
		n, around := g.n, g.bounds
		if g.bounds.Lo != nil {
			if before, ok := endsAt[g.bounds.Lo.ID()]; ok {
				n, around.Lo = n+before.n, before.bounds.Lo
			}
		}
		if g.bounds.Hi != nil {
			if after, ok := beginsAt[g.bounds.Hi.ID()]; ok {
				n, around.Hi = n+after.n, after.bounds.Hi
			}
		}
		if n > t.WorstCount {
			t.WorstCount, t.Worst, middle = n, around, g.bounds
		}
	}
	return middle
}

// Forget drops what no window looks at any more.
func (l *Ledger) Forget(ctx context.Context, window time.Duration) error {
	_, err := l.pool.Exec(ctx, `DELETE FROM trickle.discrepancies WHERE pipeline = $1 AND at < clock_timestamp() - $2::interval`, l.pipeline, 2*window)
	if err != nil {
		return fmt.Errorf("forgetting old discrepancies: %w", err)
	}
	return nil
}
