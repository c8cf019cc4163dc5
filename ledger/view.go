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

// View is what a page shows of a replica beside its Report: bounded, however large the tables are.
type View struct {
	Report
	At       time.Time // by the replica's clock, as all its times are
	Cycle    time.Duration
	Strips   []Strip // of the tables of the Report, in that order
	Timeline Timeline
	Recent   []Correction // newest first; what a resync wrote is one of them
	// Tallies are the windows of the tables that have a discrepancy in theirs.
	Tallies map[string]entry.Tally
	Braking Allowance // what counts against the brake
}

// Correction is an entry of the journal, without its values.
type Correction struct {
	ID       int64
	At       time.Time
	Table    string
	Key      message.Key
	Kind     drift.Kind
	Columns  []string // that differed, of a mismatched row
	Before   []string // their values, each as JSON, cut to a few characters
	After    []string
	TraceID  string
	ResyncID string
	Outcome  string     // empty: not confirmed yet
	Undone   *time.Time // null: it stands
	// Batch is what the resync of that id wrote, where this stands for all of it and At is the newest: then it has no key, kind, columns or outcome.
	Batch *Batch
}

// Timeline counts corrections in steps of equal length, the last of which is now.
type Timeline struct {
	Step  time.Duration
	From  time.Time
	Steps []Kinds
}

const (
	viewCells   = 240  // of a strip
	viewBudget  = 6000 // of all strips together
	leastCells  = 24
	viewRecent  = 20
	viewSteps   = 60
	viewTallies = 20
	valueLength = 80
)

// View reads it.
func (l *Ledger) View(ctx context.Context) (View, error) {
	r, err := l.Report(ctx)
	if err != nil {
		return View{}, err
	}
	v := View{Report: r, Tallies: map[string]entry.Tally{}}
	err = pgx.BeginTxFunc(ctx, l.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if err := l.viewPipeline(ctx, tx, &v); err != nil {
			return err
		}
		if err := l.viewStrips(ctx, tx, &v); err != nil {
			return err
		}
		if err := l.viewTimeline(ctx, tx, &v); err != nil {
			return err
		}
		return l.viewRecent(ctx, tx, &v)
	})
	if err != nil {
		return View{}, fmt.Errorf("reading the ledger: %w", missing(err))
	}
	window := time.Duration(r.Window.Seconds * float64(time.Second))
	for _, t := range r.Tables {
		if t.Discrepancies == 0 || len(v.Tallies) == viewTallies {
			continue
		}
		if v.Tallies[t.Table], err = l.Tally(ctx, t.Table, window); err != nil {
			return View{}, err
		}
	}
	return v, nil
}

func (l *Ledger) viewPipeline(ctx context.Context, tx pgx.Tx, v *View) error {
	return tx.QueryRow(ctx, `SELECT clock_timestamp(), cycle_length,
			(SELECT count(*) FROM trickle.corrections c WHERE c.pipeline = $1 AND c.at > greatest(clock_timestamp() - p.window_length, p.brake_released_at) AND c.kind = 'extra'),
			(SELECT count(*) FROM trickle.corrections c WHERE c.pipeline = $1 AND c.at > greatest(clock_timestamp() - p.window_length, p.brake_released_at) AND c.resync_id IS NULL)
		FROM trickle.pipelines p WHERE pipeline = $1`, l.pipeline).Scan(&v.At, &v.Cycle, &v.Braking.Deletes, &v.Braking.Corrections)
}

