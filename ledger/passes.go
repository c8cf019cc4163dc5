package ledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/entry"
)

// Passes tells what resyncs have come to, one for each table, by table.
func (l *Ledger) Passes(ctx context.Context, ids []string) ([]entry.Pass, error) {
	rows, err := l.pool.Query(ctx, `SELECT s.id, s.table_name, s.state, s.planned, s.rows, g.n, g.done, g.agreed, s.refused, coalesce(s.failure, ''),
			greatest(s.corrected, (SELECT count(*) FROM trickle.corrections c WHERE c.resync_id = s.id) + (SELECT coalesce(sum(c.rows), 0)::bigint FROM trickle.copies c WHERE c.resync_id = s.id)),
			(SELECT count(*) FROM trickle.suspects c WHERE c.resync_id = s.id)
		FROM trickle.resyncs s
		CROSS JOIN LATERAL (SELECT count(*) AS n, count(*) FILTER (WHERE done) AS done, count(*) FILTER (WHERE done AND differing = 0) AS agreed
			FROM trickle.resync_ranges g WHERE g.resync_id = s.id) g
		WHERE s.pipeline = $1 AND s.id = ANY($2) ORDER BY s.table_name`, l.pipeline, ids)
	if err != nil {
		return nil, fmt.Errorf("reading how far the full pass is: %w", missing(err))
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p entry.Pass, err error) {
		err = row.Scan(&p.ID, &p.Table, &p.State, &p.Planned, &p.Rows, &p.Ranges, &p.Done, &p.Agreed, &p.Refused, &p.Failure, &p.Corrected, &p.Suspects)
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading how far the full pass is: %w", missing(err))
	}
	return out, nil
}
