package export_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/export"
	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/transport"
)

const (
	orders = `CREATE TABLE orders (id bigint PRIMARY KEY, at timestamptz NOT NULL, amount numeric(12,2), note text, twice bigint GENERATED ALWAYS AS (id * 2) STORED);
		INSERT INTO orders SELECT i, '2026-01-01'::timestamptz + i * '1 s'::interval, i / 7.0, CASE WHEN i % 10 = 0 THEN NULL ELSE repeat('x', i % 80) END FROM generate_series(1, 20000) AS i; ANALYZE orders`
	moods = `CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TABLE moods (a text COLLATE "C", b int, m mood, secret text, PRIMARY KEY (a, b));
		INSERT INTO moods SELECT E'it''s\t' || i % 7, i, CASE WHEN i % 2 = 0 THEN 'sad' ELSE 'glad' END::mood, 'secret' || i FROM generate_series(1, 300) AS i`
)

// small makes objects of some hundred rows.
const small = 32 << 10

// A set holds every row of every table as COPY takes it, with the thumbprints of what it holds, and nothing that the policy leaves out.
func TestSetIsWhole(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t), []string{"public.orders", "public.moods", "public.empty"}, orders, moods, `CREATE TABLE empty (id int PRIMARY KEY)`)
	r.o.Object = small
	r.o.Tables[0].Rules.Where = "id % 3 <> 0"
	r.o.Tables[1].Rules.Exclude = []string{"secret"}
	r.o.Tables[1].Digest = digest.Portable
	m := r.built().Manifest

	if n := len(m.Tables[0].Objects); n < 20 || !m.Tables[0].Binary || m.Tables[1].Binary || len(m.Tables[2].Objects) != 1 {
		t.Errorf("%d objects, binary: %t, %t, %t", n, m.Tables[0].Binary, m.Tables[1].Binary, m.Tables[2].Binary)
	}
	if d := m.Tables[1].Definition; len(d.Columns) == 0 || strings.Contains(fmt.Sprint(d), "secret") {
		t.Errorf("%+v", d)
	}
	r.exec(`CREATE SCHEMA back; CREATE TABLE back.orders (LIKE orders INCLUDING ALL); CREATE TABLE back.moods (LIKE moods INCLUDING ALL)`)
	for i, there := range []string{"orders", "moods"} {
		table := &m.Tables[i]
		l, err := postgres.NewSource(r.pool).Describe(t.Context(), postgres.Name{Schema: "back", Table: there}, r.o.Tables[i].Rules)
		if err != nil {
			t.Fatal(err)
		}
		var print digest.Thumbprint
		for n, o := range table.Objects {
			data := r.read(m, i, n)
			if strings.Contains(data, "secret") {
				t.Fatal("an excluded column left the source")
			}
			print = print.Add(r.loaded(l, table, postgres.Stream{Columns: table.Schema.Exported(), Binary: table.Binary, Data: []byte(data)}, o))
		}
		if want := (digest.Thumbprint{Rows: table.Rows, Sum: table.Sum}); print != want {
			t.Errorf("%s: %+v of %+v", there, print, want)
		}
	}
	if missing := r.number(`SELECT count(*) FROM (SELECT * FROM orders WHERE id % 3 <> 0 EXCEPT SELECT * FROM back.orders) AS x`); missing != 0 || m.Tables[0].Rows != 13334 {
		t.Errorf("%d rows of orders are missing, of %d", missing, m.Tables[0].Rows)
	}
	if missing := r.number(`SELECT count(*) FROM (SELECT a, b, m FROM moods EXCEPT SELECT a, b, m FROM back.moods) AS x`); missing != 0 {
		t.Errorf("%d rows of moods are missing", missing)
	}
}

