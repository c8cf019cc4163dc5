package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// TrimMost is how many rows Trim takes away of a table at once: so few that nobody waits for it.
const TrimMost = 500

// JournalReport is how far back the journal goes, and what it takes.
type JournalReport struct {
	Oldest *time.Time `json:"oldest"` // when its oldest line was written; null: there is none
	// From is until when lines have left it for their age, but for those that are not confirmed; null: all that were ever written are there.
	From  *time.Time `json:"from"`
	Bytes int64      `json:"bytes"` // in the replica's database, with those of other pipelines
}

// old are the lines of a journal that are older than $2 and that nobody needs any more: those not confirmed are yet to be, and a resync under way counts its own.
const old = `c.pipeline = $1 AND c.at < now() - $2::interval AND c.closed_at IS NOT NULL
	AND NOT EXISTS (SELECT FROM trickle.resyncs s WHERE s.id = c.resync_id AND s.state IN ('waiting', 'running'))`

// counted adds what has gone to what went before.
const counted = `counted AS (INSERT INTO trickle.removed AS r (pipeline, table_name, what, n) SELECT $1, table_name, what, sum(n)::bigint FROM gone GROUP BY 2, 3
	ON CONFLICT (pipeline, table_name, what) DO UPDATE SET n = r.n + excluded.n)`

// trimmed are the steps of Trim, each with the pipeline, the age and the most it may take. The parts of a thing go before it, since a cascade knows no limit.
var trimmed = []string{ //nolint:gochecknoglobals // a constant that Go has no syntax for
	`WITH old AS MATERIALIZED (SELECT c.id FROM trickle.corrections c WHERE ` + old + ` ORDER BY c.at LIMIT $3 FOR UPDATE OF c SKIP LOCKED),
		gone AS (DELETE FROM trickle.corrections c USING old WHERE c.id = old.id RETURNING c.table_name, c.kind AS what, 1 AS n, c.at), ` + counted + `
		SELECT count(*), max(at) FROM gone`,
	`WITH old AS MATERIALIZED (SELECT c.id FROM trickle.copies c WHERE ` + old + ` ORDER BY c.at LIMIT $3 FOR UPDATE OF c SKIP LOCKED),
		gone AS (DELETE FROM trickle.copies c USING old WHERE c.id = old.id RETURNING c.table_name, 'missing' AS what, c.rows AS n, c.at), ` + counted + `
		SELECT count(*), max(at) FROM gone`,
	`WITH gone AS (DELETE FROM trickle.resync_ranges WHERE ctid = ANY(ARRAY(SELECT g.ctid FROM trickle.resync_ranges g JOIN trickle.resyncs s ON s.id = g.resync_id
			WHERE s.pipeline = $1 AND s.state IN ('done', 'failed') AND s.ended_at < now() - $2::interval LIMIT $3)) RETURNING 1)
		SELECT count(*), NULL::timestamptz FROM gone`,
	`WITH gone AS (DELETE FROM trickle.resyncs WHERE id = ANY(ARRAY(SELECT s.id FROM trickle.resyncs s WHERE s.pipeline = $1 AND s.state IN ('done', 'failed') AND s.ended_at < now() - $2::interval
			AND NOT EXISTS (SELECT FROM trickle.resync_ranges g WHERE g.resync_id = s.id) LIMIT $3)) RETURNING '' AS table_name, scope || ' ' || state AS what, 1 AS n), ` + counted + `
		SELECT count(*), NULL::timestamptz FROM gone`,
	`WITH gone AS (DELETE FROM trickle.restore_ranges WHERE ctid = ANY(ARRAY(SELECT g.ctid FROM trickle.restore_ranges g JOIN trickle.restores o ON o.id = g.restore_id
			WHERE ` + oldRestore + ` LIMIT $3)) RETURNING 1)
		SELECT count(*), NULL::timestamptz FROM gone`,
	`WITH gone AS (DELETE FROM trickle.restores WHERE id = ANY(ARRAY(SELECT o.id FROM trickle.restores o WHERE ` + oldRestore + `
			AND NOT EXISTS (SELECT FROM trickle.restore_ranges g WHERE g.restore_id = o.id) LIMIT $3)) RETURNING 1)
		SELECT count(*), NULL::timestamptz FROM gone`,
}

// oldRestore is one that is over and not the newest, which status shows however old it is.
const oldRestore = `o.pipeline = $1 AND o.state IN ('done', 'abandoned') AND o.ended_at < now() - $2::interval
	AND EXISTS (SELECT FROM trickle.restores n WHERE n.pipeline = $1 AND n.started_at > o.started_at)`

// Trim takes away what was written longer ago than keep and that nobody needs any more: lines of the journal, and resyncs and restores that are over. It takes TrimMost rows of a table
// at most, passes by those that somebody holds, and returns how many went: at TrimMost there may be more. Of several instances one does it at a time.
func (l *Ledger) Trim(ctx context.Context, keep time.Duration) (int, error) {
	most := 0
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		var mine bool
		if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock(hashtextextended('trickle.trim.' || $1, 0))`, l.pipeline).Scan(&mine); err != nil || !mine {
			return err
		}
		var from time.Time
		for _, sql := range trimmed {
			var n int
			var last *time.Time
			if err := tx.QueryRow(ctx, sql, l.pipeline, keep, TrimMost).Scan(&n, &last); err != nil {
				return err
			}
			if last != nil && last.After(from) {
				from = *last
			}
			if most = max(most, n); most == TrimMost {
				break // what is next may belong to what is left
			}
		}
		if from.IsZero() {
			return nil
		}
		_, err := tx.Exec(ctx, `UPDATE trickle.pipelines SET journal_from = greatest(journal_from, $2) WHERE pipeline = $1`, l.pipeline, from)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("taking old lines out of the journal: %w", err)
	}
	return most, nil
}

func (l *Ledger) reportKept(ctx context.Context, tx pgx.Tx, r *Report) (err error) {
	r.Journal, err = l.kept(ctx, tx)
	return err
}

// Kept is how far back the journal goes.
func (l *Ledger) Kept(ctx context.Context) (JournalReport, error) {
	r, err := l.kept(ctx, l.pool)
	if err != nil {
		return r, fmt.Errorf("asking how far back the journal goes: %w", outdated(err))
	}
	return r, nil
}

func (l *Ledger) kept(ctx context.Context, on querier) (r JournalReport, err error) {
	err = on.QueryRow(ctx, `SELECT least((SELECT min(at) FROM trickle.corrections WHERE pipeline = $1), (SELECT min(at) FROM trickle.copies WHERE pipeline = $1)),
			(SELECT max(journal_from) FROM trickle.pipelines WHERE pipeline = $1 AND journal_from > '-infinity'),
			pg_total_relation_size('trickle.corrections') + pg_total_relation_size('trickle.copies')`, l.pipeline).Scan(&r.Oldest, &r.From, &r.Bytes)
	for _, t := range []*time.Time{r.Oldest, r.From} {
		if t != nil {
			*t = t.UTC()
		}
	}
	return r, err
}
