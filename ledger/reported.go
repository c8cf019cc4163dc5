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

// report notes a row that is proven to differ and left as it is.
const report = `INSERT INTO trickle.reported AS r (pipeline, table_name, key, kind, range_id, cycle)
	SELECT $1, $2, $3, $4, $5, coalesce((SELECT cycle FROM trickle.tables WHERE pipeline = $1 AND table_name = $2), 0)
	ON CONFLICT (pipeline, table_name, key) DO UPDATE SET kind = excluded.kind, range_id = excluded.range_id, cycle = excluded.cycle, seen_at = clock_timestamp()`

// agree forgets rows that were reported and are no suspects now that their range was compared. Those of ranges that were split or merged since have another range's
// number; they go where no cycle of the last two has proven them again.
func (l *Ledger) agree(ctx context.Context, tx pgx.Tx, v entry.Verified) error {
	_, err := tx.Exec(ctx, `DELETE FROM trickle.reported r WHERE pipeline = $1 AND table_name = $2 AND (cycle + 1 < $4 OR cycle > $4 + 1 OR range_id = $3
			AND NOT EXISTS (SELECT FROM trickle.suspects s WHERE (s.pipeline, s.table_name, s.key) = (r.pipeline, r.table_name, r.key)))`,
		l.pipeline, v.Table, int64(v.RangeID), int64(v.Cycle))
	return err
}

// Reported is a row that differs and was left as it is.
type Reported struct {
	Table     string
	Key       message.Key
	Kind      drift.Kind
	FirstSeen time.Time
	SeenAt    time.Time // when it was last proven
}

// Reported lists rows that differ and were left as they are, in the order of their tables and of when they were first seen; of one table where one is named, and at
// most limit where that is over 0.
func (l *Ledger) Reported(ctx context.Context, table string, limit int) ([]Reported, error) {
	rows, err := l.pool.Query(ctx, `SELECT table_name, key, kind, first_seen, seen_at FROM trickle.reported WHERE pipeline = $1 AND ($2 = '' OR table_name = $2)
		ORDER BY table_name, first_seen, key LIMIT nullif($3, 0)`, l.pipeline, table, limit)
	if err != nil {
		return nil, fmt.Errorf("listing what was reported: %w", missing(err))
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Reported, err error) {
		var key []string
		var kind string
		err = row.Scan(&r.Table, &key, &kind, &r.FirstSeen, &r.SeenAt)
		r.Key, r.Kind, r.FirstSeen, r.SeenAt = key, drift.Kind(kind), r.FirstSeen.UTC(), r.SeenAt.UTC()
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("listing what was reported: %w", missing(err))
	}
	return list, nil
}

// reportReported counts them for every table of the report.
func (l *Ledger) reportReported(ctx context.Context, tx pgx.Tx, r *Report) error {
	rows, err := tx.Query(ctx, `SELECT table_name, count(*) FILTER (WHERE kind = 'missing'), count(*) FILTER (WHERE kind = 'mismatched'), count(*) FILTER (WHERE kind = 'extra'),
			count(*) FILTER (WHERE NOT EXISTS (SELECT FROM trickle.suspects s WHERE (s.pipeline, s.table_name, s.key) = (r.pipeline, r.table_name, r.key)))
		FROM trickle.reported r WHERE pipeline = $1 GROUP BY 1`, l.pipeline)
	if err != nil {
		return err
	}
	byName := r.byName()
	var name string
	var k Kinds
	var settled int
	_, err = pgx.ForEachRow(rows, []any{&name, &k.Missing, &k.Mismatched, &k.Extra, &settled}, func() error {
		if t := byName[name]; t != nil {
			t.Reported, t.reported = k, settled
		}
		return nil
	})
	return err
}

// byName finds a report's tables.
func (r *Report) byName() map[string]*TableReport {
	byName := make(map[string]*TableReport, len(r.Tables))
	for i := range r.Tables {
		byName[r.Tables[i].Table] = &r.Tables[i]
	}
	return byName
}
