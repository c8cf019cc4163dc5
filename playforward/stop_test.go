package playforward_test

import (
	"context"
	"errors"
	"testing"

	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/playforward"
)

// Who is stopped in the midst of a statement says that it was stopped, and not what the server says of it.
func TestStoppedInAStatement(t *testing.T) {
	t.Parallel()
	dsn, pool := replica(t, `CREATE TABLE a (id int PRIMARY KEY)`)
	s := newScript(t, "shop.a")
	s.add("c", "a", `{"id":1}`, `{"id":1}`)
	a := player(t.Context(), t, pool, s.shelf, playforward.Options{Rules: rules(t, everything)})
	blocker, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := blocker.Exec(t.Context(), `LOCK TABLE trickle.read_points IN SHARE MODE`); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Follow(ctx, s.shelf) }()
	for pgtest.Text(t, dsn, `SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'trickle.read_points'::regclass`) == "0" {
		if t.Context().Err() != nil {
			t.Fatal("it waits for nothing")
		}
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := blocker.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = a.Close() // its connection is broken
}
