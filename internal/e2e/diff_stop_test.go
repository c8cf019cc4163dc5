package e2e

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

// prompt is how soon a command that was interrupted has ended, and its queries with it. The binaries under test are slow ones, on a busy machine.
const prompt = 5 * time.Second

// slowly makes reading a table take as long as a test wants to: each row's digest waits in both databases. Only the rows of the two halves are read quickly.
const slowly = `CREATE FUNCTION dawdle(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN IF $1 > 5000 THEN PERFORM pg_sleep(60); END IF; RETURN $1; END'`

// busy counts what our sessions run on a server: queries that hold this text.
func busy(t *testing.T, d database, text string) int {
	t.Helper()
	return value[int](t, d, `SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'trickle %' AND state = 'active' AND strpos(query, $1) > 0`, text)
}

// lock keeps everybody from reading a table until the returned function is called, or the test ends.
func (d database) lock(t *testing.T, table string) (release func()) {
	t.Helper()
	tx, err := d.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	release = func() {
		if err := tx.Rollback(context.Background()); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
			t.Error(err)
		}
	}
	t.Cleanup(release)
	if _, err := tx.Exec(t.Context(), `LOCK TABLE `+table+` IN ACCESS EXCLUSIVE MODE`, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	return release
}

// Ctrl-C stops the queries on both servers at once, and what was compared by then is printed.
func TestDiffInterrupted(t *testing.T) {
	t.Parallel()
	p := newPair(t, pgtest.Server(t, testbed.Options{}), people, slowly, `CREATE TABLE slow (id int PRIMARY KEY, v int)`, `INSERT INTO slow SELECT i, i FROM generate_series(1, 10000) i`, `ANALYZE`)
	p.dst.exec(t, `UPDATE people SET name = 'drift' WHERE id = 7`)
	policy := writeFile(t, "policy.yaml", "pipeline: p\ntables: [{table: public.people}, {table: public.slow, where: \"dawdle(v) > 0\"}]\nprivacy: {keys: show, values: show}\n")
	for _, c := range []struct {
		signal syscall.Signal
		code   int
	}{{syscall.SIGINT, 130}, {syscall.SIGTERM, 143}} {
		for _, format := range []string{"text", "json"} {
			d := start(t, p.diff("--policy", policy, "--list", "--format", format))
			await(t, patience, "both servers are at it", func() bool {
				if !d.running() {
					t.Fatal("it ended by itself")
				}
				return busy(t, p.src, "dawdle") == 2 // both databases are on one server
			})
			began := time.Now()
			code := d.stop(t, c.signal)
			if took := time.Since(began); code != c.code || took > prompt {
				t.Errorf("%s: exit status %d after %s", c.signal, code, took)
			}
			await(t, prompt, "the queries are gone", func() bool { return busy(t, p.src, "") == 0 })
			if told := d.stderr.String(); !strings.Contains(told, "stopped by a signal") || !strings.Contains(told, "1 of 2 tables") {
				t.Errorf("%s: said %q", c.signal, told)
			}
			out := d.stdout.String()
			if format == "text" {
				if !strings.Contains(out, "public.people: 0 missing, 1 mismatched, 0 extra of 100 rows") || !strings.Contains(out, "public.slow: not compared") {
					t.Errorf("%s: printed %q", c.signal, out)
				}
				continue
			}
			got := decode(t, out)
			if got.Identical || got.table(t, "public.people").Mismatched != 1 || got.table(t, "public.slow").Error == "" {
				t.Errorf("%s: printed %s", c.signal, out)
			}
		}
	}
}

