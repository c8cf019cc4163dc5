package postgres_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

func TestDetails(t *testing.T) {
	t.Parallel()
	a := fresh(t, "CREATE TABLE t (id int PRIMARY KEY, n numeric, j json, v text)", `INSERT INTO t VALUES (1, 1.0, '{"a": 1, "b": 2}', 'x'), (2, NULL, NULL, 'x'), (4, 5, '[]', 'y')`)
	b := fresh(t, "CREATE TABLE t (v text, j json, n numeric, id bigint PRIMARY KEY)", `INSERT INTO t (id, n, j, v) VALUES (1, 1.00, '{"b":2,"a":1}', 'x'), (2, 0, 'null', 'x'), (3, 1, '1', 'z')`)
	source := describe(t, a, "public.t", postgres.Rules{})
	replica := fit(t, b, "public.t", source, postgres.Rules{})
	keys := []message.Key{{"3"}, {"2"}, {"9"}, {"1"}, {"4"}}
	for _, kind := range []digest.Kind{digest.Record, digest.Portable} {
		var sides [2][]postgres.Detail
		on(t, a, func(c *pgconn.PgConn) {
			var err error
			if sides[0], err = source.Details(t.Context(), c, keys, postgres.Want{Digest: kind}); err != nil {
				t.Fatal(err)
			}
		})
		on(t, b, func(c *pgconn.PgConn) {
			var err error
			if sides[1], err = replica.Details(t.Context(), c, keys, postgres.Want{Digest: kind}); err != nil {
				t.Fatal(err)
			}
		})
		var present [2][]bool
		for i, side := range sides {
			for _, d := range side {
				present[i] = append(present[i], d.Present)
			}
		}
		if !slices.Equal(present[0], []bool{false, true, false, true, true}) || !slices.Equal(present[1], []bool{true, true, false, true, false}) {
			t.Fatalf("%s: rows %v", kind, present)
		}
		// Columns are id, n, j, v. A numeric of another scale and a json in another order are the same; NULL is neither 0 nor a json null.
		for row, differ := range map[int][]bool{1: {false, true, true, false}, 3: {false, false, false, false}} {
			for n, want := range differ {
				x, y := sides[0][row], sides[1][row]
				if got := x.Digests[n] != y.Digests[n] || (x.Values[n] == nil) != (y.Values[n] == nil); got != want {
					t.Errorf("%s, row %s: column %d differs: %v", kind, keys[row], n, got)
				}
			}
		}
		if got := string(sides[0][3].Values[1]) + string(sides[1][3].Values[1]); got != "1.01.00" {
			t.Errorf("values come as they are, not %s", got)
		}
	}
}

// A row that is deleted while it is looked at, outside of a snapshot, is absent: it has no digests, and whoever compares these looks for them.
func TestDetailsOfARowThatGoes(t *testing.T) {
	t.Parallel()
	pool := fresh(t, `CREATE FUNCTION gate(v int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN true; END $$;
		CREATE DOMAIN gated AS int CHECK (gate(VALUE)); CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1), (2, 2)`)
	l := describe(t, pool, "public.t", postgres.Rules{Compare: map[string]string{"v": "gated"}})
	blocked := func(what string) {
		t.Helper()
		deadline := time.Now().Add(patience)
		for n := 0; n == 0; {
			if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = $1", what).Scan(&n); err != nil {
				t.Fatal(err)
			}
			if time.Now().After(deadline) {
				t.Fatalf("nobody waits for %s", what)
			}
		}
	}
	gate, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Release()
	if _, err := gate.Exec(t.Context(), "SELECT pg_advisory_lock(42)"); err != nil {
		t.Fatal(err)
	}
	var rows []postgres.Detail
	read, deleted := make(chan error, 1), make(chan error, 1)
	go func() {
		conn, err := pool.Acquire(t.Context())
		if err == nil {
			defer conn.Release()
			rows, err = l.Details(t.Context(), conn.Conn().PgConn(), []message.Key{{"1"}, {"2"}}, postgres.Want{Digest: digest.Record})
		}
		read <- err
	}()
	blocked("advisory")
	// It gets the table before whatever Details asks next.
	go func() {
		_, err := pool.Exec(context.WithoutCancel(t.Context()), "DO $$ BEGIN LOCK TABLE t; DELETE FROM t WHERE id = 1; END $$")
		deleted <- err
	}()
	blocked("relation")
	if _, err := gate.Exec(t.Context(), "SELECT pg_advisory_unlock(42)"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(<-read, <-deleted); err != nil {
		t.Fatal(err)
	}
	for i, row := range rows {
		if row.Present != (len(row.Digests) == 2) {
			t.Errorf("row %d: present %v, with digests of %d columns", i+1, row.Present, len(row.Digests))
		}
	}
	if len(rows) != 2 || !rows[1].Present {
		t.Errorf("the row that stayed is gone: %+v", rows)
	}
}
