package postgres_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// A stream of every type arrives as it was sent, in each format that it may be sent in, in another database and in one of another major version.
func TestStreamOfEveryType(t *testing.T) {
	t.Parallel()
	own := varieties()
	a := fresh(t, varied(own, false), fmt.Sprintf(everyType, `'red', 'it''s "\'`))
	vs := append(slices.Clone(own), holdable(t, a)...)
	a.Reset() // for connections that see the extensions
	fill(t, a, vs, "CREATE TABLE t_%s (id int PRIMARY KEY, v %s);")
	for name, b := range map[string]*pgxpool.Pool{
		"another database": fresh(t, varied(own, true), fmt.Sprintf(everyType, `'it''s "\', 'red'`)),
		"another version":  fresh18(t, varied(own, true), fmt.Sprintf(everyType, `'it''s "\', 'red'`)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b.Reset()
			binary := 0
			for _, v := range vs {
				exec(t, b, fmt.Sprintf("CREATE TABLE t_%s (id int PRIMARY KEY, v %s);", v.name, v.typ))
				la := describe(t, a, "public.t_"+v.name, postgres.Rules{})
				lb := fit(t, b, "public.t_"+v.name, la, postgres.Rules{})
				streamed(t, a, b, la, lb, false)
				if _, ok := lb.Streamable(); ok {
					binary++
					streamed(t, a, b, la, lb, true)
				}
			}
			if binary < 100 {
				t.Errorf("only %d of %d types are streamed in binary", binary, len(vs))
			}
		})
	}
}

func fresh18(t *testing.T, statements ...string) *pgxpool.Pool {
	t.Helper()
	pool := open(t, pgtest.DatabaseOf(t, 18))
	exec(t, pool, statements...)
	return pool
}

// streamed streams a whole table and holds what arrives against what was sent.
func streamed(t *testing.T, a, b *pgxpool.Pool, la, lb *postgres.Layout, binary bool) {
	t.Helper()
	what := fmt.Sprintf("%s, binary %t", la.Schema.GetColumns()[len(la.Schema.GetColumns())-1].GetDeclared(), binary)
	columns, _ := lb.Streamable()
	var sent postgres.Streamed
	on(t, a, func(c *pgconn.PgConn) {
		var err error
		sent, err = la.Stream(t.Context(), c, message.Range{}, postgres.StreamWant{Columns: columns, Binary: binary, Digest: digest.Portable, Settled: everything, Rows: 1000, Bytes: 1 << 20})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	})
	if want := sumUp(t, a, la, digest.Portable); sent.Print != want || sent.Whole != want || sent.More {
		t.Fatalf("%s: streamed %+v of %+v", what, sent.Print, want)
	}
	on(t, b, func(c *pgconn.PgConn) {
		script(t, c, "BEGIN")
		defer script(t, c, "ROLLBACK")
		n, err := lb.Load(t.Context(), c, sent.Stream)
		if err != nil || uint64(n) != sent.Print.Rows {
			t.Errorf("%s: %d rows arrived of %d: %v", what, n, sent.Print.Rows, err)
			return
		}
		got, xmin, err := lb.Own(t.Context(), c, message.Range{}, digest.Portable)
		if err != nil || got != sent.Print || xmin == 0 {
			t.Errorf("%s: %+v arrived of %+v, written by %d: %v", what, got, sent.Print, xmin, err)
		}
	})
}

// everything is settled: no transaction is as young.
var everything = postgres.Settled{Xmin: 1 << 31}

func sumUp(t *testing.T, pool *pgxpool.Pool, l *postgres.Layout, kind digest.Kind) (print digest.Thumbprint) {
	t.Helper()
	on(t, pool, func(c *pgconn.PgConn) {
		var err error
		if print, err = l.Thumbprint(t.Context(), c, message.Range{}, nil, kind); err != nil {
			t.Fatal(err)
		}
	})
	return print
}

