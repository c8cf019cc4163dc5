package replica_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/replica"
)

const simple = `CREATE TABLE t (id int PRIMARY KEY, v text)`

func TestEveryKindIsWrittenAndJournalled(t *testing.T) {
	t.Parallel()
	p := newPair(t, simple, options{})
	p.on(p.source, `INSERT INTO t VALUES (1, 'one'), (2, 'two'), (4, NULL), (5, '')`)
	p.on(p.target, `INSERT INTO t VALUES (2, 'drift'), (3, 'extra'), (4, ''), (5, NULL)`)
	out := p.write(p.changes("1", "2", "3", "4", "5", "6"))
	p.expect(out, "WWWWWM") // 6: both lack it
	p.same()
	want := `extra {"id": 3} {"v": "extra", "id": 3} -
mismatched {"id": 2} {"v": "drift", "id": 2} {"v": "two", "id": 2}
mismatched {"id": 4} {"v": "", "id": 4} {"v": null, "id": 4}
mismatched {"id": 5} {"v": null, "id": 5} {"v": "", "id": 5}
missing {"id": 1} - {"v": "one", "id": 1}`
	if got := p.journal(); got != want {
		t.Errorf("journal:\n%s\nwant:\n%s", got, want)
	}
	now, err := p.replica.Observe(t.Context(), table, keys("1", "2", "3"), digest.Record)
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range out[:3] {
		if o.Replica.Present != now[i].Present || o.Replica.Version != now[i].Version || o.Replica.Digest != now[i].Digest {
			t.Errorf("the outcome says %+v, the replica %+v", o.Replica, now[i])
		}
	}
}

// Whatever CDC did to the row since it was observed, nothing is written over it.
func TestGuard(t *testing.T) {
	t.Parallel()
	for name, cdc := range map[string]string{
		"changed":               `UPDATE t SET v = 'cdc'; INSERT INTO t VALUES (1, 'cdc')`,
		"touched":               `UPDATE t SET v = v; INSERT INTO t VALUES (1, 'one')`,
		"there and back":        `UPDATE t SET v = 'cdc'; UPDATE t SET v = 'drift'; INSERT INTO t VALUES (1, 'one')`,
		"deleted, put back":     `DELETE FROM t; INSERT INTO t VALUES (1, 'one'), (2, 'drift'), (3, 'drift')`,
		"deleted":               `DELETE FROM t; INSERT INTO t VALUES (1, 'cdc')`,
		"in transactions apart": `BEGIN; UPDATE t SET v = 'cdc'; COMMIT; BEGIN; UPDATE t SET v = 'drift'; INSERT INTO t VALUES (1, 'one'); COMMIT`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, simple, options{})
			p.on(p.source, `INSERT INTO t VALUES (1, 'one'), (2, 'two')`)
			p.on(p.target, `INSERT INTO t VALUES (2, 'drift'), (3, 'drift')`)
			changes := p.changes("1", "2", "3")
			p.on(p.target, cdc)
			before := p.text(p.target, `SELECT id, v, xmin FROM t ORDER BY id`)
			p.expect(p.write(changes), "MMM")
			if after := p.text(p.target, `SELECT id, v, xmin FROM t ORDER BY id`); after != before || p.journal() != "" {
				t.Errorf("before:\n%s\nafter:\n%s\njournal: %s", before, after, p.journal())
			}
		})
	}
}

// A row that CDC is writing at this moment is left to it, without waiting: neighbours and other writers are not held up.
func TestGuardLeavesARowThatIsBeingWritten(t *testing.T) {
	t.Parallel()
	p := newPair(t, simple, options{})
	p.on(p.source, `INSERT INTO t VALUES (1, 'one'), (2, 'two')`)
	p.on(p.target, `INSERT INTO t VALUES (1, 'drift'), (2, 'drift')`)
	changes := p.changes("1", "2")
	tx, err := p.target.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `UPDATE t SET v = 'cdc' WHERE id = 1`); err != nil {
		t.Fatal(err)
	}
	p.expect(p.write(changes), "MW")
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := p.text(p.target, `SELECT string_agg(v, ' ' ORDER BY id) FROM t`); got != "cdc two" {
		t.Errorf("the replica holds %s", got)
	}
}

