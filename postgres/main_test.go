package postgres_test

import (
	"context"
	"flag"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

func TestMain(m *testing.M) {
	// A check costs several statements over some sixty columns: fewer than rapid's hundred, unless the command line says otherwise.
	if err := flag.Set("rapid.checks", "25"); err != nil {
		panic(err)
	}
	pgtest.Main(m)
}

const patience = time.Minute

// open connects as trickle does.
func open(t testing.TB, dsn string) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), dsn, postgres.Options{Role: "source", Setting: "--source", MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// fresh is a new database with these statements run in it.
func fresh(t testing.TB, statements ...string) *pgxpool.Pool {
	t.Helper()
	pool := open(t, pgtest.Database(t))
	exec(t, pool, statements...)
	return pool
}

// exec runs scripts.
func exec(t testing.TB, pool *pgxpool.Pool, statements ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	for _, sql := range statements {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_, err = conn.Conn().PgConn().Exec(ctx, sql).ReadAll()
		conn.Release()
		if err != nil {
			t.Fatalf("%.200s: %v", sql, err)
		}
	}
}

// on runs fn with a plain connection.
func on(t testing.TB, pool *pgxpool.Pool, fn func(c *pgconn.PgConn)) {
	t.Helper()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	fn(conn.Conn().PgConn())
}

// describe lays a table out on its own.
func describe(t testing.TB, pool *pgxpool.Pool, table string, rules postgres.Rules) *postgres.Layout {
	t.Helper()
	l, err := postgres.NewSource(pool).Describe(t.Context(), postgres.ParseName(table), rules)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// fit lays a replica's table out after the source's schema.
func fit(t testing.TB, pool *pgxpool.Pool, table string, source *postgres.Layout, rules postgres.Rules) *postgres.Layout {
	t.Helper()
	var l *postgres.Layout
	on(t, pool, func(c *pgconn.PgConn) {
		own, err := postgres.Describe(t.Context(), c, postgres.ParseName(table))
		if err != nil {
			t.Fatal(err)
		}
		if l, err = postgres.Fit(own, source.Schema, rules); err != nil {
			t.Fatal(err)
		}
	})
	return l
}

// read lists a range's rows.
func read(t testing.TB, pool *pgxpool.Pool, l *postgres.Layout, r message.Range, w postgres.Want) (rows []postgres.Row) {
	t.Helper()
	on(t, pool, func(c *pgconn.PgConn) {
		page, err := l.Range(t.Context(), c, r, 0, w)
		if err != nil {
			t.Fatal(err)
		}
		rows = page.Rows
	})
	return rows
}
