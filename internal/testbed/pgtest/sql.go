package pgtest

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Exec runs statements, each by itself, in a session of their own. It may be called by a test's clean-up too.
func Exec(t testing.TB, dsn string, statements ...string) {
	t.Helper()
	session(t, dsn, func(ctx context.Context, conn *pgx.Conn) {
		t.Helper()
		for _, sql := range statements {
			if _, err := conn.Exec(ctx, sql); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
	})
}

// Text is what a query, or an expression, gives: one value as text, "NULL" for none.
func Text(t testing.TB, dsn, sql string) string {
	t.Helper()
	var v *string
	session(t, dsn, func(ctx context.Context, conn *pgx.Conn) {
		t.Helper()
		if err := conn.QueryRow(ctx, "SELECT ("+sql+")::text").Scan(&v); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	})
	if v == nil {
		return "NULL"
	}
	return *v
}

func session(t testing.TB, dsn string, do func(context.Context, *pgx.Conn)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	do(ctx, conn)
}
