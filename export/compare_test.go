package export_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// against compares all objects of a set's only table with a database.
func (r *rig) against(m *baseline.Manifest, pool *pgxpool.Pool, timeline uint32, since func(message.Key) bool) (agree int, differ []baseline.Compared, faults []error) {
	r.t.Helper()
	l, err := postgres.NewSource(pool).Describe(r.t.Context(), r.o.Tables[0].Name, r.o.Tables[0].Rules)
	if err != nil {
		r.t.Fatal(err)
	}
	t := &m.Tables[0]
	for i := range t.Objects {
		c, err := r.store.Compare(r.t.Context(), m, t, &t.Objects[i], baseline.Against{Pool: pool, Layout: l, Rules: r.o.Tables[0].Rules, Timeline: timeline, Since: since})
		switch {
		case err != nil:
			faults = append(faults, err)
		case c.Agrees:
			agree++
		default:
			differ = append(differ, c)
		}
	}
	return agree, differ, faults
}

func keysOf(of []baseline.Differing) (out []string) {
	for _, d := range of {
		out = append(out, d.Key.String()+" "+d.Kind)
	}
	return out
}

// At the source, what was written since the set is told from what was not, by the rows' versions; a row that went leaves no trace.
func TestSetAgainstItsSource(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t), []string{"public.orders"}, orders, `CREATE TABLE aside (LIKE orders INCLUDING ALL)`)
	r.o.Object = small
	r.o.Tables[0].Rules.Exclude = []string{"at"}
	m := r.built().Manifest
	n := len(m.Tables[0].Objects)
	if agree, differ, faults := r.against(m, r.pool, 1, nil); agree != n || len(differ) > 0 || len(faults) > 0 {
		t.Errorf("%d of %d agree, %+v, %v", agree, n, differ, faults)
	}
	r.exec(`UPDATE orders SET note = 'new' WHERE id = 7`, `DELETE FROM orders WHERE id = 8`, `INSERT INTO orders (id, at) VALUES (-1, now())`)
	agree, differ, faults := r.against(m, r.pool, 1, nil)
	if agree != n-1 || len(differ) != 1 || len(faults) > 0 {
		t.Fatalf("%d of %d agree, %+v, %v", agree, n, differ, faults)
	}
	d := differ[0]
	if got := append(keysOf(d.Since), keysOf(d.Gone)...); !d.Proven || len(d.Other) > 0 || !slices.Equal(got, []string{"-1 not in the set", "7 not the same", "8 only in the set"}) {
		t.Errorf("%+v", d)
	}
	// The logs know what was deleted, and versions don't; on another timeline versions tell nothing.
	_, differ, _ = r.against(m, r.pool, 1, func(k message.Key) bool { return k[0] == "8" })
	if d := differ[0]; len(d.Since) != 3 || len(d.Gone)+len(d.Other) > 0 {
		t.Errorf("%+v", d)
	}
	_, differ, _ = r.against(m, r.pool, 2, nil)
	if d := differ[0]; len(d.Other) != 3 || len(d.Since)+len(d.Gone) > 0 {
		t.Errorf("%+v", d)
	}
	if left := r.number(`SELECT count(*) FROM pg_class WHERE relname = 'trickle_verify'`); left != 0 {
		t.Error("the temporary table is left")
	}
}

// In a replica no version tells anything: what differs has no excuse, unless the logs have it.
func TestSetAgainstAReplica(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t), []string{"public.moods"}, moods)
	m := r.built().Manifest
	there := newRig(t, pgtest.Database(t), nil, moods, `UPDATE moods SET secret = 'drift' WHERE b = 9`)
	_, differ, faults := r.against(m, there.pool, 0, nil)
	if len(differ) != 1 || len(faults) > 0 || len(differ[0].Other) != 1 || differ[0].Other[0].Kind != baseline.NotTheSame || differ[0].Other[0].Key[1] != "9" {
		t.Errorf("%+v, %v", differ, faults)
	}
	_, differ, _ = r.against(m, there.pool, 0, func(k message.Key) bool { return k[1] == "9" })
	if len(differ) != 1 || len(differ[0].Other) > 0 || len(differ[0].Since) != 1 {
		t.Errorf("%+v", differ)
	}
}

// Rows that have not the thumbprint which their manifest gives them are found by the database, though every hash is right.
func TestRowsWithoutTheirThumbprint(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t), []string{"public.orders"}, orders)
	m := r.built().Manifest
	table := &m.Tables[0]
	o := &table.Objects[0]
	c, err := r.store.Open(t.Context(), m, table, o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	h, data := c.Header, []byte(r.read(m, 0, 0))
	o.Sum++
	h.Sum++
	p, err := baseline.NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Write(data); err != nil {
		t.Fatal(err)
	}
	packed, err := p.Finish(h)
	if err != nil {
		t.Fatal(err)
	}
	o.SHA256, o.Bytes = packed.SHA256, int64(len(packed.Bytes))
	if err := r.store.Put(t.Context(), o.Name, packed); err != nil {
		t.Fatal(err)
	}
	if err := r.store.Audit(t.Context(), m, table, o); err != nil {
		t.Fatal(err)
	}
	_, _, faults := r.against(m, r.pool, 1, nil)
	if bad := (*baseline.CorruptError)(nil); len(faults) != 1 || !errors.As(faults[0], &bad) || bad.Name != o.Name {
		t.Errorf("%v", faults)
	}
	// Where no table may be made it is said that rows can't be told.
	r.exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$`)
	r.pool.Reset()
	_, _, faults = r.against(m, r.pool, 1, nil)
	if readonly := (*baseline.ReadOnlyError)(nil); len(faults) != 1 || !errors.As(faults[0], &readonly) {
		t.Errorf("%v", faults)
	}
}