func script(t *testing.T, c *pgconn.PgConn, sql string) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql).ReadAll(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Streams cut at their bounds, whatever the key, go on where they ended and miss nothing; what is not settled is listed and left out; and each can be taken back by
// its statement.
func TestStreamInParts(t *testing.T) {
	t.Parallel()
	const ddl = `CREATE TABLE t (a text COLLATE "C", b int, v text, PRIMARY KEY (a, b));`
	const rows = `INSERT INTO t SELECT E'it''s "\\' || i % 7, i, repeat('x', i % 50) || E'\t\n\\N\\.' FROM generate_series(1, 500) AS i;`
	a, b := fresh(t, ddl, rows), fresh(t, ddl)
	var young uint64
	on(t, a, func(c *pgconn.PgConn) {
		script(t, c, `UPDATE t SET v = 'young' WHERE b % 100 = 3`)
		r := c.ExecParams(t.Context(), `SELECT min(xmin::text::bigint) FROM t WHERE v = 'young'`, nil, nil, nil, nil).Read()
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		if _, err := fmt.Sscan(string(r.Rows[0][0]), &young); err != nil {
			t.Fatal(err)
		}
	})
	la := describe(t, a, "public.t", postgres.Rules{})
	lb := fit(t, b, "public.t", la, postgres.Rules{})
	for _, bound := range []postgres.StreamWant{{Rows: 90, Bytes: 1 << 20}, {Rows: 1000, Bytes: 3000}, {Rows: 1000, Bytes: 1}, {Rows: 1000, Bytes: 3000, Binary: true}} {
		bound.Columns, bound.Digest, bound.Settled = []string{"v", "b", "a"}, digest.Record, postgres.Settled{Xmin: young}
		var undo []string
		rng, parts, unsettled := message.Range{}, 0, 0
		var whole digest.Thumbprint
		for more := true; more; parts++ {
			on(t, a, func(c *pgconn.PgConn) {
				s, err := la.Stream(t.Context(), c, rng, bound)
				if err != nil {
					t.Fatal(err)
				}
				whole = whole.Add(s.Whole)
				unsettled += len(s.Unsettled)
				more, rng.Lo = s.More, s.Covered.Hi
				on(t, b, func(c *pgconn.PgConn) {
					script(t, c, "BEGIN")
					if _, err := lb.Load(t.Context(), c, s.Stream); err != nil {
						t.Fatal(err)
					}
					got, xmin, err := lb.Own(t.Context(), c, s.Covered, digest.Record)
					if err != nil || got != s.Print {
						t.Fatalf("%+v arrived of %+v: %v", got, s.Print, err)
					}
					script(t, c, "COMMIT")
					undo = append(undo, lb.Undo(s.Covered, xmin))
				})
			})
		}
		if parts < 4 || unsettled != 5 || whole != sumUp(t, a, la, digest.Record) {
			t.Errorf("%+v: %d parts, %d rows not settled, %+v in all", bound, parts, unsettled, whole)
		}
		if n := sumUp(t, b, lb, digest.Record).Rows; n != 495 {
			t.Errorf("%+v: %d rows arrived", bound, n)
		}
		exec(t, b, undo...)
		if n := sumUp(t, b, lb, digest.Record).Rows; n != 0 {
			t.Errorf("%+v: %d rows are left of what was taken back", bound, n)
		}
	}
}

// A large table is cut by a sample into pieces that are all about as large; a small one is not.
func TestPieces(t *testing.T) {
	t.Parallel()
	const ddl = `CREATE TABLE t (id text PRIMARY KEY, v text);`
	for name, key := range map[string]string{"in order": `lpad(i::text, 9, '0')`, "at random": `md5(i::text)`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := fresh(t, ddl, strings.Replace(`INSERT INTO t SELECT KEY, repeat('x', 100) FROM generate_series(1, 50000) AS i; ANALYZE t`, "KEY", key, 1))
			l := describe(t, pool, "public.t", postgres.Rules{})
			on(t, pool, func(c *pgconn.PgConn) {
				if keys, err := l.Pieces(t.Context(), c, 2<<20); err != nil || keys != nil {
					t.Errorf("a table of seven megabytes is cut into %d pieces of two: %v", len(keys)+1, err)
				}
				keys, err := l.Pieces(t.Context(), c, 256<<10)
				if err != nil || len(keys) < 20 || len(keys) > 40 {
					t.Fatalf("%d pieces, %v", len(keys)+1, err)
				}
				r, most, total := message.Range{}, uint64(0), uint64(0)
				for i := range len(keys) + 1 {
					r.Hi = nil
					if i < len(keys) {
						r.Hi = keys[i]
					}
					print, err := l.Thumbprint(t.Context(), c, r, nil, digest.Record)
					if err != nil {
						t.Fatal(err)
					}
					most, total, r.Lo = max(most, print.Rows), total+print.Rows, r.Hi
				}
				if total != 50000 || most > 3*total/uint64(len(keys)) {
					t.Errorf("%d pieces of %d rows, the largest of %d", len(keys)+1, total, most)
				}
			})
		})
	}
}
