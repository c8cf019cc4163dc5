package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/metric"
	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/heartbeat"
	"github.com/trickle-verify/trickle/keeper"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/scanner"
	"github.com/trickle-verify/trickle/scheduler"
	"github.com/trickle-verify/trickle/sidechannel"
	"github.com/trickle-verify/trickle/slot"
	"github.com/trickle-verify/trickle/status"
	"github.com/trickle-verify/trickle/tracing"
	"github.com/trickle-verify/trickle/transport"
)

// scans adapts a scanner to what the scheduler calls.
type scans struct{ *scanner.Scanner }

func (s scans) Tables(ctx context.Context) ([]scheduler.TableStatus, error) {
	found, err := s.Scanner.Tables(ctx)
	out := make([]scheduler.TableStatus, len(found))
	for i, f := range found {
		out[i] = scheduler.TableStatus{Name: f.Name, Paused: f.Paused}
	}
	return out, err
}

func (s scans) Announce(ctx context.Context, tables []scheduler.TableStatus) error {
	found := make([]scanner.Found, len(tables))
	for i, t := range tables {
		found[i] = scanner.Found{Name: t.Name, Paused: t.Paused}
	}
	return s.Scanner.Announce(ctx, found)
}

func (s scans) Scan(ctx context.Context, job scheduler.Job) (scheduler.Scanned, error) {
	out, err := s.Scanner.Scan(ctx, scanner.Job{Table: job.Table, Cycle: job.Cycle, Ranges: job.Ranges, Range: job.Range, Complete: job.Complete})
	return scheduler.Scanned{Ranges: out.Ranges, Rows: out.Rows, Bytes: out.Bytes, SourceTime: out.SourceTime}, err
}

func (s scans) Divide(ctx context.Context, table string, most, rows int) (scheduler.Division, error) {
	d, err := s.Scanner.Divide(ctx, table, most, rows)
	return scheduler.Division{Rows: d.Rows, Pieces: d.Pieces}, err
}

// publisher is the source's side, wired.
type publisher struct {
	policy    *policy.Policy
	identity  postgres.Identity
	scanner   *scanner.Scanner
	scheduler *scheduler.Scheduler
	server    *sidechannel.Server
	beat      *heartbeat.Table
	slot      *slot.Watch
	settings  Settings
	source    *postgres.Source
	reload    *reload
	keeper    *keeper.Keeper // nil: there are no logs to hold a base-line view against
}

func newPublisher(ctx context.Context, s Settings, p *policy.Policy, w sourceWiring) (*publisher, error) {
	samples := new(scheduler.Samples)
	source := postgres.NewStandbySource(w.pool, w.primary)
	scan := scanner.New(p, scanner.Parts{Source: source, Identity: w.identity, Sender: w.bus, Codec: s.codec(), Samples: samples, Log: s.Log, Spans: w.spans})
	if err := usable(ctx, scan); err != nil {
		return nil, err
	}
	sched, err := scheduler.New(scheduler.Config{Policy: p, Source: w.identity.String(), Scanner: scans{scan}, Store: w.store, Samples: samples, Load: loads{source}, Log: s.Log})
	if err != nil {
		return nil, err
	}
	watch := slot.New(postgres.NewSource(cmp.Or(w.primary, w.pool))) // CDC reads the primary
	pub := &publisher{
		policy: p, identity: w.identity, scanner: scan, scheduler: sched, slot: watch, settings: s, source: source, reload: newReload(p),
		server: sidechannel.NewServer(w.bus, s.codec(), answers{scan, watch, measuredAnswers(w.meter)}, sidechannel.ServerOptions{Pipeline: p.Pipeline, Logger: s.Log, Spans: w.spans}),
	}
	if logs, ok := w.bus.(logReader); ok {
		if err := s.viewOpens(ctx, p); err != nil {
			return nil, err
		}
		pub.keeper = pub.keeping(w.bus, logs)
	}
	if p.Gate.Heartbeat.Enabled {
		if pub.beat, err = s.heart(ctx, p, w); err != nil {
			return nil, err
		}
	}
	return pub, nil
}

// sourceWiring is what a publisher is built upon.
type sourceWiring struct {
	pool     *pgxpool.Pool
	primary  *pgxpool.Pool // nil: none is named
	identity postgres.Identity
	bus      transport.Bus
	store    scheduler.Store
	spans    *tracing.Spans
	meter    metric.Meter
}

