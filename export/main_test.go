package export_test

import (
	"context"
	"io"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/export"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/transport"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// rig is a source and a store, and logs that say how far the source's changes reach.
type rig struct {
	t      *testing.T
	pool   *pgxpool.Pool
	bucket *blob.Bucket
	store  *baseline.Store
	parts  export.Parts
	o      export.Options

	mu   sync.Mutex
	ends int64
}

func newRig(t *testing.T, dsn string, tables []string, statements ...string) *rig {
	t.Helper()
	pool, err := postgres.Open(t.Context(), dsn, postgres.Options{Role: "source", Setting: "--source", MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	bucket := memblob.OpenBucket(nil)
	t.Cleanup(func() { _ = bucket.Close() })
	r := &rig{t: t, pool: pool, bucket: bucket, store: baseline.New(bucket, baseline.Options{Pipeline: "shop"})}
	r.exec(statements...)
	r.parts = export.Parts{Source: postgres.NewSource(pool), Store: r.store, Logs: r.logs}
	r.o = export.Options{Pipeline: "shop", Source: "1/shop"}
	for _, name := range tables {
		r.o.Tables = append(r.o.Tables, export.Table{Name: postgres.ParseName(name)})
	}
	return r
}

func (r *rig) logs(context.Context) ([]transport.Log, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ends++
	return []transport.Log{{Topic: "shop.public.t", ID: "x", Partitions: []transport.Extent{{End: r.ends}}}}, nil
}

func (r *rig) exec(statements ...string) {
	r.t.Helper()
	for _, sql := range statements {
		conn, err := r.pool.Acquire(context.WithoutCancel(r.t.Context()))
		if err != nil {
			r.t.Fatal(err)
		}
		_, err = conn.Conn().PgConn().Exec(context.WithoutCancel(r.t.Context()), sql).ReadAll()
		conn.Release()
		if err != nil {
			r.t.Fatalf("%.200s: %v", sql, err)
		}
	}
}

func (r *rig) number(sql string) (n int64) {
	r.t.Helper()
	if err := r.pool.QueryRow(r.t.Context(), sql).Scan(&n); err != nil {
		r.t.Fatal(err)
	}
	return n
}

// built builds a set and checks what always holds of one.
func (r *rig) built() export.Built {
	r.t.Helper()
	b, err := export.Build(r.t.Context(), r.parts, r.o)
	if err != nil {
		r.t.Fatal(err)
	}
	if m, err := r.store.Latest(r.t.Context()); err != nil || m.Set != b.Manifest.Set || !m.Complete() {
		r.t.Fatalf("the latest is not %s: %v", b.Manifest.Set, err)
	}
	if p := b.Progress; p.Done != len(r.o.Tables) || p.New+p.Reused == 0 {
		r.t.Errorf("%+v", p)
	}
	return b
}

// read is what an object holds.
func (r *rig) read(m *baseline.Manifest, table, object int) string {
	r.t.Helper()
	t := &m.Tables[table]
	c, err := r.store.Open(r.t.Context(), m, t, &t.Objects[object])
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

// pace calls fn before each range, by number, and keeps what they cost.
type pace struct {
	fn    func(n int) error
	n     int
	spent []export.Cost
}

func (p *pace) Wait(ctx context.Context) error {
	p.n++
	if p.fn != nil {
		if err := p.fn(p.n); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (p *pace) Spent(c export.Cost) { p.spent = append(p.spent, c) }
