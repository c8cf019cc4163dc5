package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/entry"
)

// heardOf is how many sets of the base-line view are remembered.
const heardOf = 5

// Baseline remembers a set of the base-line view, and of all sets the newest few. Hearing of it again changes nothing.
func (l *Ledger) Baseline(ctx context.Context, b entry.Baseline) error {
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO trickle.baselines (pipeline, set_name, source, taken, manifest, position, tables) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT (pipeline, set_name) DO NOTHING`, l.pipeline, b.Set, b.Source, b.Taken, b.Manifest, b.Position, b.Tables)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `DELETE FROM trickle.baselines WHERE pipeline = $1 AND set_name NOT IN
			(SELECT set_name FROM trickle.baselines WHERE pipeline = $1 ORDER BY taken DESC, set_name DESC LIMIT $2)`, l.pipeline, heardOf)
		return err
	})
	if err != nil {
		return fmt.Errorf("remembering set %s of the base-line view: %w", b.Set, err)
	}
	return nil
}

// Baselines are the sets that were heard of, newest first.
func (l *Ledger) Baselines(ctx context.Context) ([]entry.Baseline, error) {
	rows, err := l.pool.Query(ctx, `SELECT set_name, source, manifest, taken, heard_at, position, tables FROM trickle.baselines WHERE pipeline = $1
		ORDER BY taken DESC, set_name DESC`, l.pipeline)
	if err != nil {
		return nil, fmt.Errorf("reading the sets of the base-line view: %w", missing(err))
	}
	sets, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (entry.Baseline, error) {
		var b entry.Baseline
		err := row.Scan(&b.Set, &b.Source, &b.Manifest, &b.Taken, &b.Heard, &b.Position, &b.Tables)
		b.Taken, b.Heard = b.Taken.UTC(), b.Heard.UTC()
		return b, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the sets of the base-line view: %w", missing(err))
	}
	return sets, nil
}

// BaselineReport is a set of the base-line view that the replica heard of.
type BaselineReport struct {
	Set    string    `json:"set"`
	Taken  time.Time `json:"taken"`    // when its position in the CDC's logs was read
	Heard  time.Time `json:"heard_at"` // by the replica's clock
	Tables int       `json:"tables"`
	Rows   int64     `json:"rows"`
}

func (l *Ledger) reportBaselines(ctx context.Context, tx pgx.Tx, r *Report) error {
	rows, err := tx.Query(ctx, `SELECT set_name, taken, heard_at, jsonb_array_length(tables), (SELECT coalesce(sum((t->>'rows')::numeric), 0)::bigint FROM jsonb_array_elements(tables) t)
		FROM trickle.baselines WHERE pipeline = $1 ORDER BY taken DESC, set_name DESC`, l.pipeline)
	if err != nil {
		return err
	}
	r.Baselines, err = pgx.AppendRows(r.Baselines, rows, func(row pgx.CollectableRow) (BaselineReport, error) {
		var b BaselineReport
		err := row.Scan(&b.Set, &b.Taken, &b.Heard, &b.Tables, &b.Rows)
		b.Taken, b.Heard = b.Taken.UTC(), b.Heard.UTC()
		return b, err
	})
	return err
}
