package ledger

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/drift"
)

// Batch counts rows that a resync wrote, those that it copied in bulk among the missing ones.
type Batch struct {
	Kinds
	Open   int // not confirmed yet
	Undone int
}

// batch is one, and where its newest line is.
type batch struct {
	Batch

	table string // the first by name
	at    time.Time
	line  int64 // 0: all of it was copied in bulk
}

// add counts rows of a kind.
func (k *Kinds) add(kind string, n int) {
	switch drift.Kind(kind) {
	case drift.Missing:
		k.Missing += n
	case drift.Mismatched:
		k.Mismatched += n
	case drift.Extra:
		k.Extra += n
	}
}

// reportJournal counts what was corrected, in one pass over the journal.
func (l *Ledger) reportJournal(ctx context.Context, tx pgx.Tx, r *Report) error {
	rows, err := tx.Query(ctx, `SELECT table_name, coalesce(resync_id, ''), kind, count(*), max(at), count(*) FILTER (WHERE closed_at IS NULL), count(undone_at), max(id)
			FROM trickle.corrections WHERE pipeline = $1 GROUP BY 1, 2, 3
		UNION ALL SELECT table_name, resync_id, 'missing', sum(rows)::bigint, max(at), coalesce(sum(rows) FILTER (WHERE closed_at IS NULL), 0)::bigint,
			coalesce(sum(rows) FILTER (WHERE undone_at IS NOT NULL), 0)::bigint, 0 FROM trickle.copies WHERE pipeline = $1 GROUP BY 1, 2
		UNION ALL SELECT table_name, '', what, n, 'epoch', 0, 0, 0 FROM trickle.removed WHERE pipeline = $1 AND table_name <> ''`, l.pipeline)
	if err != nil {
		return err
	}
	tables := map[string]*Kinds{}
	r.batches = map[string]*batch{}
	var table, resync, kind string
	var n, open, undone int
	var at time.Time
	var line int64
	_, err = pgx.ForEachRow(rows, []any{&table, &resync, &kind, &n, &at, &open, &undone, &line}, func() error {
		if tables[table] == nil {
			tables[table] = new(Kinds)
		}
		tables[table].add(kind, n)
		if resync == "" {
			return nil
		}
		b := r.batches[resync]
		if b == nil {
			b = &batch{table: table}
			r.batches[resync] = b
		}
		b.add(kind, n)
		b.Open, b.Undone = b.Open+open, b.Undone+undone
		b.table, b.line = min(b.table, table), max(b.line, line)
		if at.After(b.at) {
			b.at = at
		}
		return nil
	})
	for i, t := range r.Tables {
		if k := tables[t.Table]; k != nil {
			r.Tables[i].Corrected = *k
		}
	}
	for i, s := range r.Resyncs {
		if b := r.batches[s.ID]; b != nil { // what it came to when it ended, where the journal has less by now
			r.Resyncs[i].Corrected = max(s.Corrected, int64(b.All()))
		}
	}
	return err
}

// newest are the resyncs that wrote last, each as one correction that belongs to the trace of its newest line.
func (v *View) newest(ctx context.Context, tx pgx.Tx) ([]Correction, error) {
	var out []Correction
	for id, b := range v.batches {
		out = append(out, Correction{ID: b.line, ResyncID: id, At: b.at, Table: b.table, Batch: &b.Batch})
	}
	slices.SortFunc(out, func(a, b Correction) int { return b.At.Compare(a.At) })
	out = out[:min(len(out), viewRecent)]
	lines := make([]int64, len(out))
	for i, c := range out {
		lines[i] = c.ID
	}
	rows, err := tx.Query(ctx, `SELECT id, trace_id FROM trickle.corrections WHERE id = ANY($1) AND trace_id IS NOT NULL`, lines)
	if err != nil {
		return nil, err
	}
	traces := map[int64]string{}
	var line int64
	var trace string
	_, err = pgx.ForEachRow(rows, []any{&line, &trace}, func() error { traces[line] = trace; return nil })
	for i, c := range out {
		out[i].ID, out[i].TraceID = 0, traces[c.ID]
	}
	return out, err
}
