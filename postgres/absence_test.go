package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/telemetry/pulse"
)

// A loop that waits for the database, with a query or for a connection, is not stuck; afterwards it may be.
func TestWaitingForTheDatabaseIsNotStuck(t *testing.T) {
	t.Parallel()
	pool, err := postgres.Open(t.Context(), pgtest.Database(t), postgres.Options{Role: "source", MaxConns: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	const bound = 50 * time.Millisecond
	m := pulse.New(bound)
	ctx, end := pulse.Loop(m.In(t.Context()), "reading")
	defer end()
	waits := func(what string, do func(context.Context) error) {
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- do(ctx) }()
		for range 40 {
			select {
			case err := <-done:
				t.Fatalf("%s came to an end: %v", what, err)
			case <-time.After(bound / 10):
			}
			if s := m.State(); len(s.Stuck) > 0 {
				t.Fatalf("%s: %v", what, s.Stuck)
			}
		}
		cancel()
		if err := <-done; err == nil {
			t.Errorf("%s came to an end by itself", what)
		}
	}
	waits("a query", func(ctx context.Context) error {
		_, err := pool.Exec(ctx, "SELECT pg_sleep(60)")
		return err
	})
	held, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	waits("a transaction", func(ctx context.Context) error {
		tx, err := pool.Begin(ctx) // there is one connection, and it is taken
		if err == nil {
			err = tx.Rollback(ctx)
		}
		return err
	})
	held.Release()
	for deadline := time.Now().Add(10 * time.Second); len(m.State().Stuck) == 0; time.Sleep(bound / 5) {
		if time.Now().After(deadline) {
			t.Fatal("a loop that is back from the database and never turns is not told of")
		}
	}
}
