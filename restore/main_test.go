package restore_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/klauspost/compress/zstd"
	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/restore"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const (
	pipeline = "shop"
	patience = time.Minute
)

func open(t testing.TB, dsn string) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), dsn, postgres.Options{Role: "replica", Setting: "--replica", MaxConns: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func fresh(t testing.TB, statements ...string) *pgxpool.Pool {
	t.Helper()
	pool := open(t, pgtest.Database(t))
	exec(t, pool, statements...)
	return pool
}

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

// one is what a query gives, as text.
func one(t testing.TB, pool *pgxpool.Pool, sql string) string {
	t.Helper()
	var v *string
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	if err := pool.QueryRow(ctx, "SELECT ("+sql+")::text").Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if v == nil {
		return "NULL"
	}
	return *v
}

// as opens a database again, as another role.
func as(t testing.TB, admin *pgxpool.Pool, role string) *pgxpool.Pool {
	t.Helper()
	cfg := admin.Config().Copy()
	cfg.ConnConfig.RuntimeParams["role"] = role
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// world is a source, a set of it in a store, and a replica.
type world struct {
	source, replica *pgxpool.Pool
	bucket          *blob.Bucket
	store           *baseline.Store
	set             *baseline.Manifest
	rules           map[string]postgres.Rules
	options         restore.Options
}

// export is how a test builds a set: what it is made of is the package export's to test.
type export struct {
	tables []string
	rules  map[string]postgres.Rules
	rows   int // of an object
	kind   digest.Kind
}

func set(t testing.TB, source *pgxpool.Pool, e export) (*baseline.Manifest, *baseline.Store, *blob.Bucket) {
	t.Helper()
	bucket := memblob.OpenBucket(nil)
	store := baseline.New(bucket, baseline.Options{URL: "mem://", Pipeline: pipeline})
	id, err := postgres.Identify(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	m := &baseline.Manifest{Set: baseline.NewSet(now), Pipeline: pipeline, Source: id.String(), Timeline: 1, Begun: now, Completed: now, Positions: []baseline.Point{{Taken: now}}}
	packer, err := baseline.NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	if e.kind == 0 {
		e.kind = digest.Record
	}
	for _, table := range e.tables {
		l, err := postgres.NewSource(source).Describe(t.Context(), postgres.ParseName(table), e.rules[table])
		if err != nil {
			t.Fatal(err)
		}
		columns, binary := l.Streamable()
		bt := baseline.Table{Table: table, Schema: baseline.SchemaOf(l), Binary: binary, Digest: e.kind}
		on(t, source, func(c *pgconn.PgConn) {
			if bt.Definition, err = postgres.Define(t.Context(), c, l); err != nil {
				t.Fatal(err)
			}
			keys, err := l.Boundaries(t.Context(), c, message.Range{}, e.rows)
			if err != nil {
				t.Fatal(err)
			}
			var lo message.Key
			for n := range len(keys) + 1 {
				r := message.Range{Lo: lo}
				if n < len(keys) {
					r.Hi = keys[n]
				}
				lo = r.Hi
				s, err := l.Stream(t.Context(), c, r, postgres.StreamWant{Columns: columns, Binary: binary, Digest: e.kind, Settled: postgres.Settled{Xmin: 1 << 31}, Rows: 1 << 30, Bytes: 1 << 30})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := packer.Write(s.Data); err != nil {
					t.Fatal(err)
				}
				packed, err := packer.Finish(baseline.Header{
					Pipeline: pipeline, Source: m.Source, Table: table, Columns: columns, Binary: binary, Fingerprint: bt.Schema.Fingerprint, Digest: e.kind, Range: r, Rows: s.Whole.Rows, Sum: s.Whole.Sum,
				})
				if err != nil {
					t.Fatal(err)
				}
				o := baseline.Object{
					Name: baseline.ObjectName(table, m.Set, n), Range: r, Rows: s.Whole.Rows, Sum: s.Whole.Sum, SHA256: packed.SHA256, Bytes: int64(len(packed.Bytes)), Raw: packed.Raw,
				}
				if err := store.Put(t.Context(), o.Name, packed); err != nil {
					t.Fatal(err)
				}
				bt.Objects = append(bt.Objects, o)
				bt.Rows, bt.Sum = bt.Rows+o.Rows, bt.Sum+o.Sum
			}
		})
		m.Tables = append(m.Tables, bt)
	}
	if err := store.Complete(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return m, store, bucket
}

func on(t testing.TB, pool *pgxpool.Pool, fn func(c *pgconn.PgConn)) {
	t.Helper()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	fn(conn.Conn().PgConn())
}

// newWorld builds a set of the source's tables; the replica calls them as the source does.
func newWorld(t testing.TB, source, replica *pgxpool.Pool, e export) *world {
	t.Helper()
	w := &world{source: source, replica: replica, rules: e.rules}
	w.set, w.store, w.bucket = set(t, source, e)
	w.options = restore.Options{Pipeline: pipeline, Key: func(key string) string { return "key " + key }, Map: func(table string) (restore.Mapping, bool) {
		return restore.Mapping{Name: postgres.ParseName(table), Rules: e.rules[table]}, slices.Contains(e.tables, table)
	}}
	return w
}

func (w *world) restorer() *restore.Restorer {
	return restore.New(restore.Parts{Pool: w.replica, Ledger: ledger.New(w.replica, pipeline), Store: w.store}, w.options)
}

// load restores, which must succeed, and compares.
func (w *world) load(t testing.TB) restore.Loaded {
	t.Helper()
	out, err := w.restorer().Load(t.Context(), w.set)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range out.Failed {
		t.Error(f)
	}
	w.same(t)
	return out
}

// same holds each table's thumbprint against the manifest's.
func (w *world) same(t testing.TB) {
	t.Helper()
	for i := range w.set.Tables {
		table := &w.set.Tables[i]
		to, ok := w.options.Map(table.Table)
		if !ok {
			continue
		}
		on(t, w.replica, func(c *pgconn.PgConn) {
			own, err := postgres.Describe(t.Context(), c, to.Name)
			if err != nil {
				t.Fatal(err)
			}
			l, err := postgres.Fit(own, table.Schema.Wire(), to.Rules)
			if err != nil {
				t.Fatal(err)
			}
			print, err := l.Thumbprint(t.Context(), c, message.Range{}, nil, table.Digest)
			if err != nil {
				t.Fatal(err)
			}
			if want := (digest.Thumbprint{Rows: table.Rows, Sum: table.Sum}); print != want {
				t.Errorf("%s: %+v and not %+v", table.Table, print, want)
			}
		})
	}
}

func state(t testing.TB, w *world) string {
	t.Helper()
	return one(t, w.replica, "SELECT state || coalesce(' ' || nullif(stopped, ''), '') FROM trickle.restores ORDER BY started_at DESC LIMIT 1")
}

func holds(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, where it should say %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("it lacks %q: %v", p, err)
		}
	}
}

func rows(n int) string {
	return fmt.Sprintf("INSERT INTO public.orders SELECT i, 'order ' || i, i %% 100, i / 7.0 FROM generate_series(1, %d) i", n)
}

const orders = `CREATE TABLE public.orders (id bigint PRIMARY KEY, name text, customer int, amount numeric(12,2)); CREATE INDEX orders_customer ON public.orders (customer);`

// to gives tables these names.
func to(mapped func(string) (restore.Mapping, bool), names map[string]postgres.Name) func(string) (restore.Mapping, bool) {
	return func(table string) (restore.Mapping, bool) {
		m, ok := mapped(table)
		m.Name = names[table]
		return m, ok
	}
}

// reheaded is an object of the same rows, with the header of this one.
func reheaded(b []byte, w *world, o *baseline.Object) (baseline.Packed, error) {
	dec, err := zstd.NewReader(nil)
	if err != nil {
		return baseline.Packed{}, err
	}
	defer dec.Close()
	raw, err := dec.DecodeAll(b, nil)
	if err != nil {
		return baseline.Packed{}, err
	}
	_, raw, _ = bytes.Cut(raw, []byte("\n"))
	p, err := baseline.NewPacker()
	if err != nil {
		return baseline.Packed{}, err
	}
	if _, err := p.Write(raw); err != nil {
		return baseline.Packed{}, err
	}
	t := w.set.Tables[0]
	return p.Finish(baseline.Header{
		Pipeline: pipeline, Source: w.set.Source, Table: t.Table, Columns: t.Schema.Exported(), Binary: t.Binary, Fingerprint: t.Schema.Fingerprint, Digest: t.Digest, Range: o.Range, Rows: o.Rows, Sum: o.Sum,
	})
}