// loaded copies an object in and holds what arrives against its thumbprint.
func (r *rig) loaded(l *postgres.Layout, table *baseline.Table, s postgres.Stream, o baseline.Object) (print digest.Thumbprint) {
	r.t.Helper()
	conn, err := r.pool.Acquire(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Release()
	c := conn.Conn().PgConn()
	if _, err := c.Exec(r.t.Context(), "BEGIN").ReadAll(); err != nil {
		r.t.Fatal(err)
	}
	if _, err = l.Load(r.t.Context(), c, s); err != nil {
		r.t.Fatal(err)
	}
	if print, _, err = l.Own(r.t.Context(), c, o.Range, table.Digest); err != nil || print != (digest.Thumbprint{Rows: o.Rows, Sum: o.Sum}) {
		r.t.Errorf("%s: %+v, %v, and the manifest has %d rows, sum %d", o.Name, print, err, o.Rows, o.Sum)
	}
	if _, err := c.Exec(r.t.Context(), "COMMIT").ReadAll(); err != nil {
		r.t.Fatal(err)
	}
	return print
}

// What has not changed is named again, with the newest position; what has is read, and so is what the store has lost.
func TestUnchangedIsNamedAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t), []string{"public.orders"}, orders)
	r.o.Object = small
	first := r.built()
	n := len(first.Manifest.Tables[0].Objects)
	if first.Progress.Reused != 0 || first.Progress.New != n || first.Progress.Rows != 20000 || first.Progress.Bytes == 0 {
		t.Errorf("%+v", first.Progress)
	}
	again := r.built()
	if p := again.Progress; p.Reused != n || p.New != 0 || p.Bytes != 0 || p.Rows != 20000 {
		t.Errorf("%+v", p)
	}
	for i, o := range again.Manifest.Tables[0].Objects {
		was := first.Manifest.Tables[0].Objects[i]
		if o.Name != was.Name || again.Manifest.Positions[o.Point].Position[0].Offsets[0] <= first.Manifest.Positions[was.Point].Position[0].Offsets[0] || o.LSN < was.LSN || o.Xmin < was.Xmin {
			t.Errorf("%+v and before %+v", o, was)
		}
	}
	r.exec(`UPDATE orders SET note = 'changed' WHERE id = 9000`, `DELETE FROM orders WHERE id = 4000`)
	if p := r.built().Progress; p.Reused != n-2 || p.New != 2 || p.Rows != 19999 {
		t.Errorf("%+v of %d", p, n)
	}
	lost := again.Manifest.Tables[0].Objects[0].Name
	if err := r.bucket.Delete(t.Context(), "shop/"+lost); err != nil {
		t.Fatal(err)
	}
	if p := r.built().Progress; p.Reused != n-1 || p.New != 1 {
		t.Errorf("%+v of %d", p, n)
	}
	r.o.Afresh = true
	if p := r.built().Progress; p.Reused != 0 {
		t.Errorf("%+v", p)
	}
	r.o.Afresh = false
	r.o.Tables[0].Rules.Where = "id > 0"
	if p := r.built().Progress; p.Reused != 0 {
		t.Errorf("under another condition: %+v", p)
	}
	r.o.Source = "2/shop"
	if p := r.built().Progress; p.Reused != 0 {
		t.Errorf("of another source: %+v", p)
	}
}

// Ranges that have grown are cut, and those that have shrunk are put together.
func TestRangesKeepTheirSize(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t), []string{"public.orders"}, orders)
	r.o.Object = small
	before := len(r.built().Manifest.Tables[0].Objects)
	r.exec(`INSERT INTO orders (id, at, amount, note) SELECT i, now(), 1, repeat('x', 40) FROM generate_series(20001, 30000) AS i`)
	grown := r.built().Manifest.Tables[0]
	for _, o := range grown.Objects {
		if o.Raw > 3*small {
			t.Errorf("%s holds %d bytes", o.Range, o.Raw)
		}
	}
	if len(grown.Objects) < before+5 || grown.Rows != 30000 {
		t.Errorf("%d objects became %d, %d rows", before, len(grown.Objects), grown.Rows)
	}
	r.exec(`DELETE FROM orders WHERE id % 10 <> 0`)
	if shrunk := r.built().Manifest.Tables[0]; len(shrunk.Objects) > len(grown.Objects)/4 || shrunk.Rows != 3000 {
		t.Errorf("%d objects became %d, %d rows", len(grown.Objects), len(shrunk.Objects), shrunk.Rows)
	}
}