func (l *Ledger) viewStrips(ctx context.Context, tx pgx.Tx, v *View) error {
	ranges, err := l.viewRanges(ctx, tx)
	if err != nil {
		return err
	}
	byID, byBounds := map[string]map[int64]*found{}, map[string]map[string]*found{}
	if err := l.viewFound(ctx, tx, func(table string, id int64, r message.Range) *found {
		known := byID[table]
		if known == nil {
			known = map[int64]*found{}
			for _, s := range ranges[table] {
				known[s.id] = nil
			}
			byID[table], byBounds[table] = known, map[string]*found{}
		}
		f, is := known[id]
		if !is {
			f = byBounds[table][bounds(r)]
		}
		if f == nil {
			f = new(found)
		}
		if is {
			known[id] = f
		} else {
			byBounds[table][bounds(r)] = f
		}
		return f
	}); err != nil {
		return err
	}
	if err := l.viewReported(ctx, tx, byID); err != nil {
		return err
	}
	total := map[string]int{}
	rows, err := tx.Query(ctx, `SELECT table_name, ranges FROM trickle.tables WHERE pipeline = $1`, l.pipeline)
	if err != nil {
		return err
	}
	var name string
	var n int
	if _, err := pgx.ForEachRow(rows, []any{&name, &n}, func() error { total[name] = n; return nil }); err != nil {
		return err
	}
	most := max(leastCells, min(viewCells, viewBudget/max(1, len(v.Tables))))
	for _, t := range v.Tables {
		v.Strips = append(v.Strips, Strip{t.Table, cells(chain(ranges[t.Table], total[t.Table]), most, byID[t.Table], byBounds[t.Table])})
	}
	return nil
}

// viewRanges are those that count as covered, by table.
func (l *Ledger) viewRanges(ctx context.Context, tx pgx.Tx) (map[string][]stretch, error) {
	rows, err := tx.Query(ctx, `SELECT g.table_name, g.range_id, g.lo, g.hi, g.cycle, g.rows, g.equal, g.verified_at FROM trickle.ranges g
		JOIN trickle.tables t ON (t.pipeline, t.table_name) = (g.pipeline, g.table_name) AND g.cycle + 1 >= t.cycle WHERE g.pipeline = $1`, l.pipeline)
	if err != nil {
		return nil, err
	}
	out := map[string][]stretch{}
	var table string
	var s stretch
	var lo, hi []string
	_, err = pgx.ForEachRow(rows, []any{&table, &s.id, &lo, &hi, &s.cycle, &s.rows, &s.equal, &s.verified}, func() error {
		s.bounds = message.Range{Lo: lo, Hi: hi}
		out[table] = append(out[table], s)
		lo, hi = nil, nil
		return nil
	})
	return out, err
}

// viewFound adds up what was found in which range.
func (l *Ledger) viewFound(ctx context.Context, tx pgx.Tx, of func(table string, id int64, r message.Range) *found) error {
	rows, err := tx.Query(ctx, `SELECT table_name, range_id, lo, hi, count(*) FILTER (WHERE kind = 'missing'), count(*) FILTER (WHERE kind = 'mismatched'),
			count(*) FILTER (WHERE kind = 'extra'), max(at), 0 FROM trickle.discrepancies WHERE pipeline = $1 GROUP BY 1, 2, 3, 4
		UNION ALL SELECT table_name, range_id, lo, hi, 0, 0, 0, NULL, count(*) FROM trickle.suspects WHERE pipeline = $1 GROUP BY 1, 2, 3, 4`, l.pipeline)
	if err != nil {
		return err
	}
	var table string
	var id int64
	var lo, hi []string
	var k Kinds
	var last *time.Time
	var suspects int
	_, err = pgx.ForEachRow(rows, []any{&table, &id, &lo, &hi, &k.Missing, &k.Mismatched, &k.Extra, &last, &suspects}, func() error {
		f := of(table, id, message.Range{Lo: lo, Hi: hi})
		f.drift.Missing, f.drift.Mismatched, f.drift.Extra = f.drift.Missing+k.Missing, f.drift.Mismatched+k.Mismatched, f.drift.Extra+k.Extra
		f.suspects += suspects
		if last != nil && last.After(f.last) {
			f.last = *last
		}
		lo, hi = nil, nil
		return nil
	})
	return err
}

