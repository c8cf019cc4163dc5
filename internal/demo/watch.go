package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/ledger"
)

// watcher reads what trickle itself wrote down in the replica.
type watcher struct {
	pool   *pgxpool.Pool
	ledger *ledger.Ledger
	book   *book
	writes func() int64
}

// run puts a sample on the board every so often until the context ends.
func (w *watcher) run(ctx context.Context, board *board, log *slog.Logger) error {
	tick := time.NewTicker(redraw)
	defer tick.Stop()
	told := teller{board: board, resyncs: map[string]string{}}
	for {
		s, err := w.sample(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			log.Warn("no sample", "err", err)
		default:
			told.tell(s)
			board.put(s.State)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// sample is one look.
type sample struct {
	State
	resyncs []ledger.ResyncReport // newest first
}

func (w *watcher) sample(ctx context.Context) (s sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, sampleLimit)
	defer cancel()
	s.Writes = w.writes()
	report, err := w.ledger.Report(ctx)
	if errors.Is(err, ledger.ErrNotMigrated) {
		s.Drift = w.book.judge(nil, nil)
		return s, nil
	}
	if err != nil {
		return s, err
	}
	s.Ready, s.Gate, s.Unconfirmed, s.resyncs = true, report.Gate, report.Unconfirmed, report.Resyncs
	s.Resync, s.Resyncs = pick(report.Resyncs)
	if s.Tables, err = w.tables(ctx); err != nil {
		return s, err
	}
	if s.Partial, s.Full, err = w.levels(ctx, s.Tables); err != nil {
		return s, err
	}
	s.Drift, err = w.verdict(ctx)
	return s, err
}

// pick finds the resync to show, and counts those that were done, not those that another took over.
func pick(all []ledger.ResyncReport) (shown *ledger.ResyncReport, done Resyncs) {
	for i, r := range all {
		if i == 0 || r.State == "running" && shown.State != "running" {
			shown = &all[i]
		}
		if r.State != "done" || r.Failure != "" {
			continue
		}
		if r.Scope == entry.Full {
			done.Full++
		} else {
			done.Partial++
		}
	}
	return shown, done
}

func (w *watcher) tables(ctx context.Context) ([]Table, error) {
	rows, err := w.pool.Query(ctx, `SELECT table_name, cycle, ranges, rows_verified,
			(SELECT count(*) FROM trickle.ranges r WHERE r.pipeline = t.pipeline AND r.table_name = t.table_name AND r.cycle >= t.cycle)
		FROM trickle.tables t WHERE pipeline = $1 AND ranges > 0 ORDER BY ranges`, pipeline)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t Table, err error) {
		err = row.Scan(&t.Name, &t.Cycle, &t.Ranges, &t.Rows, &t.Done)
		t.Done = min(t.Done, t.Ranges)
		return t, err
	})
}

// levels are the fullest windows.
func (w *watcher) levels(ctx context.Context, tables []Table) (partial, full Level, err error) {
	partial, full = Level{Limit: partialLimit}, Level{Limit: fullLimit}
	for _, t := range tables {
		tally, err := w.ledger.Tally(ctx, t.Name, window)
		if err != nil {
			return partial, full, err
		}
		if tally.WorstCount > partial.Count {
			partial.Count, partial.Where = tally.WorstCount, fmt.Sprintf("%s %s", t.Name, tally.Worst)
		}
		if tally.Discrepancies > full.Count {
			full.Count, full.Where = tally.Discrepancies, t.Name
		}
	}
	return partial, full, nil
}

// verdict holds the whole journal against what was injected.
func (w *watcher) verdict(ctx context.Context) (verdict, error) {
	journal, err := w.entries(ctx, `SELECT table_name, key::text, kind, coalesce(outcome, '') FROM trickle.corrections WHERE pipeline = $1 ORDER BY id`)
	if err != nil {
		return verdict{}, err
	}
	suspects, err := w.entries(ctx, `SELECT table_name, CASE table_name
			WHEN 'public.orders' THEN jsonb_build_object('id', key[1]::bigint)
			WHEN 'public.order_items' THEN jsonb_build_object('order_id', key[1]::bigint, 'line_no', key[2]::int)
			ELSE jsonb_build_object('id', key[1]) END::text, '', '' FROM trickle.suspects WHERE pipeline = $1`)
	if err != nil {
		return verdict{}, err
	}
	return w.book.judge(journal, suspects), nil
}

func (w *watcher) entries(ctx context.Context, sql string) ([]journalled, error) {
	rows, err := w.pool.Query(ctx, sql, pipeline)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[journalled])
}

// teller turns what changed between samples into events.
type teller struct {
	board   *board
	last    sample
	resyncs map[string]string // state by id
}

func (t *teller) tell(s sample) {
	if s.Ready && t.last.Ready && s.Gate.Open != t.last.Gate.Open {
		if s.Gate.Open {
			t.board.event("the gate opens: the replica is close enough to be judged")
		} else {
			t.board.event("the gate closes: %s", s.Gate.Reason)
		}
	}
	was, is := sum(t.last.Drift.Corrected), sum(s.Drift.Corrected)
	if is > was && is == sum(s.Drift.Injected) {
		t.board.event("all %d rows made wrong so far are corrected and confirmed", is)
	}
	for _, id := range s.Drift.False[min(len(t.last.Drift.False), len(s.Drift.False)):] {
		t.board.event("FALSE correction: %s", id)
	}
	for i := len(s.resyncs) - 1; i >= 0; i-- {
		r := s.resyncs[i]
		state, known := t.resyncs[r.ID]
		if !known {
			t.board.event("%s resync of %s asked for: %s", r.Scope, r.Table, r.Why)
		}
		if r.State != state && r.Ended != nil {
			t.board.event("%s resync of %s: %s", r.Scope, r.Table, outcome(r))
		}
		t.resyncs[r.ID] = r.State
	}
	t.last = s
}

// outcome says how a resync ended.
func outcome(r ledger.ResyncReport) string {
	if r.Failure != "" {
		return r.State + ", " + r.Failure
	}
	return fmt.Sprintf("%s, %d rows looked at, %d corrected", r.State, r.Rows, r.Corrected)
}
