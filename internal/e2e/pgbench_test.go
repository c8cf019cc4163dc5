package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/internal/testbed/workload"
	"github.com/trickle-verify/trickle/ledger"
)

const benchPolicy = `
pipeline: bench
schedule: {cycle: 15s}
quiet: 2s
max_staleness: 30s     # hot rows too
range_rows: 5000
tables: [{table: public.*}]
gate: {max_lag: 30s, heartbeat: {interval: 500ms, in_commit_order: true}}
detect: {confirm: {delay: 1s}}
`

// handiwork is drift made by hand: rows of every kind, each with the key its correction is journalled under. The rows of notes, and those
// whose key is over 1,000,000, are never written by pgbench.
const (
	handiwork = `
INSERT INTO pgbench_accounts (aid, bid, abalance, filler) SELECT 1000000 + i, 1, i, 'by hand' FROM generate_series(1, 5) i;
DELETE FROM pgbench_accounts WHERE aid % 20000 = 77;
UPDATE pgbench_accounts SET filler = 'by hand' WHERE aid % 20000 = 78;
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 20000 = 79;
INSERT INTO pgbench_tellers VALUES (1000001, 1, 0, 'by hand');
DELETE FROM pgbench_tellers WHERE tid = 3;
UPDATE pgbench_tellers SET filler = 'by hand' WHERE tid = 4;
INSERT INTO pgbench_branches VALUES (1000001, 0, 'by hand');
UPDATE pgbench_branches SET filler = 'by hand' WHERE bid = 1;
INSERT INTO notes SELECT i, 'by hand' FROM generate_series(1001, 1003) i;
UPDATE notes SET v = v || '!' WHERE id IN (1, 500, 1000);
DELETE FROM notes WHERE id IN (2, 501, 999);`
	// Nobody but trickle corrects these.
	untouched = `
SELECT 'extra', 'public.pgbench_accounts', jsonb_build_object('aid', 1000000 + i) FROM generate_series(1, 5) i UNION ALL
SELECT 'extra', 'public.pgbench_tellers', '{"tid": 1000001}' UNION ALL
SELECT 'extra', 'public.pgbench_branches', '{"bid": 1000001}' UNION ALL
SELECT 'extra', 'public.notes', jsonb_build_object('id', i) FROM generate_series(1001, 1003) i UNION ALL
SELECT 'mismatched', 'public.notes', jsonb_build_object('id', i) FROM unnest('{1,500,1000}'::int[]) i UNION ALL
SELECT 'missing', 'public.notes', jsonb_build_object('id', i) FROM unnest('{2,501,999}'::int[]) i`
	// Replication doesn't bring a deleted row back either: its updates meet nothing. But the row may be so hot that it is only settled
	// once pgbench has stopped. A row that was updated by hand may be written over by pgbench first.
	contended = `
SELECT 'missing', 'public.pgbench_accounts', jsonb_build_object('aid', i) FROM generate_series(77, 200000, 20000) i UNION ALL
SELECT 'missing', 'public.pgbench_tellers', '{"tid": 3}'`
	contested = `
SELECT 'mismatched', 'public.pgbench_accounts', jsonb_build_object('aid', i + j) FROM generate_series(78, 200000, 20000) i, generate_series(0, 1) j UNION ALL
SELECT 'mismatched', 'public.pgbench_tellers', '{"tid": 4}' UNION ALL
SELECT 'mismatched', 'public.pgbench_branches', '{"bid": 1}'`
)

