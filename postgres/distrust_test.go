package postgres

import (
	"bytes"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/message"
)

// Where what is computed here is not what the server computes, the server's counts.
func TestServersDigestCounts(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, pgtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, "CREATE TABLE orders (id int PRIMARY KEY, note text); INSERT INTO orders SELECT n, 'note' FROM generate_series(1, 100) AS n; BEGIN"); err != nil {
		t.Fatal(err)
	}
	c := conn.PgConn()
	table, err := Describe(ctx, c, ParseName("public.orders"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := NewLayout(table, Rules{})
	if err != nil {
		t.Fatal(err)
	}
	columns, binary := l.Streamable()
	e := l.Exporter(ExportWant{Columns: columns, Binary: binary, Digest: digest.Record})
	l.record = "pg_catalog.hashint8extended(t.id, 7)" // as if this server hashed otherwise
	var out bytes.Buffer
	got, err := e.Export(ctx, c, message.Range{}, &out)
	want, err2 := l.Thumbprint(ctx, c, message.Range{}, nil, digest.Record)
	if err != nil || err2 != nil || got.Print != want || e.Here() {
		t.Errorf("exported %+v of %+v, digested here: %t, %v, %v", got.Print, want, e.Here(), err, err2)
	}
}