// Whatever the logs hold before a position is in the objects that name it: here each look at the logs finds one more row that has been delivered.
func TestPositionComesBeforeTheSnapshot(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t), []string{"public.orders"}, orders)
	r.o.Object, r.o.Position = small, time.Nanosecond
	r.exec(`CREATE TABLE keyed (k bigint, n bigint, PRIMARY KEY (k, n)); INSERT INTO keyed SELECT i, 0 FROM generate_series(1, 20000) AS i; ANALYZE keyed`)
	r.parts.Logs = func(ctx context.Context) ([]transport.Log, error) {
		logs, err := r.logs(ctx)
		r.exec(fmt.Sprintf(`INSERT INTO keyed SELECT k, %d FROM keyed WHERE n = 0 AND k %% 100 = 0`, logs[0].Partitions[0].End))
		return logs, err
	}
	r.o.Tables = []export.Table{{Name: postgres.ParseName("public.keyed")}}
	m := r.built().Manifest
	if len(m.Tables[0].Objects) < 10 || len(m.Positions) < len(m.Tables[0].Objects) {
		t.Fatalf("%d objects, %d positions", len(m.Tables[0].Objects), len(m.Positions))
	}
	for _, o := range m.Tables[0].Objects {
		delivered := m.Positions[o.Point].Position[0].Offsets[0]
		p := func(k message.Key, or int64) (n int64) {
			if k == nil {
				return or
			}
			_, _ = fmt.Sscan(k[0], &n)
			return n
		}
		// Of keys that lie wholly in it.
		lo, hi := p(o.Range.Lo, 0), p(o.Range.Hi, 20001)
		least := r.number(fmt.Sprintf(`SELECT count(*) FROM keyed WHERE k > %d AND k < %d AND n <= %d`, lo, hi, delivered))
		if int64(o.Rows) < least {
			t.Errorf("%s has %d rows, and %d had been delivered before position %d", o.Range, o.Rows, least, delivered)
		}
	}
}

// A transaction that may be committing when the position is read is waited for.
func TestCommitInDoubtIsWaitedFor(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, testbed.Options{Settings: map[string]string{"max_prepared_transactions": "2"}})
	r := newRig(t, pgtest.DatabaseOn(t, server), []string{"public.moods"}, moods)
	r.o.Bound = 300 * time.Millisecond
	r.exec(`BEGIN; DELETE FROM moods WHERE b = 7; PREPARE TRANSACTION 'p'`)
	if _, err := export.Build(t.Context(), r.parts, r.o); !errors.Is(err, postgres.ErrUnstable) || !strings.Contains(err.Error(), "public.moods") {
		t.Errorf("%v", err)
	}
	r.exec(`COMMIT PREPARED 'p'`)
	if m := r.built().Manifest; m.Tables[0].Rows != 299 {
		t.Errorf("%d rows", m.Tables[0].Rows)
	}
}

