package stack_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/internal/testbed/kafka"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/internal/testbed/stack"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const patience = 2 * time.Minute

func exec(t *testing.T, dsn string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

func value(t *testing.T, dsn, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var v *string
	if err := conn.QueryRow(t.Context(), "SELECT ("+sql+")::text").Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if v == nil {
		return "NULL"
	}
	return *v
}

// equal waits until a query gives the same on both sides.
func equal(t *testing.T, source, replica, sql string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		want, got := value(t, source, sql), value(t, replica, sql)
		if want == got {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the sides differ:\nsource  %s\nreplica %s", want, got)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

const heartbeat = `CREATE SCHEMA IF NOT EXISTS trickle; CREATE TABLE trickle.heartbeat (pipeline text PRIMARY KEY, at timestamptz NOT NULL)`

// One row goes all the way, however it is changed.
func TestRowsGoFromSourceToReplica(t *testing.T) {
	t.Parallel()
	source, replica := pgtest.Database(t), pgtest.Database(t)
	const schema = `CREATE TABLE letters (id int PRIMARY KEY, v text)`
	exec(t, source, heartbeat, schema, `INSERT INTO letters VALUES (1, 'before'), (2, 'before')`)
	exec(t, replica, heartbeat, schema)
	began := time.Now()
	s := stack.Start(t, kafka.Options{})
	t.Logf("broker and worker: %s", time.Since(began))
	began = time.Now()
	s.Source("shop", source, []string{"public.letters"}, nil).Sink("sink", replica, nil)
	t.Logf("connectors: %s", time.Since(began))
	const all = `SELECT string_agg(l::text, ' ' ORDER BY id) FROM letters l`
	equal(t, source, replica, all)
	t.Logf("snapshot: %s", time.Since(began))
	for i, sql := range []string{
		`INSERT INTO letters VALUES (3, 'a')`, `UPDATE letters SET v = 'b' WHERE id = 1`, `DELETE FROM letters WHERE id = 2`, `UPDATE letters SET id = 4 WHERE id = 3`,
	} {
		exec(t, source, sql, fmt.Sprintf(`INSERT INTO trickle.heartbeat VALUES ('p%d', now())`, i))
		equal(t, source, replica, all)
		equal(t, source, replica, `SELECT max(pipeline) FROM trickle.heartbeat`)
	}
}
