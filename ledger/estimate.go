package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/estimate"
)

// EstimateReport is how many rows of a table may be drifted, from what was looked at: package estimate has the formula and what it assumes.
type EstimateReport struct {
	AtMost     int64   `json:"at_most"`    // rows drifted now, at this confidence
	Confidence float64 `json:"confidence"` //
	Rows       int64   `json:"rows"`       // that the table has, as many as there seem to be
	Looked     int64   `json:"looked"`     // rows that were verified
	Found      int64   `json:"found"`      // of these, drifted ones
	Unseen     int64   `json:"unseen"`     // rows that have not been verified since drift may have befallen them, one that is part of a cycle old counting for that part
	Known      int64   `json:"known"`      // rows known to be drifted and not corrected yet
}

// confidence at which a report is given.
const confidence = 0.95

// SaveCycle records in which time the policy has everything verified, for status.
func (l *Ledger) SaveCycle(ctx context.Context, cycle time.Duration) error {
	_, err := l.pool.Exec(ctx, `UPDATE trickle.pipelines SET cycle_length = $2 WHERE pipeline = $1 AND cycle_length <> $2`, l.pipeline, cycle)
	if err != nil {
		return fmt.Errorf("recording the length of a cycle: %w", err)
	}
	return nil
}

// reportEstimates reckons it for every table of the report. A look counts from its verification, so what was found counts since the oldest look. A full resync that
// is done has looked at every row since it started, and whatever it mended befell them before. Rows that a resync copied into a range that was empty are no drift
// that a look could have found, so they do not count. A look from before what the journal still has counts as none: what was corrected since then is not known any more.
func (l *Ledger) reportEstimates(ctx context.Context, tx pgx.Tx, r *Report) error {
	rows, err := tx.Query(ctx, `SELECT t.table_name, t.ranges, g.n, g.rows, g.differed, g.row_cycles, g.range_cycles,
			(SELECT count(*) FROM trickle.corrections c WHERE c.pipeline = t.pipeline AND c.table_name = t.table_name AND c.at >= g.oldest
				AND NOT EXISTS (SELECT FROM trickle.resyncs s WHERE s.id = c.resync_id AND s.scope = 'full' AND s.state = 'done' AND s.refused = 0))
		FROM trickle.tables t JOIN trickle.pipelines p USING (pipeline)
		CROSS JOIN LATERAL (SELECT max(s.started_at) AS at FROM trickle.resyncs s WHERE s.pipeline = t.pipeline AND s.table_name = t.table_name
				AND s.scope = 'full' AND s.state = 'done' AND s.refused = 0) walked
		CROSS JOIN LATERAL (SELECT count(*) AS n, coalesce(sum(rows), 0)::float8 AS rows, count(*) FILTER (WHERE NOT equal AND verified_at = a.at) AS differed, min(a.at) AS oldest,
				coalesce(sum(rows * a.cycles), 0)::float8 AS row_cycles, coalesce(sum(a.cycles), 0)::float8 AS range_cycles
			FROM trickle.ranges g, LATERAL (SELECT greatest(g.verified_at, walked.at) AS at) w,
				LATERAL (SELECT w.at, greatest(0, extract(epoch FROM clock_timestamp() - w.at) / greatest(1, extract(epoch FROM p.cycle_length)))::float8 AS cycles) a
			WHERE g.pipeline = t.pipeline AND g.table_name = t.table_name AND g.cycle + 1 >= t.cycle AND a.at > p.journal_from) g
		WHERE t.pipeline = $1 ORDER BY 1`, l.pipeline)
	if err != nil {
		return err
	}
	byName := r.byName()
	var name string
	var ranges, looked, rowsLooked, differed, rowCycles, rangeCycles, corrected float64
	_, err = pgx.ForEachRow(rows, []any{&name, &ranges, &looked, &rowsLooked, &differed, &rowCycles, &rangeCycles, &corrected}, func() error {
		t := byName[name]
		if t == nil || looked == 0 {
			return nil // nothing is known of how many rows there are
		}
		known := float64(t.Suspects + t.reported)
		never := max(0, ranges-looked)
		each := rowsLooked / looked
		found := corrected + known
		of := estimate.Table{
			Total: rowsLooked + never*each, Known: known,
			Rows:   estimate.Sample{Looked: rowsLooked, Found: found, Unseen: rowCycles + never*each},
			Ranges: estimate.Sample{Looked: looked, Found: min(max(differed, min(found, 1)), found), Unseen: rangeCycles + never},
		}
		t.Estimate = &EstimateReport{
			AtMost: of.AtMost(confidence), Confidence: confidence, Rows: int64(of.Total), Looked: int64(rowsLooked), Found: int64(found),
			Unseen: int64(of.Rows.Unseen), Known: int64(known),
		}
		return nil
	})
	return err
}
