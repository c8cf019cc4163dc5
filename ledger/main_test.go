package ledger_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const table = "public.t"

func open(t *testing.T, dsn string) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), dsn, postgres.Options{Role: "replica", Setting: "--replica", MaxConns: 9})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// fresh is a migrated ledger of pipeline "p" that knows the table.
func fresh(t *testing.T) (*ledger.Ledger, *pgxpool.Pool) {
	t.Helper()
	pool := open(t, pgtest.Database(t))
	l := ledger.New(pool, "p")
	must(t, l.Migrate(t.Context()))
	must(t, l.Table(t.Context(), table, "cache.t"))
	return l, pool
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func exec(t *testing.T, pool *pgxpool.Pool, sql string) {
	t.Helper()
	_, err := pool.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func one[T any](t *testing.T, pool *pgxpool.Pool, sql string) (v T) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// rng is a range of one-column keys; "" is infinity.
func rng(lo, hi string) message.Range {
	var r message.Range
	if lo != "" {
		r.Lo = message.Key{lo}
	}
	if hi != "" {
		r.Hi = message.Key{hi}
	}
	return r
}

func journal(t *testing.T, pool *pgxpool.Pool, l *ledger.Ledger, entries ...ledger.Entry) (ids []int64) {
	t.Helper()
	must(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) (err error) {
		ids, err = l.Journal(context.WithoutCancel(t.Context()), tx, table, entries)
		return err
	}))
	return ids
}

const hour = time.Hour
