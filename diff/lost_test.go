package diff_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/diff"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/internal/testbed/proxy"
	"github.com/trickle-verify/trickle/postgres"
)

// slow makes a table whose rows take long to read: a looser type with a check that waits for an advisory lock while somebody else holds it.
const slow = `CREATE FUNCTION gate(v int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
		IF v % 1000 = 0 THEN PERFORM pg_advisory_xact_lock_shared(42); END IF; RETURN true; END $$;
	CREATE DOMAIN gated AS int CHECK (gate(VALUE));
	CREATE TABLE t (id bigint PRIMARY KEY, v int, n int);
	INSERT INTO t SELECT i, i, 0 FROM generate_series(1, 30000) AS i;`

func slowTable() diff.Table {
	t := table("public.t")
	t.Rules.Compare = map[string]string{"v": "gated"}
	return t
}

// watch is a second pool to a database, for looking at the first's sessions and getting in their way.
func watch(t testing.TB, dsn string) *pgxpool.Pool {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("application_name", "watching")
	u.RawQuery = q.Encode()
	return open(t, u.String())
}

// shut makes everybody wait at the gate until the returned function opens it.
func shut(t testing.TB, watching *pgxpool.Pool) (unlock func()) {
	t.Helper()
	conn, err := watching.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_lock(42)"); err != nil {
		t.Fatal(err)
	}
	return func() {
		if _, err := conn.Exec(context.WithoutCancel(t.Context()), "SELECT pg_advisory_unlock(42)"); err != nil {
			t.Error(err)
		}
		conn.Release()
	}
}

// waiting is how many sessions stand at the gate, and running how many have a statement under way.
const (
	waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'watching' AND wait_event = 'advisory'"
	running = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'watching' AND state = 'active'"
)

