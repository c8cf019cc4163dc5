package laws

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/detector"
	"github.com/trickle-verify/trickle/entry"

	"github.com/trickle-verify/trickle/message/tricklepb"
)

// mode: rows finds the same drift as thumbprints do, without asking for a list of keys.
func TestRowsMode(t *testing.T) {
	t.Parallel()
	p := newPair(t, strings.Replace(lawPolicy, "{table: public.t}", "{table: public.t, mode: rows}", 1), 250)
	p.exec(p.dst, `DELETE FROM t WHERE id = 7`)
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 120`)
	p.exec(p.dst, `INSERT INTO t VALUES (1000, 'extra')`)
	p.caughtUp()
	listed := 0
	p.before = func(req *tricklepb.Envelope) {
		if req.GetKeyDigestsRequest() != nil {
			listed++
		}
	}
	p.scan()
	if rows := p.sent[0].GetRows(); len(rows.GetRows()) != 100 || len(rows.GetRows()[0].GetValues()) != 2 || strings.Join(rows.GetColumns(), " ") != "id v" {
		t.Errorf("the first message holds %d rows of %v", len(rows.GetRows()), rows.GetColumns())
	}
	for range 2 {
		p.settle()
		p.caughtUp()
	}
	p.identical()
	p.want(`SELECT count(*) FROM trickle.corrections WHERE outcome = 'confirmed'`, "3")
	if listed > 0 {
		t.Errorf("%d lists of keys were asked for", listed)
	}
}

// Where the probes differ, both sides go over to portable digests by themselves, and find the same drift. A publisher that has not heard of it, which may be one of
// several that the question never reaches, leaves no range out.
func TestProbesThatDiffer(t *testing.T) {
	t.Parallel()
	for name, deaf := range map[string]bool{"a publisher that hears": false, "one that never does": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, lawPolicy, 250)
			p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 120`)
			p.caughtUp()
			const other = 4711 // as if the source hashed otherwise
			p.after = func(_, reply *tricklepb.Envelope) {
				if h := reply.GetHelloReply(); h != nil {
					h.Schema.Probe = other
				}
			}
			p.scanned = func(env *tricklepb.Envelope) {
				print := env.GetThumbprint()
				print.Probe = other
				if deaf || print.GetDigest() == tricklepb.DigestKind_DIGEST_KIND_RECORD {
					print.Digest = tricklepb.DigestKind_DIGEST_KIND_RECORD
					print.Sum++ // and has other digests
				}
			}
			p.scan()
			p.want(`SELECT count(*) FROM trickle.ranges WHERE equal`, "2")
			p.want(`SELECT count(*) FROM trickle.ranges WHERE NOT equal`, "1")
			p.settle()
			p.identical()
			p.want(`SELECT digest FROM trickle.tables`, "portable")
			p.want(`SELECT string_agg(key->>'id', ',') FROM trickle.corrections`, "120")
			p.scan()
			p.want(`SELECT count(*) FROM trickle.ranges WHERE equal`, "3")
			if got := p.sent[0].GetThumbprint().GetDigest(); !deaf && got != tricklepb.DigestKind_DIGEST_KIND_PORTABLE {
				t.Errorf("the publisher still sends %s", got)
			}
		})
	}
}

// A compared condition on both sides, an excluded column and a renamed table.
func TestRules(t *testing.T) {
	t.Parallel()
	p := newPair(t, strings.Replace(lawPolicy, "{table: public.t}", "{table: public.t, replica: public.copy, where: id > 100, columns: {exclude: [note]}}", 1), 250)
	p.exec(p.src, `ALTER TABLE t ADD COLUMN note text DEFAULT 'source'`)
	p.exec(p.dst, `ALTER TABLE t ADD COLUMN note text DEFAULT 'replica'`)
	p.exec(p.dst, `ALTER TABLE t RENAME TO copy`)
	p.exec(p.dst, `UPDATE copy SET v = 'edited' WHERE id IN (50, 150)`)
	p.exec(p.dst, `DELETE FROM copy WHERE id = 200`)
	p.caughtUp()
	p.scan()
	p.settle()
	p.want(`SELECT string_agg(key->>'id', ',' ORDER BY id) FROM trickle.corrections`, "150,200")
	p.want(`SELECT v FROM copy WHERE id = 50`, "edited") // outside of the condition
	p.want(`SELECT note FROM copy WHERE id = 150`, "replica")
	p.want(`SELECT count(*) FROM copy WHERE id IN (150, 200) AND v LIKE 'value %'`, "2")
}