// viewReported adds rows that were left alone to what was found, where their ranges are still known by the number that they were found under.
func (l *Ledger) viewReported(ctx context.Context, tx pgx.Tx, byID map[string]map[int64]*found) error {
	rows, err := tx.Query(ctx, `SELECT table_name, range_id, count(*) FILTER (WHERE kind = 'missing'), count(*) FILTER (WHERE kind = 'mismatched'),
			count(*) FILTER (WHERE kind = 'extra') FROM trickle.reported WHERE pipeline = $1 GROUP BY 1, 2`, l.pipeline)
	if err != nil {
		return err
	}
	var table string
	var id int64
	var k Kinds
	_, err = pgx.ForEachRow(rows, []any{&table, &id, &k.Missing, &k.Mismatched, &k.Extra}, func() error {
		if byID[table] == nil {
			byID[table] = map[int64]*found{}
		}
		if byID[table][id] == nil {
			byID[table][id] = new(found)
		}
		byID[table][id].reported = k
		return nil
	})
	return err
}

// viewTimeline counts corrections over the shortest of a few spans that holds the first one, up to a day.
func (l *Ledger) viewTimeline(ctx context.Context, tx pgx.Tx, v *View) error {
	var age time.Duration
	if err := tx.QueryRow(ctx, `SELECT coalesce($2 - min(at), '0') FROM trickle.corrections WHERE pipeline = $1 AND at > $2 - interval '1 day'`, l.pipeline, v.At).Scan(&age); err != nil {
		return err
	}
	step := 24 * time.Minute
	for _, s := range []time.Duration{10 * time.Second, time.Minute} {
		if age <= (viewSteps-5)*s {
			step = s
			break
		}
	}
	v.Timeline = Timeline{Step: step, From: v.At.Truncate(step).Add(-(viewSteps - 1) * step), Steps: make([]Kinds, viewSteps)}
	rows, err := tx.Query(ctx, `SELECT least(greatest(floor(extract(epoch FROM at - $2) / extract(epoch FROM $3::interval))::int, 0), $4 - 1),
			count(*) FILTER (WHERE kind = 'missing'), count(*) FILTER (WHERE kind = 'mismatched'), count(*) FILTER (WHERE kind = 'extra')
		FROM trickle.corrections WHERE pipeline = $1 AND at >= $2 GROUP BY 1`, l.pipeline, v.Timeline.From, step, viewSteps)
	if err != nil {
		return err
	}
	var n int
	var k Kinds
	_, err = pgx.ForEachRow(rows, []any{&n, &k.Missing, &k.Mismatched, &k.Extra}, func() error { v.Timeline.Steps[n] = k; return nil })
	return err
}

func (l *Ledger) viewRecent(ctx context.Context, tx pgx.Tx, v *View) error {
	rows, err := tx.Query(ctx, `SELECT c.id, c.at, c.table_name, c.key_text, c.kind, coalesce(d.columns, '{}'), coalesce(d.before, '{}'), coalesce(d.after, '{}'), coalesce(c.trace_id, ''),
			coalesce(c.outcome, ''), c.undone_at
		FROM (SELECT * FROM trickle.corrections WHERE pipeline = $1 AND resync_id IS NULL ORDER BY id DESC LIMIT $2) c
		LEFT JOIN LATERAL (SELECT array_agg(key ORDER BY key) AS columns, array_agg(coalesce(left(b.value::text, $3), '') ORDER BY key) AS before,
				array_agg(coalesce(left(a.value::text, $3), '') ORDER BY key) AS after
			FROM jsonb_each(c.before) b FULL JOIN jsonb_each(c.after) a USING (key) WHERE a.value IS DISTINCT FROM b.value) d ON c.kind = 'mismatched'
		ORDER BY c.id DESC`, l.pipeline, viewRecent, valueLength)
	if err != nil {
		return err
	}
	v.Recent, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (c Correction, err error) {
		var key []string
		err = row.Scan(&c.ID, &c.At, &c.Table, &key, &c.Kind, &c.Columns, &c.Before, &c.After, &c.TraceID, &c.Outcome, &c.Undone)
		c.Key = key
		return c, err
	})
	if err != nil {
		return err
	}
	batches, err := v.newest(ctx, tx)
	v.Recent = append(v.Recent, batches...)
	slices.SortStableFunc(v.Recent, func(a, b Correction) int { return b.At.Compare(a.At) })
	v.Recent = v.Recent[:min(len(v.Recent), viewRecent)]
	return err
}