// loads measures the source for the scheduler's backoff.
type loads struct{ source *postgres.Source }

func (l loads) SourceLoad(ctx context.Context) (scheduler.Load, error) {
	load, err := l.source.Load(ctx)
	return scheduler.Load{Latency: load.Latency, ReplicationLag: load.ReplicationLag, ActiveSessions: load.ActiveSessions}, err
}

// usable refuses to start when no table at all can be verified; single ones are paused and shown.
func usable(ctx context.Context, scan *scanner.Scanner) error {
	found, err := scan.Tables(ctx)
	if err != nil {
		return err
	}
	var reasons []string
	for _, f := range found {
		if f.Paused == "" {
			return nil
		}
		reasons = append(reasons, f.Paused)
	}
	return fmt.Errorf("no table can be verified: %s", strings.Join(reasons, "; "))
}

// run works until the context ends or a part fails for good.
func (p *publisher) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.scheduler.Run(ctx) })
	g.Go(func() error { return p.server.Run(ctx) })
	g.Go(func() error {
		return p.slot.Run(ctx, func() bool { return p.watched() != "" }, p.settings.Log)
	})
	if p.keeper != nil {
		g.Go(func() error { return p.keeper.Run(ctx) })
	}
	if p.beat != nil {
		g.Go(func() error { return p.beat.Run(ctx, time.Duration(p.policy.Gate.Heartbeat.Interval), p.settings.Log) })
	}
	return ended(ctx, g.Wait())
}

// ended turns the end that was asked for into success. A query that was running then was cancelled on the server, which says so in its own words.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled) || postgres.State(err) == queryCanceled) {
		return nil
	}
	return err
}

const queryCanceled = "57014"

func (p *publisher) apply(next *policy.Policy) error {
	if err := p.scheduler.SetPolicy(next); err != nil {
		return err
	}
	p.scanner.SetPolicy(next)
	if p.keeper != nil {
		p.keeper.SetPolicy(next)
	}
	return nil
}

// Publisher runs the source's side over Kafka until the context ends.
func Publisher(ctx context.Context, s Settings) error { return s.serve(ctx, s.publisher) }

func (s Settings) publisher(ctx context.Context, st *stack) (started, error) {
	g, err := s.ground(ctx, st, side{name: publishing, open: s.openSource, needs: func(p *policy.Policy, _ postgres.Identity) (Needs, error) {
		return SourceNeeds(p), nil
	}})
	if err != nil {
		return started{}, err
	}
	primary, err := s.openPrimary(ctx, st, g.identity)
	if err != nil {
		return started{}, err
	}
	store, err := cursor.OpenTopic(ctx, g.bus, s.cursors(g.policy.Pipeline))
	if err != nil {
		return started{}, err
	}
	st.push(func() {
		if err := store.Close(); err != nil {
			s.Log.Warn("leaving the other publishers", "err", err)
		}
	})
	pub, err := newPublisher(ctx, s, g.policy, sourceWiring{g.pool, primary, g.identity, g.bus, store, tracing.New(g.telemetry.Tracer()), g.telemetry.Meter()})
	if err != nil {
		return started{}, err
	}
	if err := observe(g.telemetry.Meter(), pub.reload.Observe, pub.observe); err != nil {
		return started{}, err
	}
	if s.Beside != nil {
		s.Beside.publisher.Store(&neighbour{pub, g.telemetry})
	}
	s.Log.Info("publishing", "pipeline", g.policy.Pipeline, "source", g.identity.String())
	return started{
		parts: []func(context.Context) error{pub.run, func(ctx context.Context) error { return pub.reload.watch(ctx, s, pub.apply) }},
		page: status.Page{
			JSON: func(context.Context) (any, error) { return pub.status(), nil }, Metrics: g.telemetry.Handler(), Live: s.live(sides{publisher: pub}), Log: s.Log,
		},
	}, nil
}

// cursors says where publishers keep their memory and how they share it.
func (s Settings) cursors(pipeline string) cursor.TopicOptions {
	t := message.Topics{Pipeline: pipeline}
	return cursor.TopicOptions{
		Name: t.Cursors(), Group: t.CursorGroup(), Partitions: cursorPartitions, Owner: instance(), Log: s.Log,
	}
}
