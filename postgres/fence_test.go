package postgres_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// refetch reads the keys behind a fence taken now.
func refetch(t *testing.T, pool *pgxpool.Pool, l *postgres.Layout, bound time.Duration, ids ...string) (rows []postgres.Row, err error) {
	t.Helper()
	source := postgres.NewSource(pool)
	horizon, err := source.Fence(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	keys := make([]message.Key, len(ids))
	for i, id := range ids {
		keys[i] = message.Key{id}
	}
	err = source.Refetch(t.Context(), l, postgres.Fenced{Horizon: horizon, Bound: bound}, func(c *pgconn.PgConn, _ postgres.At) error {
		rows, err = l.Rows(t.Context(), c, keys, postgres.Want{Digest: digest.Record})
		return err
	})
	return rows, err
}

const brief = 150 * time.Millisecond

// role makes a login role with no right but SELECT on what there is, and connects as it.
func role(t *testing.T, dsn string, admin *pgxpool.Pool) *pgxpool.Pool {
	t.Helper()
	var name string
	if err := admin.QueryRow(t.Context(), `SELECT 'reader_' || current_database()`).Scan(&name); err != nil {
		t.Fatal(err)
	}
	exec(t, admin, `CREATE ROLE `+name+` LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO `+name)
	t.Cleanup(func() { exec(t, admin, `DROP OWNED BY `+name+`; DROP ROLE `+name) })
	return open(t, strings.Replace(dsn, "postgres://postgres@", "postgres://"+name+"@", 1))
}

func TestFenceAndRunningTransactions(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, testbed.Options{Settings: map[string]string{"max_prepared_transactions": "2"}})
	dsn := pgtest.DatabaseOn(t, server)
	admin := open(t, dsn)
	exec(t, admin, `CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)`)
	l := describe(t, admin, "public.t", postgres.Rules{})
	reader := role(t, dsn, admin)
	if _, err := refetch(t, reader, l, brief, "1"); err != nil {
		t.Fatalf("nothing runs: %v", err)
	}
	tx, err := admin.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `INSERT INTO t VALUES (2)`); err != nil {
		t.Fatal(err)
	}
	// Seen twice, idle in transaction: it has not committed when it was asked.
	if rows, err := refetch(t, admin, l, 10*time.Second, "1", "2"); err != nil || !rows[0].Present || rows[1].Present {
		t.Errorf("a running transaction: %+v, %v", rows, err)
	}
	if _, err := refetch(t, admin, l, 0, "1"); !errors.Is(err, postgres.ErrUnstable) {
		t.Errorf("one look is not enough: %v", err)
	}
	if _, err := refetch(t, reader, l, brief, "1"); !errors.Is(err, postgres.ErrUnstable) || !strings.Contains(err.Error(), "public.t") {
		t.Errorf("without the right to see it: %v", err)
	}
	exec(t, admin, `GRANT pg_read_all_stats TO `+reader.Config().ConnConfig.User)
	if _, err := refetch(t, reader, l, 10*time.Second, "1"); err != nil {
		t.Errorf("with the right to see it: %v", err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec(t, admin, `BEGIN; INSERT INTO t VALUES (3); PREPARE TRANSACTION 'p'`)
	if _, err := refetch(t, admin, l, brief, "3"); !errors.Is(err, postgres.ErrUnstable) {
		t.Errorf("a prepared transaction: %v", err)
	}
	exec(t, admin, `COMMIT PREPARED 'p'`)
	if rows, err := refetch(t, admin, l, 10*time.Second, "2", "3"); err != nil || !rows[0].Present || !rows[1].Present {
		t.Errorf("after it: %+v, %v", rows, err)
	}
}

// A commit that hangs for its synchronous standby is in the log, may have been delivered, and is not visible: the source has no
// answer until it is.
func TestFenceAndAStalledStandby(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, testbed.Options{})
	pool := open(t, pgtest.DatabaseOn(t, server))
	exec(t, pool, `CREATE TABLE t (id int PRIMARY KEY)`)
	l := describe(t, pool, "public.t", postgres.Rules{})
	standby := pgtest.Standby(t, server, testbed.StandbyOptions{Synchronous: true})
	if err := standby.Pause(); err != nil {
		t.Fatal(err)
	}
	committed := make(chan error)
	go func() {
		_, err := pool.Exec(context.WithoutCancel(t.Context()), `INSERT INTO t VALUES (1)`)
		committed <- err
	}()
	waiting := false
	for deadline := time.Now().Add(patience); !waiting && time.Now().Before(deadline); {
		if err := pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')`).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := refetch(t, pool, l, 5*brief, "1")
	if !waiting || !errors.Is(err, postgres.ErrUnstable) {
		t.Errorf("while it hangs (%v): %+v, %v", waiting, rows, err)
	}
	if err := standby.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	if rows, err = refetch(t, pool, l, 10*time.Second, "1"); err != nil || !rows[0].Present {
		t.Errorf("after it: %+v, %v", rows, err)
	}
	if err := server.SetSynchronousStandby(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	id, err := postgres.Identify(t.Context(), pool)
	if err != nil || id.Standby {
		t.Fatalf("%+v, %v", id, err)
	}
	there, err := postgres.Identify(t.Context(), open(t, standby.DSN("postgres")))
	if err != nil || !there.Standby || there.System != id.System {
		t.Errorf("the standby of %+v is %+v, %v", id, there, err)
	}
}

// The right to SELECT is enough for everything that the publisher does.
func TestSelectIsEnough(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	admin := open(t, dsn)
	exec(t, admin, `CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'x' FROM generate_series(1, 10) i; CREATE TABLE secret (id int PRIMARY KEY)`)
	reader := role(t, dsn, admin)
	exec(t, admin, `REVOKE ALL ON secret FROM PUBLIC, `+reader.Config().ConnConfig.User)
	if id, err := postgres.Identify(t.Context(), reader); err != nil || id.System == "" || !strings.HasPrefix(id.String(), id.System+"/t") {
		t.Errorf("%+v, %v", id, err)
	}
	source := postgres.NewSource(reader)
	l := describe(t, reader, "public.t", postgres.Rules{})
	if _, err := source.Sample(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := source.Load(t.Context()); err != nil {
		t.Error(err)
	}
	err := source.Read(t.Context(), l, func(c *pgconn.PgConn, at postgres.At) error {
		scan, err := l.Scan(t.Context(), c, message.Range{}, postgres.ScanOptions{Digest: digest.Record, Everything: true})
		if err != nil || scan.Print.Rows != 10 || at.Xmin == 0 || at.LSN == 0 || time.Since(at.Time).Abs() > time.Hour {
			t.Errorf("%+v at %+v, %v", scan, at, err)
		}
		_, err = l.Boundaries(t.Context(), c, message.Range{}, 3)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := refetch(t, reader, l, 10*time.Second, "1"); err != nil && !errors.Is(err, postgres.ErrUnstable) {
		t.Error(err) // other tests of this server may have a transaction open
	}
	if _, err := source.Describe(t.Context(), postgres.ParseName("public.secret"), postgres.Rules{}); postgres.State(err) != "42501" {
		t.Errorf("a table it may not read: %v", err)
	}
}
