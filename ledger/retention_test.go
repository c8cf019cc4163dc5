package ledger_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/ledger"
)

const day = 24 * hour

// What is old and over goes, and what somebody still needs stays, however old.
func TestTrim(t *testing.T) {
	t.Parallel()
	l, pool := fresh(t)
	// 1 to 9: closed, open, undone, of a resync that runs, of one that is over, young, held by somebody, of another pipeline.
	exec(t, pool, `INSERT INTO trickle.corrections (at, pipeline, table_name, key, kind, key_text, version, closed_at, undone_at, resync_id)
		SELECT now() - age, p, 'public.t', jsonb_build_object('id', n), k, ARRAY[n::text], 1, CASE WHEN n <> 2 THEN now() END, CASE WHEN n = 3 THEN now() END, r
		FROM (VALUES (1, interval '91 days', 'p', 'extra', NULL), (2, '92 days', 'p', 'missing', NULL), (3, '93 days', 'p', 'extra', NULL), (4, '94 days', 'p', 'missing', 'runs'),
			(5, '95 days', 'p', 'mismatched', 'over'), (6, '89 days', 'p', 'missing', NULL), (7, '91 days', 'p', 'missing', NULL), (8, '91 days', 'other', 'extra', NULL)) v (n, age, p, k, r) ORDER BY n`)
	exec(t, pool, `INSERT INTO trickle.resyncs (id, pipeline, scope, table_name, state, reason, requested_at, ended_at, corrected) VALUES
		('runs', 'p', 'full', 'public.t', 'running', '', now() - interval '95 days', NULL, 0), ('over', 'p', 'full', 'public.t', 'done', '', now() - interval '96 days', now() - interval '94 days', 1),
		('failed', 'p', 'partial', 'public.t', 'failed', '', now() - interval '96 days', now() - interval '94 days', 0), ('late', 'p', 'full', 'public.t', 'done', '', now(), now(), 12)`)
	exec(t, pool, `INSERT INTO trickle.resync_ranges (resync_id, n, done) SELECT r, n, true FROM unnest('{runs,over,late}'::text[]) r, generate_series(1, 3) n; INSERT INTO trickle.snapshots (resync_id) VALUES ('failed')`)
	must(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		for range 2 {
			if _, err := l.Copied(t.Context(), tx, table, ledger.Copied{Copy: drift.Copy{Print: digest.Thumbprint{Rows: 50}, ResyncID: "over"}, Undo: "DELETE"}); err != nil {
				return err
			}
		}
		return nil
	}))
	exec(t, pool, `UPDATE trickle.copies SET at = now() - interval '95 days', closed_at = CASE WHEN id = 1 THEN now() END`)
	exec(t, pool, `INSERT INTO trickle.restores (id, pipeline, set_name, source, state, started_at, ended_at) SELECT n, 'p', 's', 'x', 'done', now() - n * interval '100 days', now() - n * interval '99 days' FROM generate_series(1, 2) n;
		INSERT INTO trickle.restore_ranges (restore_id, n, table_name, object, rows, bytes) SELECT r, 1, 't', 'o', 1, 1 FROM generate_series(1, 2) r; INSERT INTO trickle.restore_tables VALUES ('2', 't', 't', true)`)
	before, err := l.Report(t.Context())
	must(t, err)
	if k, err := l.Kept(t.Context()); err != nil || k.From != nil || k.Oldest == nil || time.Since(*k.Oldest) < 95*day || k.Bytes == 0 {
		t.Errorf("before: %+v, %v", k, err)
	}
	counts, err := l.ResyncCounts(t.Context())
	must(t, err)

	holder, err := pool.Begin(t.Context())
	must(t, err)
	_, err = holder.Exec(t.Context(), `SELECT FROM trickle.corrections WHERE id = 7 FOR UPDATE`)
	must(t, err)
	n, err := l.Trim(t.Context(), 90*day)
	if err != nil || n != 3 {
		t.Errorf("%d rows of a table: %v", n, err)
	}
	must(t, holder.Rollback(t.Context()))
	left := func() string {
		return one[string](t, pool, `SELECT concat_ws(' ', (SELECT string_agg(id::text, ',' ORDER BY id) FROM trickle.corrections), (SELECT string_agg('copy-' || id, ',') FROM trickle.copies),
			(SELECT string_agg(id, ',' ORDER BY id) FROM trickle.resyncs), (SELECT count(*) FROM trickle.resync_ranges), (SELECT string_agg(id, ',') FROM trickle.restores), (SELECT count(*) FROM trickle.restore_ranges))`)
	}
	if got, want := left(), "2,4,6,7,8 copy-2 late,runs 6 1 1"; got != want {
		t.Errorf("%s is left, want %s", got, want)
	}
	trims(t, l, 1) // 7, now that nobody holds it
	if got, want := left(), "2,4,6,8 copy-2 late,runs 6 1 1"; got != want {
		t.Errorf("%s is left, want %s", got, want)
	}
	trims(t, l, 0)

	after, err := l.Report(t.Context())
	must(t, err)
	if before.Tables[0].Corrected != after.Tables[0].Corrected || before.Tables[0].Corrected != (ledger.Kinds{Missing: 104, Mismatched: 1, Extra: 2}) {
		t.Errorf("corrected %+v, before %+v", after.Tables[0].Corrected, before.Tables[0].Corrected)
	}
	if late := after.Resyncs[0]; late.ID != "late" || late.Corrected != 12 {
		t.Errorf("a resync of which the journal has nothing any more: %+v", late)
	}
	if now, err := l.ResyncCounts(t.Context()); err != nil || fmt.Sprint(now) != fmt.Sprint(counts) && len(now) != len(counts) {
		t.Errorf("resyncs %v, before %v: %v", now, counts, err)
	}
	k, err := l.Kept(t.Context())
	if err != nil || k.From == nil || time.Since(*k.From) < 90*day || time.Since(*k.From) > 92*day || k.Oldest == nil || time.Since(*k.Oldest) < 94*day {
		t.Errorf("after: %+v, %v", k, err)
	}
}