// A build that ends in the middle loses little: the next one names what it had stored.
func TestBuildGoesOn(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t), []string{"public.orders", "public.moods"}, orders, moods)
	r.o.Object, r.o.Checkpoint = small, time.Nanosecond
	first := r.built()
	r.exec(`UPDATE orders SET note = 'all'`)
	stopped := errors.New("stopped")
	p := &pace{}
	p.fn = func(n int) error {
		if len(p.spent) > 0 && n > len(first.Manifest.Tables[0].Objects)+12 {
			return stopped
		}
		return nil
	}
	r.parts.Pace = p
	if _, err := export.Build(t.Context(), r.parts, r.o); !errors.Is(err, stopped) {
		t.Fatal(err)
	}
	if m, err := r.store.Latest(t.Context()); err != nil || m.Set != first.Manifest.Set {
		t.Errorf("%+v, %v", m, err)
	}
	sets, err := r.store.Sets(t.Context())
	if err != nil || len(sets) != 2 || !sets[0].Partial {
		t.Fatalf("%+v, %v", sets, err)
	}
	left, err := r.store.Partial(t.Context(), sets[0].Set)
	if err != nil || len(left.Tables[0].Objects) < 5 || len(left.Bases) != 1 {
		t.Fatalf("%+v, %v", left, err)
	}
	r.parts.Pace = nil
	if p := r.built().Progress; p.Reused < len(left.Tables[0].Objects) || p.Rows != 20300 {
		t.Errorf("%+v, and %d were stored", p, len(left.Tables[0].Objects))
	}
}

// A table that gets another shape, or other partitions, while it is read is read anew; one that never rests fails the set.
func TestTableThatChangesIsReadAnew(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		table  string
		change string
		times  int
		fails  bool
	}{
		"a column":    {"orders", `ALTER TABLE orders ADD COLUMN added_%d int DEFAULT 7`, 1, false},
		"never rests": {"orders", `ALTER TABLE orders ADD COLUMN added_%d int DEFAULT 7`, 1000, true},
		"a partition": {"parted", `CREATE TABLE part_%[1]d PARTITION OF parted FOR VALUES IN (-%[1]d); INSERT INTO parted VALUES (-%[1]d)`, 1, false},
		"dropped":     {"orders", `DROP TABLE orders; CREATE TABLE at_%d (id int)`, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, pgtest.Database(t), []string{"public." + c.table}, orders,
				`CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE part PARTITION OF parted DEFAULT; INSERT INTO parted SELECT generate_series(1, 20000); ANALYZE parted`)
			r.o.Object = small
			left := c.times
			r.parts.Pace = &pace{fn: func(n int) error {
				if n%4 == 0 && left > 0 {
					left--
					r.exec(fmt.Sprintf(c.change, n))
				}
				return nil
			}}
			b, err := export.Build(t.Context(), r.parts, r.o)
			if c.fails {
				if err == nil || !strings.Contains(err.Error(), "public.orders") {
					t.Errorf("%v", err)
				}
				if _, err := r.store.Latest(t.Context()); !errors.Is(err, baseline.ErrNoSet) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			table := b.Manifest.Tables[0]
			if rows := r.number(`SELECT count(*) FROM ` + c.table); uint64(rows) != table.Rows || b.Progress.Rows != table.Rows {
				t.Errorf("%d rows, of %d; %+v", table.Rows, rows, b.Progress)
			}
			if n := len(table.Schema.Columns); name == "a column" && n != 6 {
				t.Errorf("%d columns", n)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t), []string{"public.orders", "public.keyless", "public.gone"}, orders, `CREATE TABLE keyless (a int)`)
	_, err := export.Build(t.Context(), r.parts, r.o)
	if err == nil || !strings.Contains(err.Error(), "public.keyless") || !strings.Contains(err.Error(), "public.gone") {
		t.Errorf("%v", err)
	}
	if sets, err := r.store.Sets(t.Context()); err != nil || len(sets) != 0 {
		t.Errorf("%+v, %v", sets, err)
	}
	r.o.Tables = r.o.Tables[:1]
	r.parts.Logs = func(context.Context) ([]transport.Log, error) { return nil, nil }
	if _, err := export.Build(t.Context(), r.parts, r.o); err == nil || !strings.Contains(err.Error(), "baseline.topics") {
		t.Errorf("%v", err)
	}
	r.o.Tables = nil
	if _, err := export.Build(t.Context(), r.parts, r.o); err == nil {
		t.Error("a set of nothing")
	}
}

