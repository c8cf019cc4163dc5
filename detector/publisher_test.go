package detector_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/scanner"
	"github.com/trickle-verify/trickle/sidechannel"
	"github.com/trickle-verify/trickle/transport"
)

const sampling = 20 * time.Millisecond

// shop is the other side of the example: a real Postgres with a table of prices, and a publisher that verifies it, on a bus in memory.
type shop struct {
	bus     *transport.Memory
	server  *testbed.Postgres
	pool    *pgxpool.Pool
	scanner *scanner.Scanner
	parts   *errgroup.Group
	stop    context.CancelFunc

	mu      sync.Mutex
	samples []cursor.Sample
}

func openShop(ctx context.Context, rules *policy.Policy) (_ *shop, err error) {
	s := &shop{bus: transport.NewMemory(transport.MemoryOptions{})}
	topics := message.Topics{Pipeline: rules.Pipeline}
	for _, topic := range []string{topics.Verify(), topics.Requests(), topics.Replies("cache")} {
		err = errors.Join(err, s.bus.Ensure(ctx, transport.TopicSpec{Name: topic, Partitions: 1}))
	}
	if err != nil {
		return nil, err
	}
	if s.server, err = testbed.StartPostgres(ctx, testbed.Options{}); err != nil {
		return nil, err
	}
	dsn, err := s.server.CreateDatabase(ctx, "shop")
	if err != nil {
		return nil, err
	}
	if s.pool, err = postgres.Open(ctx, dsn, postgres.Options{Role: "the source", Setting: "the example"}); err != nil {
		return nil, err
	}
	_, err = s.pool.Exec(ctx, `CREATE TABLE prices (article text PRIMARY KEY, price numeric(8,2) NOT NULL, stock bigint NOT NULL, note text);
		INSERT INTO prices VALUES ('chair', 49.50, 7, NULL), ('desk', 210, 1, 'oak'), ('lamp', 19.90, 0, NULL), ('shelf', 80.00, 3, 'pine')`)
	if err != nil {
		return nil, err
	}
	identity, err := postgres.Identify(ctx, s.pool)
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.DiscardHandler)
	s.scanner = scanner.New(rules, scanner.Parts{Source: postgres.NewSource(s.pool), Identity: identity, Sender: s.bus, Samples: s, Log: log})
	server := sidechannel.NewServer(s.bus, message.Codec{}, s.scanner, sidechannel.ServerOptions{Pipeline: rules.Pipeline, Logger: log})
	ctx, s.stop = context.WithCancel(ctx)
	s.parts, ctx = errgroup.WithContext(ctx)
	s.parts.Go(func() error { return server.Run(ctx) })
	s.parts.Go(func() error { return s.sample(ctx) })
	return s, nil
}

// verify sends a message about each range of the table, as a publisher does once in a cycle. It waits until it is known that the rows are quiet.
func (s *shop) verify(ctx context.Context) error {
	for enough := false; !enough && ctx.Err() == nil; time.Sleep(sampling) {
		s.mu.Lock()
		enough = len(s.samples) > 1
		s.mu.Unlock()
	}
	ranges, err := s.scanner.Plan(ctx, "public.prices", message.Range{})
	for i := 0; err == nil && i < len(ranges); i++ {
		_, err = s.scanner.Scan(ctx, scanner.Job{Table: "public.prices", Cycle: 1, Ranges: len(ranges), Range: ranges[i]})
	}
	return err
}

// sample notes which transactions had ended when, as the scheduler does.
func (s *shop) sample(ctx context.Context) error {
	tick := time.NewTicker(sampling)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		sample, err := s.scanner.Sample(ctx)
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.samples = append(s.samples, sample)
		s.mu.Unlock()
	}
}

// Before implements scanner.Samples.
func (s *shop) Before(at time.Time) (cursor.Sample, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.samples) - 1; i >= 0; i-- {
		if !s.samples[i].At.After(at) {
			return s.samples[i], true
		}
	}
	return cursor.Sample{}, false
}

func (s *shop) close(ctx context.Context) {
	s.stop()
	_ = s.parts.Wait() // a query of it was cut off
	s.pool.Close()
	_ = s.bus.Close()
	_ = s.server.Stop(ctx)
}
