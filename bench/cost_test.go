package main

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/internal/testbed"
)

// TestServerCPU lets sessions, and parallel workers below the same postmaster, come and go between two readings of the clock.
func TestServerCPU(t *testing.T) {
	t.Parallel()
	server, err := testbed.StartPostgres(t.Context(), testbed.Options{Settings: map[string]string{
		"min_parallel_table_scan_size": "0", "parallel_setup_cost": "0", "parallel_tuple_cost": "0", "max_parallel_workers_per_gather": "2",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	// burn runs a statement in a session that ends with it.
	burn := func(sql string) {
		c, err := pgx.Connect(t.Context(), server.DSN("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	burn("CREATE TABLE t AS SELECT n FROM generate_series(1, 400000) n; ANALYZE t")
	const once = "SELECT count(*) FROM t WHERE sha512(n::text::bytea) = ''"
	spent := func(f func()) time.Duration {
		before := serverCPU(server.PID())
		f()
		return serverCPU(server.PID()) - before
	}
	alone := spent(func() { burn("SET max_parallel_workers_per_gather = 0; " + once) })
	ofThree := spent(func() {
		for range 3 {
			burn("SET max_parallel_workers_per_gather = 0; " + once)
		}
	})
	parallel := spent(func() { burn(once) })
	t.Logf("alone %s, three sessions %s, with parallel workers %s", alone, ofThree, parallel)
	if alone < 50*time.Millisecond {
		t.Errorf("hashing 400,000 rows in a session that has ended counts %s", alone)
	}
	if ofThree < 2*alone || ofThree > 5*alone {
		t.Errorf("three sessions count %s, one %s", ofThree, alone)
	}
	if parallel < alone*2/3 || parallel > 3*alone {
		t.Errorf("with parallel workers it counts %s, without %s", parallel, alone)
	}
	if idle := spent(func() {}); idle > 20*time.Millisecond {
		t.Errorf("nothing counts %s", idle)
	}
}

func TestSpread(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values []float64
		want   string
	}{
		{nil, "–"},
		{[]float64{3}, "3.00 (3.00 – 3.00)"},
		{[]float64{3, 1, 2}, "2.00 (1.00 – 3.00)"},
		{[]float64{4, 1, 2, 9}, "3.00 (1.00 – 9.00)"},
	} {
		if got := spreadOf(c.values).String(); got != c.want {
			t.Errorf("spread of %v is %s, not %s", c.values, got, c.want)
		}
	}
	// A ratio is of two numbers of one round, and of no other.
	r := rounds{{"a": cost{peak: 4 << 20}, "b": cost{peak: 2 << 20}}, {"a": cost{peak: 9 << 20}, "b": cost{peak: 1 << 20}}, {"a": cost{peak: 5 << 20}}}
	if got := r.ratio(term{"a", peakMiB}, term{"b", peakMiB}); got != (spread{5.5, 2, 9, 2}) {
		t.Errorf("the ratio is %+v", got)
	}
}