// Every reading is announced to the pace, and what it cost is told.
// A table without a key can't be cut. One that the policy names is missing in the set; one that a pattern of it happens to match is left out, as it is of verification.
func TestTableWithoutAKeyUnderAPatternIsLeftOut(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t), []string{"public.keyless", "public.t"}, `CREATE TABLE keyless (a int)`, `CREATE TABLE t (id int PRIMARY KEY)`, `INSERT INTO t VALUES (1)`)
	var noKey *postgres.NoKeyError
	if _, err := export.Build(t.Context(), r.parts, r.o); !errors.As(err, &noKey) {
		t.Fatalf("a table that is named: %v", err)
	}
	r.o.Tables[0].Chosen = true
	built, err := export.Build(t.Context(), r.parts, r.o)
	if err != nil {
		t.Fatal(err)
	}
	if tables := built.Manifest.Tables; len(tables) != 1 || tables[0].Table != "public.t" || tables[0].Rows != 1 {
		t.Errorf("the set has %+v", tables)
	}
	r.o.Tables = r.o.Tables[:1]
	if _, err := export.Build(t.Context(), r.parts, r.o); err == nil {
		t.Error("a set of no table was built")
	}
}

func TestPaceIsKept(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t), []string{"public.orders"}, orders)
	r.o.Object = small
	p := &pace{}
	r.parts.Pace = p
	var reports []export.Progress
	r.parts.Report = func(p export.Progress) { reports = append(reports, p) }
	b := r.built()
	rows, sent := 0, int64(0)
	for _, c := range p.spent {
		rows += c.Rows
		sent += c.Bytes
		if c.Source <= 0 || c.End.Before(c.Start) || c.Source > c.End.Sub(c.Start) {
			t.Errorf("%+v", c)
		}
	}
	raw := int64(0)
	for _, o := range b.Manifest.Tables[0].Objects {
		raw += o.Raw
	}
	if p.n != len(b.Manifest.Tables[0].Objects) || len(p.spent) != p.n || rows != 20000 || sent != raw {
		t.Errorf("waited %d times, told %d times, %d rows, %d bytes of %d", p.n, len(p.spent), rows, sent, raw)
	}
	if last := reports[len(reports)-1]; last.Rows != 20000 || last.Total < 15000 || last.Total > 25000 || last.Set != b.Manifest.Set {
		t.Errorf("%+v", last)
	}
}

// Objects are what zstd and COPY take by hand.
func TestObjectsCanBeReadByHand(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t), []string{"public.moods"}, moods)
	m := r.built().Manifest
	conn, err := r.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	var b bytes.Buffer
	if _, err := conn.Conn().PgConn().CopyTo(t.Context(), &b, "COPY (SELECT * FROM moods ORDER BY a, b) TO STDOUT"); err != nil {
		t.Fatal(err)
	}
	got := strings.SplitAfter(r.read(m, 0, 0), "\n")
	for _, line := range got {
		if !strings.Contains(b.String(), line) {
			t.Errorf("%q", line)
		}
	}
	if len(got) != 301 {
		t.Errorf("%d lines", len(got))
	}
}

// A set whose digests any server computes is followed by others of that kind, until the other kind is asked for; where they change nothing is named again.
func TestDigestsStayAsTheyWere(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t), []string{"public.orders"}, orders)
	for i, c := range []struct {
		ask, want digest.Kind
		afresh    bool
		reused    bool
	}{{0, digest.Record, false, false}, {digest.Portable, digest.Portable, false, false}, {0, digest.Portable, false, true}, {0, digest.Portable, true, false}, {digest.Record, digest.Record, false, false}} {
		r.o.Tables[0].Digest, r.o.Afresh = c.ask, c.afresh
		b := r.built()
		if got := b.Manifest.Tables[0].Digest; got != c.want || (b.Progress.Reused > 0) != c.reused {
			t.Errorf("set %d has digests of kind %s, and %+v", i, got, b.Progress)
		}
	}
}