func trims(t *testing.T, l *ledger.Ledger, want int) {
	t.Helper()
	if n, err := l.Trim(t.Context(), 90*day); err != nil || n != want {
		t.Errorf("%d rows, want %d: %v", n, want, err)
	}
}

// However much is old, little of it goes at once, by the index; two instances do not do it at the same time.
func TestTrimIsBounded(t *testing.T) {
	t.Parallel()
	l, pool := fresh(t)
	exec(t, pool, `INSERT INTO trickle.corrections (at, pipeline, table_name, key, kind, key_text, version, closed_at)
		SELECT now() - n * interval '1 minute', 'p', 'public.t', '{}', 'extra', '{}', 1, now() FROM generate_series(1, 1700) n; ANALYZE trickle.corrections`)
	other, err := pool.Begin(t.Context())
	must(t, err)
	_, err = other.Exec(t.Context(), `SELECT pg_advisory_xact_lock(hashtextextended('trickle.trim.p', 0))`)
	must(t, err)
	trim := func(want int) {
		t.Helper()
		if n, err := l.Trim(t.Context(), 10*hour); err != nil || n != want {
			t.Errorf("%d rows, want %d: %v", n, want, err)
		}
	}
	trim(0)
	must(t, other.Rollback(t.Context()))
	trim(500)
	// The oldest go first, so that what the journal has has no holes.
	if n := one[int](t, pool, `SELECT count(*)::int FROM trickle.corrections c, trickle.pipelines p WHERE c.at <= p.journal_from`); n != 0 {
		t.Errorf("%d lines stayed that are older than some that went", n)
	}
	trim(500)
	trim(101) // 600 are kept, but for the minute that has just passed
}

// A look from before what the journal has counts as none: what was corrected since then is not known.
func TestEstimateAfterTrimming(t *testing.T) {
	t.Parallel()
	l, pool := fresh(t)
	for i := range 2 {
		must(t, l.Record(t.Context(), entry.Verified{Table: table, RangeID: uint64(i), Cycle: 1, Ranges: 2, Rows: 100, Equal: true}, nil, hour))
	}
	exec(t, pool, `UPDATE trickle.ranges SET verified_at = now() - interval '5 days' WHERE range_id = 1`)
	looked := func() int64 {
		r, err := l.Report(t.Context())
		must(t, err)
		return r.Tables[0].Estimate.Looked
	}
	if n := looked(); n != 200 {
		t.Errorf("%d rows were looked at", n)
	}
	exec(t, pool, `INSERT INTO trickle.corrections (at, pipeline, table_name, key, kind, key_text, version, closed_at) VALUES (now() - interval '4 days', 'p', 'public.t', '{}', 'extra', '{}', 1, now())`)
	if n, err := l.Trim(t.Context(), 3*day); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	if n := looked(); n != 100 {
		t.Errorf("%d rows were looked at since the journal begins", n)
	}
}

// A ledger that kept everything for ever is made one that does not, and until then says what to do.
func TestALedgerFromBeforeTheJournalHadAnEnd(t *testing.T) {
	t.Parallel()
	l, pool := fresh(t)
	exec(t, pool, `ALTER TABLE trickle.pipelines DROP COLUMN journal_from; DROP TABLE trickle.removed; DROP INDEX trickle.copies_at`)
	if _, err := l.Kept(t.Context()); err == nil || !strings.Contains(err.Error(), "older version") {
		t.Errorf("%v", err)
	}
	must(t, l.Migrate(t.Context()))
	if k, err := l.Kept(t.Context()); err != nil || k.From != nil || k.Oldest != nil {
		t.Errorf("%+v, %v", k, err)
	}
	trims(t, l, 0)
}
