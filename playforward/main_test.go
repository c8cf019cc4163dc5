package playforward_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/playforward"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/transport"
)

func TestMain(m *testing.M) {
	if dsn := os.Getenv("PLAY_INTO"); dsn != "" {
		if err := playing(dsn, os.Getenv("PLAY_FROM")); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	pgtest.Main(m)
}

// tb is what testing and rapid have in common.
type tb interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// shelf is topics in memory.
type shelf struct {
	mu      sync.Mutex
	topics  map[string][][]transport.Record
	readers map[transport.Partition]int64
}

func newShelf(topics ...string) *shelf {
	s := &shelf{topics: map[string][][]transport.Record{}, readers: map[transport.Partition]int64{}}
	for _, t := range topics {
		s.topics[t] = make([][]transport.Record, 1)
	}
	return s
}

// put appends a record.
func (s *shelf) put(r transport.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.topics[r.Topic]) <= int(r.Partition) {
		s.topics[r.Topic] = append(s.topics[r.Topic], nil)
	}
	r.Offset = int64(len(s.topics[r.Topic][r.Partition]))
	s.topics[r.Topic][r.Partition] = append(s.topics[r.Topic][r.Partition], r)
}

// start is where all of them begin.
func (s *shelf) start() transport.Position {
	var p transport.Position
	for t := range s.topics {
		p = append(p, transport.TopicPosition{Topic: t})
	}
	slices.SortFunc(p, func(a, b transport.TopicPosition) int { return cmp.Compare(a.Topic, b.Topic) })
	return p
}

// from has the next reader begin at a position.
func (s *shelf) from(p transport.Position) *shelf {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.readers)
	for _, t := range p {
		for n, o := range t.Offsets {
			s.readers[transport.Partition{Topic: t.Topic, ID: int32(n)}] = o
		}
	}
	return s
}

func (s *shelf) Ends(context.Context) (transport.Position, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.start()
	for i := range p {
		for _, records := range s.topics[p[i].Topic] {
			p[i].Offsets = append(p[i].Offsets, int64(len(records)))
		}
	}
	return p, nil
}

func (s *shelf) Next(ctx context.Context, at transport.Partition, end int64) (transport.Record, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.readers[at]
	if n >= end {
		return transport.Record{}, false, ctx.Err()
	}
	s.readers[at] = n + 1
	return s.topics[at.Topic][at.ID][n], true, ctx.Err()
}

func open(t testing.TB, dsn string) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), dsn, postgres.Options{Role: "replica"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// replica is a database with a ledger.
func replica(t testing.TB, statements ...string) (string, *pgxpool.Pool) {
	t.Helper()
	dsn := pgtest.Database(t)
	pgtest.Exec(t, dsn, statements...)
	pool := open(t, dsn)
	if err := ledger.New(pool, "p").Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return dsn, pool
}

func rules(t tb, tables string) func() *policy.Policy {
	t.Helper()
	p, _, err := policy.Parse("policy.yaml", []byte("pipeline: p\ntables:\n"+tables))
	if err != nil {
		t.Fatal(err)
	}
	return func() *policy.Policy { return p }
}

// everything of the schema public.
const everything = `  - table: "public.*"` + "\n"

// player opens an applier that was begun at a position if it was not before.
func player(ctx context.Context, t tb, pool *pgxpool.Pool, s *shelf, o playforward.Options) *playforward.Applier {
	t.Helper()
	o.Pipeline = "p"
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	a, err := playforward.Open(ctx, pool, o)
	if err != nil {
		t.Fatal(err)
	}
	if a.Position() == nil {
		if err := a.Begin(ctx, s.start()); err != nil {
			t.Fatal(errors.Join(err, a.Close()))
		}
	}
	s.from(a.Position())
	return a
}

// play applies all that there is.
func play(t testing.TB, pool *pgxpool.Pool, s *shelf, o playforward.Options) playforward.Progress {
	t.Helper()
	a := player(t.Context(), t, pool, s, o)
	defer func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := a.Run(t.Context(), s, nil); err != nil {
		t.Fatal(err)
	}
	return a.Done()
}