func TestNoWriteWithoutItsEntry(t *testing.T) {
	t.Parallel()
	p := newPair(t, simple, options{journal: func(l *ledger.Ledger) replica.Journal { return broken{l} }})
	p.on(p.source, `INSERT INTO t VALUES (1, 'one'), (2, 'two')`)
	p.on(p.target, `INSERT INTO t VALUES (2, 'drift'), (3, 'extra')`)
	before := p.text(p.target, `SELECT * FROM t ORDER BY id`)
	if out, err := p.replica.Write(t.Context(), table, p.changes("1", "2", "3"), digest.Record); err == nil || !strings.Contains(err.Error(), table) {
		t.Fatalf("%v, %v: want an error that names the table", out, err)
	}
	if after := p.text(p.target, `SELECT * FROM t ORDER BY id`); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestRewritesCloseTheEarlierEntry(t *testing.T) {
	t.Parallel()
	p := newPair(t, simple, options{})
	p.on(p.source, `INSERT INTO t VALUES (1, 'one')`)
	first := p.write(p.changes("1"))
	p.on(p.source, `DELETE FROM t`)
	again := p.changes("1")
	again[0].Rewrites, again[0].ResyncID, again[0].TraceID = first[0].Entry, "r1", "abc"
	p.expect(p.write(again), "W")
	want := "missing superseded t NULL NULL\nextra NULL f r1 abc"
	if got := p.text(p.target, `SELECT kind, outcome, closed_at IS NOT NULL, resync_id, trace_id FROM trickle.corrections ORDER BY id`); got != want {
		t.Errorf("journal:\n%s\nwant:\n%s", got, want)
	}
}

func TestBrake(t *testing.T) {
	t.Parallel()
	p := newPair(t, simple, options{})
	p.writing.Brake = ledger.Limits{Deletes: 2, Corrections: 4, Window: time.Hour}
	p.on(p.target, `INSERT INTO t SELECT i, 'x' FROM generate_series(1, 6) i`)
	p.expect(p.write(p.changes("1", "2", "3", "4")), "WWHH")
	reason, err := p.ledger.Braked(t.Context())
	if err != nil || !strings.Contains(reason, "detect.brake.deletes") {
		t.Fatalf("brake: %q, %v", reason, err)
	}
	p.on(p.source, `INSERT INTO t VALUES (9, 'nine')`)
	p.expect(p.write(p.changes("9", "3")), "HH")
	if was, err := p.ledger.Release(t.Context()); !was || err != nil {
		t.Fatalf("release: %v, %v", was, err)
	}
	p.on(p.source, `INSERT INTO t SELECT i, 'x' FROM generate_series(10, 14) i`)
	p.expect(p.write(p.changes("9", "3", "10", "11", "12")), "WWWWH")
	if reason, _ = p.ledger.Braked(t.Context()); !strings.Contains(reason, "detect.brake.corrections") {
		t.Fatalf("brake: %q", reason)
	}
	if _, err := p.ledger.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	resync := p.changes("12", "13", "14", "4", "5", "6")
	for i := range resync {
		resync[i].ResyncID = "r"
	}
	p.writing.Brake.Corrections = 0
	p.expect(p.write(resync), "WWWWWH") // a resync is no single correction; its deletes count
}

func TestWritersTogetherNeverPassTheBrake(t *testing.T) {
	t.Parallel()
	p := newPair(t, simple, options{})
	p.writing.Brake = ledger.Limits{Deletes: 7, Corrections: 100, Window: time.Hour}
	p.on(p.target, `INSERT INTO t SELECT i, 'x' FROM generate_series(1, 40) i`)
	batches := [][]drift.Change{
		p.changes("1", "2", "3", "4", "5"), p.changes("11", "12", "13", "14", "15"), p.changes("21", "22", "23", "24", "25"), p.changes("31", "32", "33", "34", "35"),
	}
	var all sync.WaitGroup
	for _, batch := range batches {
		all.Go(func() {
			if _, err := p.replica.Write(t.Context(), table, batch, digest.Record); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := p.text(p.target, `SELECT count(*) FROM t`); got != "33" {
		t.Errorf("%s rows are left of 40, with a brake at 7 deletes", got)
	}
}

func TestAChangedShapeStopsEverything(t *testing.T) {
	t.Parallel()
	p := newPair(t, simple, options{})
	p.on(p.source, `INSERT INTO t VALUES (1, 'one')`)
	changes := p.changes("1")
	p.on(p.target, `ALTER TABLE t ADD COLUMN w int`)
	_, err := p.replica.Write(t.Context(), table, changes, digest.Record)
	if !errors.Is(err, postgres.ErrChanged) || !p.replica.Stale(err) || p.replica.Incomparable(err) {
		t.Errorf("write: %v", err)
	}
	if _, err = p.replica.Observe(t.Context(), table, keys("1"), digest.Record); !p.replica.Stale(err) {
		t.Errorf("observe: %v", err)
	}
	if got := p.text(p.target, `SELECT count(*) FROM t`); got != "0" {
		t.Errorf("%s rows were written", got)
	}
	p.fit()
	p.expect(p.write(p.changes("1")), "W")
	p.replica.Unfit(table)
	if _, err = p.replica.Thumbprint(t.Context(), table, message.Range{}, nil, digest.Record); !p.replica.Stale(err) {
		t.Errorf("unfitted: %v", err)
	}
	p.on(p.target, `DROP TABLE t`)
	if _, err = p.replica.Fit(t.Context(), table, p.layout.Schema); !p.replica.Incomparable(err) || !errors.Is(err, postgres.ErrNoTable) {
		t.Errorf("fit without a table: %v", err)
	}
}

// A key without its columns, as a broken or forged message may carry, is refused and nothing breaks.
func TestMalformedKeysAreRefused(t *testing.T) {
	t.Parallel()
	p := newPair(t, simple, options{})
	for _, bad := range []message.Key{nil, {}, {"1", "2"}} {
		if _, err := p.replica.Observe(t.Context(), table, []message.Key{bad}, digest.Record); err == nil {
			t.Errorf("observe %q: no error", bad)
		}
		if _, err := p.replica.Thumbprint(t.Context(), table, message.Range{}, []message.Key{bad}, digest.Record); err == nil {
			t.Errorf("left out %q: no error", bad)
		}
	}
	if _, err := p.replica.Thumbprint(t.Context(), table, message.Range{Lo: message.Key{"1", "2"}}, nil, digest.Record); err == nil {
		t.Error("a bound with too many columns: no error")
	}
	if _, err := p.replica.Observe(t.Context(), table, keys("no number"), digest.Record); err == nil {
		t.Error("a key that is no number: no error")
	}
}