func number(t testing.TB, pool *pgxpool.Pool, sql string) (n int) {
	t.Helper()
	if err := pool.QueryRow(context.WithoutCancel(t.Context()), sql).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func awaitGate(t testing.TB, watching *pgxpool.Pool) {
	t.Helper()
	eventually(t, patience, func() error {
		if number(t, watching, waiting) == 0 {
			return errors.New("nobody reads yet")
		}
		return nil
	})
}

// answer is what a comparison returned.
type answer struct {
	result diff.Result
	err    error
}

// begin compares in the background.
func (p pair) begin(ctx context.Context, table diff.Table, o diff.Options) <-chan answer {
	done := make(chan answer, 1)
	go func() {
		r, err := diff.New(p.source, p.replica, o).Table(ctx, table)
		done <- answer{r, err}
	}()
	return done
}

func TestConnectionsLostAndTheTableComparedAnew(t *testing.T) {
	t.Parallel()
	for _, side := range []string{"source", "replica"} {
		for _, jobs := range []int{1, 3} {
			dsns := [2]string{pgtest.Database(t), pgtest.Database(t)}
			p := pair{open(t, dsns[0]), open(t, dsns[1])}
			p.both(t, slow)
			exec(t, p.replica, "DELETE FROM t WHERE id % 100 = 1; UPDATE t SET n = 1 WHERE id % 100 = 2; INSERT INTO t SELECT -i, i, i FROM generate_series(1, 50) AS i")
			victim := dsns[0]
			if side == "replica" {
				victim = dsns[1]
			}
			watching := watch(t, victim)
			unlock := shut(t, watching)
			// Nothing is listed: nothing has left the comparison when it breaks off.
			done := p.begin(t.Context(), slowTable(), diff.Options{Jobs: jobs})
			awaitGate(t, watching)
			exec(t, watching, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'watching'")
			unlock()
			got := <-done
			if want := (counts{rows: 30000, missing: 300, mismatched: 300, extra: 50}); got.err != nil || of(got.result) != want {
				t.Errorf("%s lost, %d jobs: %+v, not %+v: %v", side, jobs, of(got.result), want, got.err)
			}
		}
	}
}

// After something was listed, beginning anew would list it twice.
func TestConnectionsLostAfterSomethingWasListed(t *testing.T) {
	t.Parallel()
	dsns := [2]string{pgtest.Database(t), pgtest.Database(t)}
	p := pair{open(t, dsns[0]), open(t, dsns[1])}
	p.both(t, slow)
	exec(t, p.replica, "UPDATE t SET n = 1 WHERE id BETWEEN 1 AND 2500 OR id = 29000") // so many that some are handed on before the end
	watching := watch(t, dsns[1])
	l := newListing()
	first, goOn := make(chan struct{}), make(chan struct{})
	done := p.begin(t.Context(), slowTable(), diff.Options{Jobs: 1, Found: func(table diff.Table, d diff.Difference) error {
		if len(l.whole) == 0 {
			close(first)
			<-goOn
		}
		return l.add(table, d)
	}})
	<-first
	exec(t, watching, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'watching'")
	close(goOn)
	got := <-done
	if got.err == nil || !postgres.Passing(got.err) || !strings.Contains(got.err.Error(), "replica: ") || !strings.Contains(got.err.Error(), "given up") {
		t.Errorf("the error does not say what was lost, and what to do: %v", got.err)
	}
	if len(l.whole) == 0 || got.result.Mismatched < int64(len(l.whole)) || got.result.Mismatched > 2501 || got.result.Rows == 0 || got.result.Missing+got.result.Extra > 0 {
		t.Errorf("%d listed, %+v", len(l.whole), of(got.result))
	}
}

func TestALinkThatIsCut(t *testing.T) {
	t.Parallel()
	source, replica := pgtest.Database(t), pgtest.Database(t)
	u, err := url.Parse(replica)
	if err != nil {
		t.Fatal(err)
	}
	link, err := proxy.Listen(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := link.Close(); err != nil {
			t.Error(err)
		}
	})
	u.Host = link.Address()
	p := pair{open(t, source), open(t, u.String())}
	p.both(t, slow)
	exec(t, p.replica, "DELETE FROM t WHERE id = 17")
	watching := watch(t, replica)
	unlock := shut(t, watching)
	done := p.begin(t.Context(), slowTable(), diff.Options{Jobs: 2})
	awaitGate(t, watching)
	link.Cut()
	unlock()
	link.Restore()
	if got := <-done; got.err != nil || of(got.result) != (counts{rows: 30000, missing: 1}) {
		t.Errorf("cut and restored: %+v, %v", of(got.result), got.err)
	}
	link.Cut()
	if got := <-p.begin(t.Context(), slowTable(), diff.Options{Jobs: 2}); got.err == nil || !strings.Contains(got.err.Error(), "replica") {
		t.Errorf("a link that stays cut: %+v, %v", of(got.result), got.err)
	}
}

func TestStoppedInTheMiddle(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]diff.Options{"one job": {Jobs: 1}, "three jobs": {Jobs: 3}, "settling": {Jobs: 1, Settle: time.Hour}} {
		dsns := [2]string{pgtest.Database(t), pgtest.Database(t)}
		p := pair{open(t, dsns[0]), open(t, dsns[1])}
		p.both(t, slow)
		watching := [2]*pgxpool.Pool{watch(t, dsns[0]), watch(t, dsns[1])}
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(cancel)
		var done <-chan answer
		if options.Settle > 0 {
			exec(t, p.replica, "UPDATE t SET n = 1")
			options.Progress = &diff.Progress{}
			done = p.begin(ctx, slowTable(), options)
			eventually(t, patience, func() error {
				if s := options.Progress.Now(); s.Rows < 60_000 {
					return fmt.Errorf("%d rows read", s.Rows)
				}
				return nil
			})
		} else {
			for _, pool := range watching {
				t.Cleanup(shut(t, pool))
			}
			done = p.begin(ctx, slowTable(), options)
			awaitGate(t, watching[0])
			awaitGate(t, watching[1])
		}
		cancel()
		began := time.Now()
		for i := range watching {
			eventually(t, time.Second, func() error {
				if n := number(t, watching[i], running); n > 0 {
					return fmt.Errorf("%s: %d statements still run on side %d", name, n, i)
				}
				return nil
			})
		}
		select {
		case got := <-done:
			if !errors.Is(got.err, context.Canceled) || strings.Contains(got.err.Error(), "statement_timeout") {
				t.Errorf("%s: it says %v", name, got.err)
			}
		case <-time.After(3*time.Second - time.Since(began)):
			t.Errorf("%s: it goes on", name)
		}
	}
}

// A statement timeout is not a reason to try again, and its way out is named.
func TestStatementTimeout(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.RawQuery += "&options=-c%20statement_timeout%3D300ms"
	p := pair{open(t, pgtest.Database(t)), open(t, dsn)}
	p.both(t, slow)
	p.replica = open(t, u.String())
	unlock := shut(t, watch(t, dsn))
	defer unlock()
	got := <-p.begin(t.Context(), slowTable(), diff.Options{Jobs: 2})
	if got.err == nil || !strings.Contains(got.err.Error(), "options=-c%20statement_timeout%3D0") || !strings.Contains(got.err.Error(), "replica: ") {
		t.Errorf("it says %v", got.err)
	}
}

// Servers that end transactions which idle: one side waits for the other for as long as that takes.
func TestServersThatEndIdleTransactions(t *testing.T) {
	t.Parallel()
	dsns := [2]string{pgtest.Database(t), pgtest.Database(t)}
	p := pair{open(t, dsns[0]), open(t, dsns[1])}
	p.both(t, slow, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET idle_in_transaction_session_timeout = ''200ms''', current_database()); END $$`)
	exec(t, p.replica, "UPDATE t SET n = 1 WHERE id = 5")
	p = pair{open(t, dsns[0]), open(t, dsns[1])}
	watching, other := watch(t, dsns[1]), watch(t, dsns[0])
	unlock := shut(t, watching)
	l := newListing()
	done := p.begin(t.Context(), slowTable(), diff.Options{Jobs: 2, Found: l.add})
	awaitGate(t, watching)
	eventually(t, patience, func() error { // the source has been read, and has waited for longer than it lets others
		const busy = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'watching'
			AND (state = 'active' OR state LIKE 'idle in%' AND clock_timestamp() - state_change < '400ms')`
		if n := number(t, other, busy); n > 0 {
			return fmt.Errorf("%d sessions are at work", n)
		}
		return nil
	})
	unlock()
	if got := <-done; got.err != nil || of(got.result) != (counts{rows: 30000, mismatched: 1}) || got.result.Took > 3*time.Second {
		t.Errorf("%+v after %v, %v", of(got.result), got.result.Took, got.err)
	}
}