// Two real servers, Postgres's own logical replication. A minute of pgbench at full speed: nothing is corrected, as nothing is wrong. Then drift by hand, while
// pgbench writes on, slowly enough to leave a busy machine time for what is waited for: all that is wrong is corrected, and nothing else.
func TestPgbench(t *testing.T) {
	t.Parallel()
	source, replica := pgtest.Server(t, testbed.Options{}), pgtest.Server(t, testbed.Options{})
	src, dst := connect(t, pgtest.DatabaseOn(t, source)), connect(t, pgtest.DatabaseOn(t, replica))
	bench := pgbench(t)
	mustRun(t, bench("-q", "-i", "-I", "dtgvp", "-s", "2", src.dsn))
	mustRun(t, bench("-q", "-i", "-I", "dtp", "-s", "2", dst.dsn))
	for _, d := range []database{src, dst} {
		d.exec(t, `ALTER TABLE pgbench_history ADD COLUMN id bigserial PRIMARY KEY`, `CREATE TABLE notes (id int PRIMARY KEY, v text)`,
			`CREATE SCHEMA trickle`, `CREATE TABLE trickle.heartbeat (pipeline text PRIMARY KEY, at timestamptz NOT NULL, timeline bigint NOT NULL)`)
	}
	src.exec(t, `INSERT INTO notes SELECT i, 'note ' || i FROM generate_series(1, 1000) i`, `CREATE PUBLICATION bench FOR ALL TABLES`)
	dst.exec(t, `CREATE SUBSCRIPTION bench CONNECTION '`+src.dsn+`' PUBLICATION bench`)
	await(t, patience, "the tables are copied", func() bool {
		return value[bool](t, dst, `SELECT count(*) = 6 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel`)
	})

	policy := writeFile(t, "policy.yaml", benchPolicy)
	writer := start(t, bench("-n", "-c", "4", "-j", "2", "-T", "600", src.dsn))
	idle := func(what string) {
		t.Helper()
		if code := writer.stop(t, syscall.SIGTERM); writer.running() {
			t.Fatal("pgbench still runs", code)
		}
		await(t, patience, what, func() bool {
			return value[int](t, src, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'`) == 0
		})
	}
	began := time.Now()
	main := start(t, trickle("run", "--policy", policy, "--source", src.dsn, "--replica", dst.dsn, "--listen", "", "--cursor-file", filepath.Join(t.TempDir(), "cursors.json")))
	await(t, patience, "a minute has passed", func() bool {
		if !writer.running() || !main.running() {
			t.Fatal("one of them ended by itself")
		}
		return time.Since(began) >= time.Minute
	})

	clean := status(t, policy, dst.dsn)
	tps := value[int64](t, src, `SELECT count(*) FROM pgbench_history`)
	t.Logf("%d transactions in %s; lag %v s", tps, time.Since(began).Round(time.Second), *clean.Gate.LagSeconds)
	idle("the sessions of pgbench at full speed have ended")
	writer = start(t, bench("-n", "-c", "4", "-j", "2", "-R", "300", "-T", "600", src.dsn))
	// On a busy machine a minute may be too short for every range to have come up twice.
	var missing string
	defer func() {
		if t.Failed() {
			t.Log("not compared:", missing)
		}
	}()
	await(t, 2*patience, "everything has been compared", func() bool {
		missing = notCompared(status(t, policy, dst.dsn))
		return missing == ""
	})
	if got := values[string](t, dst, `SELECT table_name || ' ' || key || ' ' || kind FROM trickle.corrections`); len(got) > 0 {
		t.Errorf("%d corrections where nothing was wrong: %v", len(got), got)
	}

	dst.exec(t, handiwork)
	await(t, patience, "rows that nobody but trickle corrects are corrected under load", func() bool { return len(notJournalled(t, dst, untouched)) == 0 })
	t.Logf("corrected under load within %s", time.Since(began).Round(time.Second))
	idle("pgbench's sessions have ended")
	end := value[string](t, src, `SELECT pg_current_wal_lsn()::text`)
	await(t, patience, "replication has caught up", func() bool {
		return value[bool](t, src, `SELECT replay_lsn >= $1::pg_lsn FROM pg_stat_replication WHERE application_name = 'bench'`, end)
	})
	before := cycles(t, dst)
	await(t, patience, "trickle has gone through two cycles", func() bool {
		now := cycles(t, dst)
		for name, n := range before {
			if now[name] < n+2 {
				return false
			}
		}
		return status(t, policy, dst.dsn).Unconfirmed == 0
	})
	tables := []string{"public.pgbench_accounts", "public.pgbench_branches", "public.pgbench_tellers", "public.pgbench_history", "public.notes"}
	all, err := workload.Compare(t.Context(), src.dsn, dst.dsn, tables)
	if err != nil {
		t.Fatal(err)
	}
	if !workload.Identical(all) {
		t.Errorf("the two sides differ: %+v", all)
	}
	if left := notJournalled(t, dst, untouched+" UNION ALL "+contended); len(left) > 0 {
		t.Errorf("corrected by nobody knows whom: %v", left)
	}
	if wrong := values[string](t, dst, `SELECT table_name || ' ' || key || ' ' || kind FROM trickle.corrections c
		WHERE NOT EXISTS (SELECT FROM (`+untouched+" UNION ALL "+contended+" UNION ALL "+contested+`) AS w(kind, name, key) WHERE w.name = c.table_name AND w.key = c.key AND w.kind = c.kind)`); len(wrong) > 0 {
		t.Errorf("corrected though nobody had made it wrong: %v", wrong)
	}
	last := status(t, policy, dst.dsn)
	if missing = notCompared(last); missing != "" {
		t.Error("at the end, not everything is compared")
	}
	if code := main.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("trickle ends with status %d", code)
	}
	t.Logf("%d transactions; at the end: %+v", value[int64](t, src, `SELECT count(*) FROM pgbench_history`), last.Tables)
}