// While suspects settle nothing is asked of the servers, and an interrupt is heeded as well.
func TestDiffInterruptedWhileItWaits(t *testing.T) {
	t.Parallel()
	p := newPair(t, pgtest.Server(t, testbed.Options{}), people)
	p.dst.exec(t, `DELETE FROM people WHERE id = 7`)
	d := start(t, p.diff("--settle", "10m", "--format", "json"))
	still := 0 // how often in a row it was connected and asked nothing
	await(t, patience, "it waits", func() bool {
		if still++; busy(t, p.src, "") > 0 || value[int](t, p.src, `SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'trickle %'`) == 0 {
			still = 0
		}
		return still > 20
	})
	if code := d.stop(t, syscall.SIGINT); code != 130 {
		t.Errorf("exit status %d", code)
	}
	if got := decode(t, d.stdout.String()); got.Identical || got.table(t, "public.people").Error == "" {
		t.Errorf("printed %s", d.stdout.String())
	}
}

// A server that crashes under a comparison costs the table that was being read; what was compared before is told.
func TestDiffLosesAServer(t *testing.T) {
	t.Parallel()
	source, replica := pgtest.Server(t, testbed.Options{}), pgtest.Server(t, testbed.Options{})
	p := pair{connect(t, pgtest.DatabaseOn(t, source)), connect(t, pgtest.DatabaseOn(t, replica))}
	for _, side := range []database{p.src, p.dst} {
		side.exec(t, people, slowly, `CREATE TABLE slow (id int PRIMARY KEY, v int)`, `INSERT INTO slow SELECT i, i FROM generate_series(1, 10000) i`, `CREATE TABLE zebra (id int PRIMARY KEY)`, `ANALYZE`)
	}
	p.dst.exec(t, `UPDATE people SET name = 'drift' WHERE id = 7`)
	policy := writeFile(t, "policy.yaml", "pipeline: p\ntables: [{table: public.people}, {table: public.slow, where: \"dawdle(v) > 0\"}, {table: public.zebra}]\n")

	d := start(t, p.diff("--policy", policy, "--format", "json"))
	await(t, patience, "both servers are at it", func() bool { return busy(t, p.src, "dawdle") == 1 && busy(t, p.dst, "dawdle") == 1 })
	p.dst.pool.Reset()
	if err := replica.Kill(); err != nil {
		t.Fatal(err)
	}
	if code := d.wait(t, shortRun); code != 2 {
		t.Errorf("exit status %d", code)
	}
	c := decode(t, d.stdout.String())
	if got := c.table(t, "public.people"); got.Mismatched != 1 || got.Rows != 100 || got.Error != "" {
		t.Errorf("what was compared before: %+v", got)
	}
	for _, name := range []string{"public.slow", "public.zebra"} {
		if got := c.table(t, name).Error; !strings.Contains(got, "replica") {
			t.Errorf("%s: %q", name, got)
		}
	}
	if told := d.stderr.String(); c.Identical || !strings.Contains(told, "2 of 3 tables could not be compared") {
		t.Errorf("identical %t; said %q", c.Identical, told)
	}
	if n := busy(t, p.src, ""); n != 0 {
		t.Errorf("%d queries go on at the source", n)
	}
	if err := replica.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A connection that breaks before anything was told is made anew, and the table compared from its beginning.
func TestDiffOutlivesABrokenConnection(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, testbed.Options{})
	p := newPair(t, server, people)
	p.dst.exec(t, `UPDATE people SET name = 'drift' WHERE id = 7`)
	release := p.dst.lock(t, "people")
	d := start(t, p.diff("--table", "people", "--format", "json"))
	await(t, patience, "it waits for the lock", func() bool {
		return value[int](t, p.src, `SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'trickle %' AND wait_event_type = 'Lock'`) > 0
	})
	if n := value[int](t, p.src, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'trickle %'`); n == 0 {
		t.Fatal("nothing was cut off")
	}
	release()
	if code := d.wait(t, shortRun); code != 1 {
		t.Errorf("exit status %d", code)
	}
	if got := decode(t, d.stdout.String()).Tables[0]; got.Mismatched != 1 || got.Rows != 100 || got.Error != "" {
		t.Errorf("%+v", got)
	}
}
