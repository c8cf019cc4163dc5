package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/heartbeat"
	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/cdc"
	"github.com/trickle-verify/trickle/internal/testbed/workload"
)

const (
	pipeline        = "demo"
	defaultRows     = 90_000
	writesPerSecond = 300 // statements
	stopTimeout     = 15 * time.Second
)

// rig is the machinery: servers, broker, change data capture, load.
type rig struct {
	log             *slog.Logger
	source, replica *testbed.Postgres
	sourceDSN       string
	replicaDSN      string
	broker          *kfake.Cluster
	pool            *pgxpool.Pool // of the replica, for watching
	writer          *workload.Writer
	stream          *cdc.Source
	sink            *cdc.Sink
}

// newRig starts the servers and the broker, fills the source and copies it; changes are kept for the sink from before the copy on. The caller
// stops it, also after an error.
func newRig(ctx context.Context, log *slog.Logger, rows int) (*rig, error) {
	r := &rig{log: log}
	if err := r.startServers(ctx); err != nil {
		return r, err
	}
	var err error
	if r.broker, err = kfake.NewCluster(kfake.NumBrokers(1)); err != nil {
		return r, fmt.Errorf("starting the broker: %w", err)
	}
	if r.pool, err = pgxpool.New(ctx, r.replicaDSN); err != nil {
		return r, err
	}
	if err := workload.Schema(ctx, r.sourceDSN); err != nil {
		return r, err
	}
	if err := workload.Fill(ctx, r.sourceDSN, rows); err != nil {
		return r, err
	}
	config := cdc.Config{
		Source: r.sourceDSN, Replica: r.replicaDSN, Kafka: []kgo.Opt{kgo.SeedBrokers(r.broker.ListenAddrs()...)},
		Topic: "cdc", Group: "sink", Slot: "demo_cdc", Log: log.With("part", "cdc"),
	}
	// The sink carries the heartbeat like any table, so both sides have it before the first beat.
	for _, dsn := range []string{r.sourceDSN, r.replicaDSN} {
		if err := exec(ctx, dsn, heartbeat.New(nil, "trickle.heartbeat", pipeline).DDL()); err != nil {
			return r, err
		}
	}
	if err := cdc.Prepare(ctx, config); err != nil {
		return r, err
	}
	if err := workload.Replicate(ctx, r.sourceDSN, r.replicaDSN); err != nil {
		return r, err
	}
	r.stream, r.sink = cdc.NewSource(config), cdc.NewSink(config)
	r.writer = workload.NewWriter(r.sourceDSN, writesPerSecond, 1)
	return r, nil
}

func (r *rig) startServers(ctx context.Context) error {
	binaries, err := testbed.FindBinaries(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range []struct {
		server **testbed.Postgres
		dsn    *string
		name   string
	}{{&r.source, &r.sourceDSN, "shop"}, {&r.replica, &r.replicaDSN, "shop_replica"}} {
		g.Go(func() error {
			server, err := testbed.StartPostgres(ctx, testbed.Options{Binaries: binaries})
			if err != nil {
				return err
			}
			*s.server = server
			*s.dsn, err = server.CreateDatabase(ctx, s.name)
			return err
		})
	}
	return g.Wait()
}

// stop ends what newRig started.
func (r *rig) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if r.pool != nil {
		r.pool.Close()
	}
	if r.broker != nil {
		r.broker.Close()
	}
	var g errgroup.Group
	for _, server := range []*testbed.Postgres{r.source, r.replica} {
		if server != nil {
			g.Go(func() error { return server.Stop(ctx) })
		}
	}
	return g.Wait()
}

// part is one of the things that run side by side.
type part struct {
	name string
	run  func(context.Context) error
}

// replication carries changes from the source to the replica.
func (r *rig) replication() []part {
	return []part{
		{"the CDC's source", func(ctx context.Context) error { r.stream.Run(ctx); return nil }},
		{"the CDC's sink", func(ctx context.Context) error { r.sink.Run(ctx); return nil }},
	}
}

// trickle is the publisher and the consumer, as their commands run them, but for one page of both.
func (r *rig) trickle(policyFile string, p page) []part {
	both := new(app.Beside)
	settings := func(name string) app.Settings {
		return app.Settings{
			PolicyFile: policyFile, SourceDSN: r.sourceDSN, ReplicaDSN: r.replicaDSN,
			Brokers: r.broker.ListenAddrs(), Consumer: "replica", Log: r.log.With("part", name), Beside: both,
		}
	}
	return []part{
		{"the publisher", func(ctx context.Context) error { return app.Publisher(ctx, settings("publisher")) }},
		{"the consumer", func(ctx context.Context) error {
			s := settings("consumer")
			s.Listen, s.Listening = p.listen, p.listening
			return app.Consumer(ctx, s)
		}},
	}
}

// page is where the live page goes, and who is told.
type page struct {
	listen    string
	listening func(address string)
}

// load writes to the source.
func (r *rig) load() []part { return []part{{"the load", r.writer.Run}} }

// start runs parts until the returned function is called, which waits for them. A part that ends before that fails the demo.
func start(ctx context.Context, fail context.CancelCauseFunc, parts []part) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var g errgroup.Group
	for _, p := range parts {
		g.Go(func() error {
			err := p.run(ctx)
			if ctx.Err() == nil {
				fail(&partError{p.name, err})
			}
			return nil
		})
	}
	return func() {
		cancel()
		_ = g.Wait() // no part returns an error: a failure has gone to fail
	}
}

func exec(ctx context.Context, dsn, sql string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
}