// notCompared says what was not compared yet, empty when everything was.
func notCompared(r ledger.Report) string {
	least := map[string]int64{"public.pgbench_accounts": 80, "public.pgbench_history": 2, "public.pgbench_tellers": 2, "public.pgbench_branches": 2, "public.notes": 2}
	for name, n := range least {
		got := table(r, name)
		if got.Coverage < 1 || got.RangesVerified < n || got.Paused != "" || got.OldestVerification == nil {
			return fmt.Sprintf("%s: not wholly compared: %+v", name, got)
		}
	}
	if rows := table(r, "public.pgbench_accounts").RowsVerified; rows < 200_000 {
		return fmt.Sprintf("%d rows of accounts compared", rows)
	}
	if !r.Gate.Open {
		return "the gate is closed: " + r.Gate.Reason
	}
	return ""
}

// notJournalled lists those of the wanted corrections (kind, table, key) that are not in the journal.
func notJournalled(t *testing.T, d database, wanted string) []string {
	t.Helper()
	return values[string](t, d, `SELECT name || ' ' || key || ' ' || kind FROM (`+wanted+`) AS w(kind, name, key)
		WHERE NOT EXISTS (SELECT FROM trickle.corrections c WHERE c.table_name = w.name AND c.key = w.key AND c.kind = w.kind)`)
}

// cycles tells the cycle that each table is in.
func cycles(t *testing.T, d database) map[string]int64 {
	t.Helper()
	out := map[string]int64{}
	names := values[string](t, d, `SELECT table_name FROM trickle.tables ORDER BY 1`)
	for i, n := range values[int64](t, d, `SELECT cycle FROM trickle.tables ORDER BY table_name`) {
		out[names[i]] = n
	}
	return out
}

// pgbench makes commands of Postgres's own load generator.
func pgbench(t *testing.T) func(args ...string) command {
	t.Helper()
	dir, err := testbed.FindBinaries(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath(filepath.Join(dir, "pgbench"))
	if err != nil {
		program, err = exec.LookPath("pgbench")
	}
	if err != nil {
		t.Fatalf("no pgbench: make test installs it (%v)", err)
	}
	return func(args ...string) command { return command{program: program, args: args} }
}

func mustRun(t *testing.T, c command) {
	t.Helper()
	if code, _, stderr := run(t, c); code != 0 {
		t.Fatalf("%s %s ends with %d: %s", c.program, strings.Join(c.args, " "), code, stderr)
	}
}
