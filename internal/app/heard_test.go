package app

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/replica"
	"github.com/trickle-verify/trickle/transport"
)

// told is a source that is asked in place of a publisher.
type told map[string]*tricklepb.Schema

func (s told) Hello(_ context.Context, table string) (*tricklepb.Schema, string, error) {
	return s[table], "7/shop", nil
}

type logsOf []transport.Log

func (l logsOf) Logs(context.Context, []string) ([]transport.Log, error) { return l, nil }

func opened(t *testing.T, statements ...string) *pgxpool.Pool {
	t.Helper()
	dsn := pgtest.Database(t)
	pgtest.Exec(t, dsn, statements...)
	pool, err := postgres.Open(t.Context(), dsn, postgres.Options{Role: "test", Setting: "the test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// printed is what a table of the source sums up to, as a set tells.
func printed(t *testing.T, pool *pgxpool.Pool, name string) (*tricklepb.Schema, entry.BaselineTable) {
	t.Helper()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	c := conn.Conn().PgConn()
	described, err := postgres.Describe(t.Context(), c, postgres.ParseName(name))
	if err != nil {
		t.Fatal(err)
	}
	l, err := postgres.NewLayout(described, postgres.Rules{})
	if err != nil {
		t.Fatal(err)
	}
	probe, err := l.Probe(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	l.Schema.Probe = probe
	print, err := l.Thumbprint(t.Context(), c, message.Range{}, nil, digest.Record)
	if err != nil {
		t.Fatal(err)
	}
	return l.Schema, entry.BaselineTable{Table: name, Schema: l.Schema.GetFingerprint(), Rows: print.Rows, Sum: print.Sum, Digest: digest.Record, Probe: probe}
}

func TestAReplicaIsHeldAgainstASet(t *testing.T) {
	t.Parallel()
	names := []string{"same", "edited", "written", "late", "otherwise", "altered", "away"}
	var make []string
	for _, n := range names {
		make = append(make, `CREATE TABLE `+n+` (id int PRIMARY KEY, v text)`, `INSERT INTO `+n+` SELECT i, 'v' || i FROM generate_series(1, 3000) i`)
	}
	source := opened(t, make...)
	target := opened(t, append(make, `UPDATE edited SET v = 'x' WHERE id = 7`, `DELETE FROM written WHERE id = 9`, `DELETE FROM late WHERE id = 9`, `DELETE FROM otherwise WHERE id = 9`)...)
	p, _, err := policy.Parse("policy.yaml", []byte("pipeline: shop\ntables: [{table: public.same}, {table: public.edited}, {table: public.written}, {table: public.late}, {table: public.otherwise}, {table: public.altered}]\n"+
		"resync: {debezium: {topic_prefix: shop}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	schemas := told{}
	set := entry.Baseline{Set: "s1", Source: "7/shop", Taken: time.Now()}
	var logs logsOf
	for _, n := range names {
		schema, table := printed(t, source, "public."+n)
		schemas["public."+n] = schema
		switch n {
		case "otherwise":
			table.Probe++
		case "altered":
			table.Schema++
		}
		set.Tables = append(set.Tables, table)
		set.Position = append(set.Position, entry.LogPoint{Topic: "shop.public." + n, ID: n, Offsets: []int64{5, 9}})
		logs = append(logs, transport.Log{Topic: "shop.public." + n, ID: n, Partitions: []transport.Extent{{End: 5}, {Start: 2, End: 9}}})
	}
	logs[2].Partitions[1].End = 11 // written
	logs[3].ID = "another"         // late
	h := &hearing{preflight: preflight{policy: p}, set: set, asks: schemas}
	h.replica = replica.New(target, nil, replica.Options{Map: h.mapping})
	got, err := h.compare(t.Context(), logs)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][2]string{
		"public.same": {Identical, ""}, "public.edited": {Drifted, "hold nothing of it since"}, "public.written": {Changed, "--against replica"},
		"public.late": {Untold, "made anew"}, "public.otherwise": {Untold, "computed otherwise here"}, "public.altered": {Untold, "schema"}, "public.away": {Untold, "in no entry"},
	}
	for _, table := range got.Tables {
		w := want[table.Table]
		if table.Verdict != w[0] || !strings.Contains(table.Reason, w[1]) || (table.Reason == "") != (w[1] == "") {
			t.Errorf("%+v, want %v", table, w)
		}
		if table.Table == "public.written" && (table.Events == nil || *table.Events != 2 || table.There != 2999 || table.Rows != 3000) {
			t.Errorf("%+v", table)
		}
	}
	if got.Identical != 1 || got.Drifted != 1 || got.Changed != 1 || got.Unknown != 4 {
		t.Errorf("%+v", got)
	}
	h.behind = "the gate is closed"
	if got, err = h.compare(t.Context(), logs); err != nil || got.Drifted != 0 || got.Identical != 1 || !strings.Contains(got.Tables[1].Reason, "the gate is closed") {
		t.Errorf("a replica that may lag behind: %+v, %v", got, err)
	}
	h.set.Tables = h.set.Tables[4:]
	if _, err := h.compare(t.Context(), logs); err == nil || !strings.Contains(err.Error(), "no table could be compared") {
		t.Errorf("where nothing was compared: %v", err)
	}
	h.set.Tables, h.set.Source = set.Tables, "8/shop"
	if _, err := h.compare(t.Context(), logs); err == nil || !strings.Contains(err.Error(), "source 7/shop") {
		t.Errorf("a publisher of another source: %v", err)
	}
}

func TestBehind(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	lag := 10.
	for _, tc := range []struct {
		gate  ledger.GateReport
		taken time.Time
		want  string
	}{
		{ledger.GateReport{Open: true, At: at, LagSeconds: &lag}, at.Add(-time.Minute), ""},
		{ledger.GateReport{Open: true, At: at, LagSeconds: &lag}, at.Add(-10 * time.Second), "it had got as far as 2026-03-01T11:59:50Z"},
		{ledger.GateReport{At: at, LagSeconds: &lag, Reason: "lag is above gate.max_lag"}, at.Add(-time.Minute), ""},
		{ledger.GateReport{Reason: "no detector has run"}, at, "no detector has run"},
		{ledger.GateReport{}, at, "not known"},
	} {
		if got := behind(tc.gate, tc.taken); (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%+v: %q, want %q", tc.gate, got, tc.want)
		}
	}
}

func TestSince(t *testing.T) {
	t.Parallel()
	log := func(partitions ...transport.Extent) []transport.Log {
		return []transport.Log{{Topic: "a", ID: "1", Partitions: partitions}}
	}
	for _, tc := range []struct {
		name   string
		at     []entry.LogPoint
		logs   []transport.Log
		events int64
		err    string
	}{
		{"nothing", []entry.LogPoint{{Topic: "a", ID: "1", Offsets: []int64{5}}}, log(transport.Extent{End: 5}), 0, ""},
		{"some", []entry.LogPoint{{Topic: "a", ID: "1", Offsets: []int64{5}}}, log(transport.Extent{Start: 6, End: 8}, transport.Extent{End: 1}), 4, ""},
		{"did not exist", []entry.LogPoint{{Topic: "a"}}, nil, 0, ""},
		{"made since", []entry.LogPoint{{Topic: "a"}}, log(transport.Extent{End: 3}), 3, ""},
		{"gone", []entry.LogPoint{{Topic: "a", ID: "1", Offsets: []int64{5}}}, []transport.Log{{Topic: "a"}}, 0, "gone"},
		{"cut", []entry.LogPoint{{Topic: "a", ID: "1", Offsets: []int64{5}}}, log(transport.Extent{End: 4}), 0, "ends before"},
		{"no topic", nil, log(transport.Extent{End: 4}), 0, "names no topic"},
	} {
		events, err := since(entry.Baseline{}, tc.at, tc.logs)
		if events != tc.events || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: %d, %v", tc.name, events, err)
		}
	}
}
