package workload_test

import (
	"context"
	"maps"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/internal/testbed/workload"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// pair returns a filled source and an equal replica.
func pair(t *testing.T, rows int) (source, replica string) {
	t.Helper()
	source, replica = pgtest.Database(t), pgtest.Database(t)
	if err := workload.Schema(t.Context(), source); err != nil {
		t.Fatal(err)
	}
	if err := workload.Fill(t.Context(), source, rows); err != nil {
		t.Fatal(err)
	}
	if err := workload.Replicate(t.Context(), source, replica); err != nil {
		t.Fatal(err)
	}
	return source, replica
}

func compare(t *testing.T, source, replica string) []workload.Comparison {
	t.Helper()
	all, err := workload.Compare(t.Context(), source, replica, workload.Tables())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func scan[T any](t *testing.T, dsn, sql string, args ...any) T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, err := conn.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	v, err := pgx.CollectOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func TestReplicateMakesEqualTables(t *testing.T) {
	t.Parallel()
	source, replica := pair(t, 5000)
	all := compare(t, source, replica)
	var rows int64
	for _, c := range all {
		rows += c.SourceRows
		if c.SourceRows != c.ReplicaRows {
			t.Errorf("%s: %d rows and %d", c.Table, c.SourceRows, c.ReplicaRows)
		}
	}
	if rows != 5000 || !workload.Identical(all) {
		t.Errorf("%d rows, %+v", rows, all)
	}
}

// What is injected is what an independent comparison finds: the same number of each kind in each table, and every key named.
func TestInjectedDriftIsWhatCompareFinds(t *testing.T) {
	t.Parallel()
	source, replica := pair(t, 20000)
	injector := workload.NewInjector(replica, 1)
	want := map[string]map[string]int64{}
	seen := map[[2]string]bool{}
	for range 3 {
		done, err := injector.Inject(t.Context(), workload.Drift{Missing: 11, Mismatched: 60, Extra: 17})
		if err != nil {
			t.Fatal(err)
		}
		if len(done) != 11+60+17 {
			t.Errorf("%d rows injected", len(done))
		}
		for _, d := range done {
			if want[d.Table] == nil {
				want[d.Table] = map[string]int64{}
			}
			want[d.Table][d.Kind]++
			if id := [2]string{d.Table, d.Key}; seen[id] {
				t.Errorf("%v was taken twice", id)
			} else {
				seen[id] = true
			}
		}
	}
	for _, c := range compare(t, source, replica) {
		got := map[string]int64{workload.Missing: c.Missing, workload.Mismatched: c.Mismatched, workload.Extra: c.Extra}
		if !maps.Equal(got, want[c.Table]) {
			t.Errorf("%s: found %v, injected %v", c.Table, got, want[c.Table])
		}
		if len(c.Examples) == 0 {
			t.Errorf("%s: no examples", c.Table)
		}
	}
}

func TestInjectionIsDeterministic(t *testing.T) {
	t.Parallel()
	_, a := pair(t, 3000)
	_, b := pair(t, 3000)
	drift := workload.Drift{Missing: 5, Mismatched: 10, Extra: 5}
	first, err := workload.NewInjector(a, 7).Inject(t.Context(), drift)
	if err != nil {
		t.Fatal(err)
	}
	second, err := workload.NewInjector(b, 7).Inject(t.Context(), drift)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(first, second) {
		t.Errorf("one seed, two kinds of drift:\n%v\n%v", first, second)
	}
}

func TestTooMuchDriftChangesNothing(t *testing.T) {
	t.Parallel()
	source, replica := pair(t, 500)
	done, err := workload.NewInjector(replica, 1).Inject(t.Context(), workload.Drift{Missing: 400})
	if err == nil || done != nil {
		t.Fatalf("%d rows injected into too small a table", len(done))
	}
	if all := compare(t, source, replica); !workload.Identical(all) {
		t.Errorf("%+v", all)
	}
}

// The writer changes every table in every way, and no reserved row.
func TestWriterLeavesReservedRowsAlone(t *testing.T) {
	t.Parallel()
	source, before := pair(t, 5000)
	w := workload.NewWriter(source, 2000, 3)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	for w.Writes() < 3000 {
		select {
		case err := <-done:
			t.Fatalf("the writer ended by itself: %v", err)
		case <-t.Context().Done():
			t.Fatal("the writer does not get on")
		default:
			scan[int](t, source, "SELECT 1") // a moment
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, c := range compare(t, source, before) {
		if c.Mismatched == 0 || c.Missing == 0 || c.Extra == 0 {
			t.Errorf("%s was not written in every way: %+v", c.Table, c)
		}
	}
	const reserved = `SELECT md5(string_agg(r, '' ORDER BY r)) FROM (
		SELECT o::text FROM orders o WHERE id % 10 = 7 UNION ALL
		SELECT i::text FROM order_items i WHERE order_id % 10 = 7 UNION ALL
		SELECT c::text FROM customers c WHERE right(id::text, 1) = '7') rows(r)`
	if a, b := scan[string](t, source, reserved), scan[string](t, before, reserved); a != b {
		t.Error("the writer touched reserved rows")
	}
}

func TestCompareFindsEveryKind(t *testing.T) {
	t.Parallel()
	a, b := pgtest.Database(t), pgtest.Database(t)
	create := `CREATE TABLE x (b text, a int, v text, PRIMARY KEY (a, b));`
	for dsn, sql := range map[string]string{
		a: create + `INSERT INTO x VALUES ('1', 11, NULL), ('11', 1, 'y'), ('z', 2, 'same')`,
		b: create + `INSERT INTO x VALUES ('1', 11, ''), ('12', 1, 'y'), ('z', 2, 'same'), ('zz', 2, 'same')`,
	} {
		conn, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	all, err := workload.Compare(t.Context(), a, b, []string{"public.x"})
	if err != nil {
		t.Fatal(err)
	}
	if c := all[0]; c.Missing != 1 || c.Mismatched != 1 || c.Extra != 2 || c.SourceRows != 3 || c.ReplicaRows != 4 || workload.Identical(all) {
		t.Errorf("%+v", c)
	}
	if _, err := workload.Compare(t.Context(), a, b, []string{"public.nothing"}); err == nil {
		t.Error("a table that is not there compares well")
	}
}
