package e2e

import (
	"syscall"
	"testing"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

// Both sides are being written, by pgbench and by Postgres's own logical replication: what is in flight is no difference and is not corrected, and what is
// wrong is found and fixed.
func TestDiffOfALivePair(t *testing.T) {
	t.Parallel()
	source, replica := pgtest.Server(t, testbed.Options{}), pgtest.Server(t, testbed.Options{})
	p := pair{connect(t, pgtest.DatabaseOn(t, source)), connect(t, pgtest.DatabaseOn(t, replica))}
	bench := pgbench(t)
	mustRun(t, bench("-q", "-i", "-I", "dtgvp", "-s", "2", p.src.dsn))
	mustRun(t, bench("-q", "-i", "-I", "dtp", "-s", "2", p.dst.dsn))
	for _, d := range []database{p.src, p.dst} {
		d.exec(t, `ALTER TABLE pgbench_history ADD COLUMN id bigserial PRIMARY KEY`, `CREATE TABLE notes (id int PRIMARY KEY, v text)`)
	}
	p.src.exec(t, `INSERT INTO notes SELECT i, 'note ' || i FROM generate_series(1, 1000) i`, `CREATE PUBLICATION live FOR ALL TABLES`)
	p.dst.exec(t, `CREATE SUBSCRIPTION live CONNECTION '`+p.src.dsn+`' PUBLICATION live`)
	await(t, patience, "the tables are copied", func() bool {
		return value[bool](t, p.dst, `SELECT count(*) = 5 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel`)
	})
	writer := start(t, bench("-n", "-c", "4", "-j", "2", "-T", "600", p.src.dsn))
	await(t, patience, "replication is at it", func() bool { return value[int](t, p.dst, `SELECT count(*) FROM pgbench_history`) > 100 })

	before := value[int64](t, p.src, `SELECT count(*) FROM pgbench_history`)
	c := p.compare(t, 0, "--fix", "--settle", "5s")
	t.Logf("nothing wrong: %+v", c.Tables)
	if n := value[int64](t, p.dst, `SELECT count(*) FROM trickle.corrections`); n != 0 {
		t.Errorf("%d corrections where nothing was wrong", n)
	}
	if now := value[int64](t, p.src, `SELECT count(*) FROM pgbench_history`); now == before {
		t.Error("nobody wrote meanwhile")
	}

	p.dst.exec(t, handiwork)
	wanted := untouched + " UNION ALL " + contended
	c = p.compare(t, 1, "--fix", "--settle", "5s")
	if notes := c.table(t, "public.notes"); notes.Missing != 3 || notes.Mismatched != 3 || notes.Extra != 3 || notes.Fixed != 9 {
		t.Errorf("rows that nobody writes: %+v", notes)
	}
	if left := notJournalled(t, p.dst, untouched); len(left) > 0 {
		t.Errorf("not corrected: %v", left)
	}
	if wrong := values[string](t, p.dst, `SELECT table_name || ' ' || key || ' ' || kind FROM trickle.corrections c
		WHERE NOT EXISTS (SELECT FROM (`+wanted+" UNION ALL "+contested+`) AS w(kind, name, key) WHERE w.name = c.table_name AND w.key = c.key AND w.kind = c.kind)`); len(wrong) > 0 {
		t.Errorf("corrected though nobody had made it wrong: %v", wrong)
	}

	writer.stop(t, syscall.SIGTERM)
	await(t, patience, "pgbench's sessions have ended", func() bool {
		return value[int](t, p.src, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'`) == 0
	})
	end := value[string](t, p.src, `SELECT pg_current_wal_lsn()::text`)
	await(t, patience, "replication has caught up", func() bool {
		return value[bool](t, p.src, `SELECT replay_lsn >= $1::pg_lsn FROM pg_stat_replication WHERE application_name = 'live'`, end)
	})
	run(t, p.diff("--fix", "--settle", "0s")) // rows that were too hot to be judged
	if c := p.compare(t, 0); !c.Identical {
		t.Errorf("the two sides differ: %+v", c)
	}
}
