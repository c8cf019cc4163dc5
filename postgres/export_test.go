package postgres_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// What is exported of every type has the thumbprint that the server computes, and arrives elsewhere as it was, in each format and with each digest.
func TestExportOfEveryType(t *testing.T) {
	t.Parallel()
	for name, dsn := range map[string]string{"this version": pgtest.Database(t), "another version": pgtest.DatabaseOf(t, 18)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own := varieties()
			a := open(t, dsn)
			exec(t, a, varied(own, false), fmt.Sprintf(everyType, `'red', 'it''s "\'`))
			vs := append(slices.Clone(own), holdable(t, a)...)
			a.Reset() // for connections that see the extensions
			fill(t, a, vs, "CREATE TABLE t_%s (id int PRIMARY KEY, v %s);")
			here := 0
			for _, v := range vs {
				l := describe(t, a, "public.t_"+v.name, postgres.Rules{})
				columns, binary := l.Streamable()
				for _, kind := range []digest.Kind{digest.Record, digest.Portable} {
					for _, format := range []bool{false, binary} {
						e := l.Exporter(postgres.ExportWant{Columns: columns, Binary: format, Digest: kind})
						before := e.Here()
						exported(t, a, l, e, kind)
						if e.Here() != before {
							t.Errorf("%s (%s) is digested otherwise here than by the server", v.name, v.typ)
						}
						if before {
							here++
						}
					}
				}
			}
			if here < 39 {
				t.Errorf("only %d columns are digested here", here)
			}
		})
	}
}

// exported exports a whole table and holds what comes of it against the table.
func exported(t *testing.T, pool *pgxpool.Pool, l *postgres.Layout, e *postgres.Exporter, kind digest.Kind) []byte {
	t.Helper()
	var out bytes.Buffer
	on(t, pool, func(c *pgconn.PgConn) {
		script(t, c, "BEGIN")
		defer script(t, c, "ROLLBACK")
		got, err := e.Export(t.Context(), c, message.Range{}, &out)
		if err != nil {
			t.Fatalf("%s: %v", l.Name, err)
		}
		if want := sumUp(t, pool, l, kind); got.Print != want || got.Bytes != int64(out.Len()) {
			t.Errorf("%s: exported %+v in %d bytes of %+v", l.Name, got, out.Len(), want)
		}
	})
	return out.Bytes()
}

// Ranges of a table are exported each on its own, and where the digest computed here is not the server's, the server's is taken.
func TestExportOfRanges(t *testing.T) {
	t.Parallel()
	pool := fresh(t, "CREATE TABLE orders (id int PRIMARY KEY, note text, doc jsonb, big bytea)",
		`INSERT INTO orders SELECT n, CASE WHEN n % 3 > 0 THEN 'note ' || n END, jsonb_build_object('n', n, 'more', jsonb_build_array(n / 7.0, NULL, true)), CASE WHEN n % 100 = 0 THEN decode(repeat('ab', 300000), 'hex') END
			FROM generate_series(1, 1000) AS n`)
	l := describe(t, pool, "public.orders", postgres.Rules{})
	columns, binary := l.Streamable()
	e := l.Exporter(postgres.ExportWant{Columns: columns, Binary: binary, Digest: digest.Record})
	lo := message.Key(nil)
	for _, hi := range []message.Key{{"0"}, {"1"}, {"500"}, {"900"}, nil} {
		r := message.Range{Lo: lo, Hi: hi}
		var out bytes.Buffer
		on(t, pool, func(c *pgconn.PgConn) {
			script(t, c, "BEGIN")
			defer script(t, c, "ROLLBACK")
			got, err := e.Export(t.Context(), c, r, &out)
			if err != nil {
				t.Fatal(err)
			}
			want, err := l.Thumbprint(t.Context(), c, r, nil, digest.Record)
			if err != nil || got.Print != want || !e.Here() {
				t.Errorf("range %s: exported %+v of %+v, digested here: %t, %v", r, got.Print, want, e.Here(), err)
			}
			script(t, c, "CREATE TEMP TABLE arrived (LIKE orders)")
			tag, err := c.CopyFrom(t.Context(), &out, "COPY arrived FROM STDIN (FORMAT binary)")
			if err != nil || uint64(tag.RowsAffected()) != want.Rows {
				t.Errorf("range %s: %d rows arrived of %d: %v", r, tag.RowsAffected(), want.Rows, err)
			}
		})
		lo = hi
	}
}

var errFull = errors.New("no room")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

// A writer that fails is told of, and the connection is of use afterwards.
func TestExportToAWriterThatFails(t *testing.T) {
	t.Parallel()
	pool := fresh(t, "CREATE TABLE orders (id int PRIMARY KEY, note text)", "INSERT INTO orders SELECT n, repeat('x', 100) FROM generate_series(1, 20000) AS n")
	l := describe(t, pool, "public.orders", postgres.Rules{})
	columns, binary := l.Streamable()
	on(t, pool, func(c *pgconn.PgConn) {
		script(t, c, "BEGIN")
		defer script(t, c, "ROLLBACK")
		e := l.Exporter(postgres.ExportWant{Columns: columns, Binary: binary, Digest: digest.Record})
		if _, err := e.Export(t.Context(), c, message.Range{}, full{}); !errors.Is(err, errFull) {
			t.Errorf("it says %v", err)
		}
		if got, err := e.Export(t.Context(), c, message.Range{}, io.Discard); err != nil || got.Print.Rows != 20000 {
			t.Errorf("afterwards: %+v, %v", got, err)
		}
	})
}

// A large range is unchanged as long as no row of it was written, added or removed, wherever in it.
func TestUntouched(t *testing.T) {
	t.Parallel()
	pool := fresh(t, "CREATE TABLE orders (id int PRIMARY KEY, note text)", "INSERT INTO orders SELECT n, 'note' FROM generate_series(1, 20000) AS n")
	l := describe(t, pool, "public.orders", postgres.Rules{})
	src := postgres.NewSource(pool)
	r := message.Range{Lo: message.Key{"100"}, Hi: message.Key{"19000"}}
	look := func(known postgres.Known) (rows uint64, same bool, xmin uint64) {
		t.Helper()
		err := src.Read(t.Context(), l, func(c *pgconn.PgConn, at postgres.At) (err error) {
			xmin = at.Xmin
			rows, same, err = l.Untouched(t.Context(), c, r, known)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return rows, same, xmin
	}
	for sql, want := range map[string]bool{
		"SELECT": true, "UPDATE orders SET note = 'x' WHERE id = 18999": false, "UPDATE orders SET note = 'x' WHERE id % 100 = 0": false, "DELETE FROM orders WHERE id = 5000": false,
		"UPDATE orders SET note = 'x' WHERE id IN (100, 19001)": true, "INSERT INTO orders SELECT -n, 'before' FROM generate_series(1, 100) AS n": true,
	} {
		exec(t, pool, "VACUUM orders")
		var print digest.Thumbprint
		on(t, pool, func(c *pgconn.PgConn) {
			var err error
			if print, err = l.Thumbprint(t.Context(), c, r, nil, digest.Record); err != nil {
				t.Fatal(err)
			}
		})
		_, _, xmin := look(postgres.Known{Print: print, Xmin: 1 << 40})
		exec(t, pool, sql)
		if _, same, _ := look(postgres.Known{Print: print, Xmin: xmin}); same != want {
			t.Errorf("%s: unchanged is %t", sql, same)
		}
	}
}
