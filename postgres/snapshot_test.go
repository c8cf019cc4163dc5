package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// total sums up a whole table.
func total(ctx context.Context, l *postgres.Layout, c *pgconn.PgConn) (digest.Thumbprint, error) {
	return l.Thumbprint(ctx, c, message.Range{}, nil, digest.Record)
}

func TestASnapshotIsOneMoment(t *testing.T) {
	t.Parallel()
	pool := fresh(t, "CREATE TABLE t (id bigint PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 1000) AS i")
	writing := open(t, pool.Config().ConnString())
	l := describe(t, pool, "public.t", postgres.Rules{})
	ctx, cancel := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	began := make(chan struct{})
	writer.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			_, err := writing.Exec(context.WithoutCancel(ctx), "WITH gone AS (DELETE FROM t WHERE id = $1), late AS (INSERT INTO t VALUES ($2, 1)) UPDATE t SET v = v + 1 WHERE id % 10 = $1 % 10", n, 2000+n)
			if err != nil {
				t.Error(err)
				break
			}
			if n == 3 {
				close(began)
			}
		}
	})
	defer writer.Wait()
	defer cancel()
	<-began
	s, err := postgres.OpenSnapshot(t.Context(), pool, l, postgres.SnapshotOptions{Connections: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Connections() != 3 || s.At.Xmin == 0 || s.At.Time.IsZero() {
		t.Errorf("%d connections, %+v", s.Connections(), s.At)
	}
	if err := s.Prepare(t.Context(), postgres.ByKey); err != nil {
		t.Fatal(err)
	}
	// Readers on three connections, and some aside.
	var mu sync.Mutex
	seen := make(map[digest.Thumbprint]int)
	pids := make(map[uint32]bool)
	record := func(c *pgconn.PgConn) error {
		print, err := total(t.Context(), l, c)
		mu.Lock()
		defer mu.Unlock()
		seen[print]++
		pids[c.PID()] = true
		return err
	}
	g, gctx := errgroup.WithContext(t.Context())
	for range 9 {
		g.Go(func() error {
			return s.Do(gctx, func(c *pgconn.PgConn) error {
				if err := record(c); err != nil {
					return err
				}
				return s.Aside(gctx, record)
			})
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	var now digest.Thumbprint
	on(t, writing, func(c *pgconn.PgConn) {
		if now, err = total(t.Context(), l, c); err != nil {
			t.Fatal(err)
		}
	})
	if len(seen) != 1 || seen[now] > 0 {
		t.Errorf("%d different tables were seen, one of them today's: %v", len(seen), seen)
	}
	if len(pids) < 3 || len(pids) > 4 {
		t.Errorf("%d connections read", len(pids))
	}
}

func TestASnapshotHandsItsConnectionsBack(t *testing.T) {
	t.Parallel()
	pool := fresh(t, "CREATE TABLE t (id bigint PRIMARY KEY); INSERT INTO t VALUES (1)") // of four connections
	l := describe(t, pool, "public.t", postgres.Rules{})
	for round := range 3 {
		s, err := postgres.OpenSnapshot(t.Context(), pool, l, postgres.SnapshotOptions{Connections: 3})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Aside(t.Context(), func(*pgconn.PgConn) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if round == 1 { // broken off in the middle
			ctx, cancel := context.WithCancel(t.Context())
			_ = s.Do(ctx, func(c *pgconn.PgConn) error {
				cancel()
				_, err := c.Exec(ctx, "SELECT pg_sleep(10)").ReadAll()
				return err
			})
		}
		s.Close()
		if n := pool.Stat().AcquiredConns(); n != 0 {
			t.Errorf("round %d: %d connections are still held", round, n)
		}
		var open int
		if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()").Scan(&open); err != nil || open != 0 {
			t.Errorf("round %d: %d transactions are still open: %v", round, open, err)
		}
	}
}

func TestASnapshotOfATableThatChanged(t *testing.T) {
	t.Parallel()
	pool := fresh(t, "CREATE TABLE t (id bigint PRIMARY KEY, v int)")
	l := describe(t, pool, "public.t", postgres.Rules{})
	for _, change := range []string{"ALTER TABLE t ADD w int", "DROP TABLE t"} {
		exec(t, pool, change)
		if s, err := postgres.OpenSnapshot(t.Context(), pool, l, postgres.SnapshotOptions{Connections: 2}); err == nil {
			s.Close()
			t.Errorf("%s: and it is read", change)
		}
		if n := pool.Stat().AcquiredConns(); n != 0 {
			t.Errorf("%s: %d connections are still held", change, n)
		}
	}
}

func TestASnapshotOnAServerThatIsFull(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 2, 3} {
		dsn := pgtest.Database(t)
		exec(t, open(t, dsn), "CREATE TABLE t (id bigint PRIMARY KEY); INSERT INTO t VALUES (1)")
		pool := open(t, pgtest.Limited(t, dsn, limit))
		l := describe(t, pool, "public.t", postgres.Rules{})
		s, err := postgres.OpenSnapshot(t.Context(), pool, l, postgres.SnapshotOptions{Connections: 4})
		if err != nil {
			t.Errorf("%d connections: %v", limit, err)
			continue
		}
		if n := s.Connections(); n != max(limit-1, 1) {
			t.Errorf("of %d connections it takes %d: with one it reads, and a further one is for looking things up", limit, n)
		}
		err = s.Do(t.Context(), func(c *pgconn.PgConn) error {
			if _, err := total(t.Context(), l, c); err != nil || limit == 1 {
				return err
			}
			return s.Aside(t.Context(), func(c *pgconn.PgConn) error {
				_, err := total(t.Context(), l, c)
				return err
			})
		})
		if err != nil {
			t.Errorf("%d connections: %v", limit, err)
		}
		s.Close()
	}
}

func TestPassing(t *testing.T) {
	t.Parallel()
	state := func(s string) error { return fmt.Errorf("source: %w", &pgconn.PgError{Code: s}) }
	for want, errs := range map[bool][]error{
		true:  {state("08006"), state("53300"), state("57P01"), state("57P03"), state("40001")},
		false: {nil, context.Canceled, context.DeadlineExceeded, state("42501"), state("57014"), state("25P02"), fmt.Errorf("%w", strconv.ErrRange), postgres.ErrChanged},
	} {
		for _, err := range errs {
			if postgres.Passing(err) != want {
				t.Errorf("%v passes: %v", err, !want)
			}
		}
	}
}

// The lock that a read takes does not keep a partition from being attached, and then it is read with the rest.
func TestSnapshotOfOtherPartitions(t *testing.T) {
	t.Parallel()
	pool := fresh(t, `CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE a PARTITION OF t FOR VALUES FROM (0) TO (10); CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (11);
		CREATE TABLE plain (id int PRIMARY KEY)`)
	s, err := postgres.OpenSnapshot(t.Context(), pool, describe(t, pool, "public.t", postgres.Rules{}), postgres.SnapshotOptions{Connections: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Unchanged(t.Context()); err != nil {
		t.Error(err)
	}
	exec(t, pool, "ALTER TABLE t ATTACH PARTITION b FOR VALUES FROM (10) TO (20)")
	if err := s.Unchanged(t.Context()); !errors.Is(err, postgres.ErrChanged) {
		t.Errorf("a partition more: %v", err)
	}
	plain, err := postgres.OpenSnapshot(t.Context(), pool, describe(t, pool, "public.plain", postgres.Rules{}), postgres.SnapshotOptions{Connections: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	exec(t, pool, "CREATE TABLE heir () INHERITS (plain)")
	if err := plain.Unchanged(t.Context()); err != nil {
		t.Errorf("no partition of it: %v", err)
	}
}