// A row that left the policy's condition at the source still exists there: drift that brings the replica's into it, or takes it out, is an update, never
// a delete.
func TestConditionNeverDeletes(t *testing.T) {
	t.Parallel()
	p := newPair(t, strings.Replace(lawPolicy, "{table: public.t}", "{table: public.t, where: \"v LIKE 'value%'\"}", 1), 50)
	p.exec(p.src, `UPDATE t SET v = 'outside' WHERE id IN (7, 8)`)
	p.exec(p.dst, `UPDATE t SET v = 'outside' WHERE id IN (8, 9)`) // 7 is inside only here, 9 only there
	p.caughtUp()
	p.scan()
	for range 2 {
		p.settle()
		p.caughtUp()
	}
	p.identical()
	p.want(`SELECT string_agg(kind || (key->>'id'), ' ' ORDER BY key->>'id') FROM trickle.corrections`, "mismatched7 mismatched9")
}

// A partitioned table is walked by its root: all kinds are corrected, one by one and in bulk.
func TestPartitionedTable(t *testing.T) {
	t.Parallel()
	p := newPair(t, resyncPolicy, 1)
	for i, pool := range []*pgxpool.Pool{p.src, p.dst} {
		p.exec(pool, `DROP TABLE t`)
		p.exec(pool, `CREATE TABLE t (id bigint PRIMARY KEY, v text) PARTITION BY RANGE (id)`)
		cut := []string{"100", "150"}[i] // other partitions over there
		p.exec(pool, `CREATE TABLE t_low PARTITION OF t FOR VALUES FROM (MINVALUE) TO (`+cut+`)`)
		p.exec(pool, `CREATE TABLE t_high PARTITION OF t FOR VALUES FROM (`+cut+`) TO (MAXVALUE)`)
		p.exec(pool, `INSERT INTO t SELECT i, 'value ' || i FROM generate_series(1, 300) AS i`)
	}
	p.exec(p.dst, `DELETE FROM t WHERE id = 7`)
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id IN (120, 250)`)
	p.exec(p.dst, `INSERT INTO t VALUES (1000, 'extra')`)
	p.caughtUp()
	p.scan()
	p.settle()
	p.caughtUp()
	p.settle()
	p.identical()
	p.want(`SELECT count(*) FROM trickle.corrections WHERE outcome = 'confirmed'`, "4")
	p.exec(p.dst, `TRUNCATE t`)
	p.caughtUp()
	p.request(entry.Wish{ID: "full", Scope: entry.Full, Table: "public.t", Reason: "test"})
	p.walk()
	p.identical()
	p.want(`SELECT state || ' ' || corrected FROM trickle.resyncs`, "done 300")
}

// Suspects that nothing can be proven about never stop the verification.
func TestManySuspectsStopNothing(t *testing.T) {
	t.Parallel()
	p := newPair(t, strings.Replace(lawPolicy, "gate: {max_lag: 1h, heartbeat: {in_commit_order: true}}", "", 1), 50)
	p.detector.Pending = 3
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id <= 10`)
	p.caughtUp()
	p.scan()
	p.want(`SELECT count(*) FROM trickle.suspects`, "10")
	b := &box{committed: make(chan struct{}), deliveries: []detector.Delivery{{Where: "laws.verify/0@0", Envelope: p.sent[0]}}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.detector.Run(ctx, b) }()
	select {
	case <-b.committed:
	case <-time.After(20 * time.Second):
		t.Error("verification stands still")
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Law 2: a column of times tells which rows are quiet, and proves nothing: it is set before a change is committed, or not at all.
func TestAQuietColumnProvesNothing(t *testing.T) {
	t.Parallel()
	p := newPair(t, strings.Replace(lawPolicy, "{table: public.t}", "{table: public.t, quiet_column: at}", 1), 50)
	for _, pool := range []*pgxpool.Pool{p.src, p.dst} {
		p.exec(pool, `ALTER TABLE t ADD COLUMN at timestamptz DEFAULT '2000-01-01'`)
		pool.Reset()
	}
	p.caughtUp()
	p.exec(p.src, `UPDATE t SET v = 'new' WHERE id = 7`)
	p.exec(p.src, `INSERT INTO t VALUES (99, 'new', NULL)`)
	p.scan()
	p.settle()
	p.want(kinds, "none")
	p.exec(p.dst, `UPDATE t SET v = 'new' WHERE id = 7`)
	p.exec(p.dst, `INSERT INTO t VALUES (99, 'new', NULL)`)
	p.exec(p.src, `UPDATE t SET v = 'lost' WHERE id = 8`)
	p.caughtUp()
	p.scan()
	p.settle()
	p.want(kinds, "mismatched 8")
	p.identical()
}

// A source that lost its last moments gives their transaction numbers to others: what was read before is no reading of what is there now.
func TestAReadingOfLostTransactionsIsMadeAnew(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 50)
	p.caughtUp()
	now := p.reading(cursor.Range{})
	lost := now
	lost.Sum, lost.Xmin = now.Sum+1, now.Xmin+1000
	if got := p.reading(lost); got.Sum != now.Sum {
		t.Errorf("the lost reading stands: %+v, not %+v", got, now)
	}
}
