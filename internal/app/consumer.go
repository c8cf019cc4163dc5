package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/metric"
	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/detector"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/gate"
	"github.com/trickle-verify/trickle/heartbeat"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/replica"
	"github.com/trickle-verify/trickle/resync"
	"github.com/trickle-verify/trickle/scanner"
	"github.com/trickle-verify/trickle/sidechannel"
	"github.com/trickle-verify/trickle/status"
	"github.com/trickle-verify/trickle/telemetry"
	"github.com/trickle-verify/trickle/tracing"
	"github.com/trickle-verify/trickle/transport"
)

// consumer is the replica's side, wired.
type consumer struct {
	policy   atomic.Pointer[policy.Policy]
	name     string
	bus      transport.Bus
	client   *sidechannel.Client
	gate     *gate.Gate
	ledger   *ledger.Ledger
	detector *detector.Detector
	resync   *resync.Runner
	reload   *reload
	gauges   *gauges
	settings Settings
}

// replicaWiring is what a consumer is built upon.
type replicaWiring struct {
	pool     *pgxpool.Pool
	identity postgres.Identity
	bus      transport.Bus
	spans    *tracing.Spans
	meter    metric.Meter
}

// copies counts the rows that are copied in bulk.
type copies struct {
	*replica.Replica
	counted *detector.Measures
}

func (c copies) Copy(ctx context.Context, table string, n drift.Copy, kind digest.Kind) (drift.Outcome, error) {
	out, err := c.Replica.Copy(ctx, table, n, kind)
	if err == nil && out.Result == drift.Written {
		c.counted.Copied(ctx, table, n.Print.Rows)
	}
	return out, err
}

func newConsumer(ctx context.Context, s Settings, p *policy.Policy, w replicaWiring) (*consumer, error) {
	name, err := s.consumer(w.identity)
	if err != nil {
		return nil, err
	}
	if w.identity.Standby {
		return nil, fmt.Errorf("the replica %s is a standby, which can't be written: point --replica at a primary", w.identity)
	}
	c := &consumer{name: name, bus: w.bus, settings: s, ledger: ledger.New(w.pool, p.Pipeline), reload: newReload(p)}
	c.policy.Store(p)
	if err := c.ledger.Migrate(ctx); err != nil {
		return nil, err
	}
	beat := heartbeat.New(w.pool, p.Gate.Heartbeat.Replica, p.Pipeline)
	if p.Gate.Heartbeat.Enabled {
		if err := beat.Create(ctx); err != nil {
			return nil, err
		}
	}
	c.client = sidechannel.New(w.bus, s.codec(), sidechannel.Options{Pipeline: p.Pipeline, Consumer: name, Logger: s.Log})
	c.gate = gate.New(p.Gate, gate.Parts{Heartbeat: beat, Restoring: c.ledger, Log: s.Log})
	if at, err := c.ledger.SourceReadAt(ctx); err == nil && !at.IsZero() {
		c.gate.Saw(at, 0)
	}
	rep := replica.New(w.pool, c.ledger, replica.Options{Map: c.mapping, Write: func() replica.Writing { return writing(c.policy.Load()) }})
	counted, err := detector.NewMeasures(w.meter)
	if err != nil {
		return nil, err
	}
	if known, err := c.ledger.TableNames(ctx); err == nil {
		counted.Begin(ctx, known...)
	}
	c.gauges = &gauges{ledger: c.ledger, policy: c.policy.Load}
	c.detector = detector.New(p, detector.Parts{
		Replica: counted.Replica(rep), Ledger: counted.Ledger(c.ledger), Asker: c.client, Gate: c.gate, Log: s.Log, Self: w.identity.String(), NewID: newID, Spans: w.spans,
	})
	parts := resync.Parts{
		Ledger: c.ledger, Source: c.detector.Source(), Replica: rep, Corrector: c.detector.Corrector(), Copier: copies{rep, counted}, Gate: c.gate, Log: s.Log, Policy: c.policy.Load, Spans: w.spans,
	}
	if kafka, ok := w.bus.(debezium.Bus); ok {
		parts.Debezium, parts.Snapshots = &debezium.Line{Bus: kafka, Group: message.Topics{Pipeline: p.Pipeline}.DebeziumGroup(name), Log: s.Log}, c.ledger
	}
	c.resync = resync.New(parts)
	return c, nil
}

// mapping finds a source table in the policy.
func (c *consumer) mapping(table string) (replica.Mapping, bool) {
	n := postgres.ParseName(table)
	m, ok := c.policy.Load().For(n.Schema, n.Table)
	return replica.Mapping{Name: postgres.Name{Schema: m.Replica.Schema, Table: m.Replica.Name}, Rules: scanner.Rules(m.Table)}, ok
}

// writing tells how corrections are written under a policy.
func writing(p *policy.Policy) replica.Writing {
	d := p.Detect
	return replica.Writing{
		Brake: ledger.Limits{Deletes: d.Brake.Deletes, Corrections: d.Brake.Corrections, Window: time.Duration(d.Window)},
		Role:  d.SessionReplicationRole,
	}
}

func (c *consumer) apply(next *policy.Policy) error {
	if c.resync.Debezium == nil {
		if err := withoutKafka(next); err != nil {
			return err
		}
	}
	c.policy.Store(next)
	c.gate.Apply(next.Gate)
	c.detector.Apply(next)
	return nil
}

// run works until the context ends or a part fails for good.
func (c *consumer) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.client.Run(ctx) })
	g.Go(func() error {
		select {
		case <-c.client.Ready():
		case <-ctx.Done():
			return nil
		}
		topics := message.Topics{Pipeline: c.policy.Load().Pipeline}
		reader, err := c.bus.Group(ctx, topics.DetectorGroup(c.name), topics.Verify())
		if err != nil {
			return err
		}
		return errors.Join(c.detector.Run(ctx, inbox{reader, c.settings.codec()}), reader.Close())
	})
	g.Go(func() error { return c.resync.Run(ctx) })
	g.Go(func() error {
		return c.gate.Run(ctx, gate.Inputs{Publisher: c.detector.Source(), Groups: c.follows()})
	})
	g.Go(func() error { return c.resync.Listen(ctx) })
	g.Go(func() error { return trimmer{c.ledger, c.policy.Load, c.settings.Log}.run(ctx) })
	g.Go(func() error {
		return c.reload.tell(ctx, func(ctx context.Context, s policy.State) error {
			return errors.Join(c.ledger.SavePolicy(ctx, s), c.ledger.SaveCycle(ctx, time.Duration(c.policy.Load().Schedule.Cycle)))
		}, c.settings.Log)
	})
	return ended(ctx, g.Wait())
}

// inbox decodes what a reader fetches.
type inbox struct {
	transport.Reader
	codec message.Codec
}

func (i inbox) Fetch(ctx context.Context) ([]detector.Delivery, error) {
	records, err := i.Reader.Fetch(ctx)
	out := make([]detector.Delivery, len(records))
	for n, r := range records {
		out[n].Where = fmt.Sprintf("%s/%d@%d", r.Topic, r.Partition, r.Offset)
		out[n].Headers, out[n].At = r.Headers, r.At
		out[n].Envelope, out[n].Err = i.codec.Decode(r.Topic, r.Value)
	}
	return out, err
}

// Consumer runs the replica's side over Kafka until the context ends.
func Consumer(ctx context.Context, s Settings) error { return s.serve(ctx, s.detecting) }

func (s Settings) detecting(ctx context.Context, st *stack) (started, error) {
	g, err := s.ground(ctx, st, side{name: consuming, open: s.openReplica, needs: func(p *policy.Policy, id postgres.Identity) (Needs, error) {
		name, err := s.consumer(id)
		return ConsumerNeeds(p, name), err
	}, consumer: s.consumer})
	if err != nil {
		return started{}, err
	}
	c, err := newConsumer(ctx, s, g.policy, replicaWiring{g.pool, g.identity, g.bus, tracing.New(g.telemetry.Tracer()), g.telemetry.Meter()})
	if err != nil {
		return started{}, err
	}
	if err := observe(g.telemetry.Meter(), c.reload.Observe, c.observe); err != nil {
		return started{}, err
	}
	s.Log.Info("detecting", "pipeline", g.policy.Pipeline, "consumer", c.name, "replica", g.identity.String())
	return started{
		parts: []func(context.Context) error{c.run, func(ctx context.Context) error { return c.reload.watch(ctx, s, c.apply) }},
		page:  s.page(sides{consumer: c}, g.telemetry),
	}, nil
}

// consumerStatus is what the detector serves.
type consumerStatus struct {
	ledger.Report
	// Scan is what the publisher serves, where it is in the same process.
	Scan *publisherStatus `json:"scan,omitempty"`
}

// page is what the port of a process with a detector serves.
func (s Settings) page(of sides, tell *telemetry.Telemetry) status.Page {
	report := func(ctx context.Context) (any, error) {
		r, err := of.consumer.ledger.Report(ctx)
		if err != nil {
			return nil, postgres.Explain(err, replicaOptions())
		}
		mine := of.consumer.reload.State() // what the ledger has may be another instance's
		r.Policy = &mine
		out := consumerStatus{Report: r}
		if p := s.scanning(of); p != nil {
			scan := p.status()
			out.Scan = &scan
		}
		return out, nil
	}
	return status.Page{JSON: report, Metrics: s.metrics(tell), Live: s.live(of), Log: s.Log}
}

// withoutKafka refuses a policy that asks for what only Kafka carries.
func withoutKafka(p *policy.Policy) error {
	if p.Baseline.URL != "" {
		return errors.New("baseline.url asks for a base-line view, which is of use only with the CDC's log in Kafka, and this runs without: leave it out, or run trickle and trickle-consumer with --brokers")
	}
	if p.Resync.Via == policy.ViaDebezium {
		return fmt.Errorf("resync.via: %s goes through Kafka, and this runs without: use %s, or run trickle and trickle-consumer with --brokers", policy.ViaDebezium, policy.ViaSideChannel)
	}
	return nil
}

// Single runs both sides in this process, without Kafka, until the context ends.
func Single(ctx context.Context, s Settings) error { return s.serve(ctx, s.single) }

func (s Settings) single(ctx context.Context, st *stack) (started, error) {
	p, err := s.runPolicy()
	if err != nil {
		return started{}, err
	}
	if p.Gate.Group != "" {
		return started{}, fmt.Errorf("gate.group names consumer group %s, and without Kafka there is none to follow: leave it out of %s, or run trickle run and trickle-consumer run with --brokers", p.Gate.Group, s.PolicyFile)
	}
	if err := withoutKafka(p); err != nil {
		return started{}, err
	}
	source, sourceID, err := s.openSource(ctx, st)
	if err != nil {
		return started{}, err
	}
	primary, err := s.openPrimary(ctx, st, sourceID)
	if err != nil {
		return started{}, err
	}
	rep, replicaID, err := s.openReplica(ctx, st)
	if err != nil {
		return started{}, err
	}
	if sourceID.String() == replicaID.String() {
		return started{}, fmt.Errorf("source and replica are the same database (%s): check --source and --replica", sourceID)
	}
	bus := transport.NewMemory(transport.MemoryOptions{})
	st.push(func() { _ = bus.Close() })
	name, err := s.consumer(replicaID)
	if err != nil {
		return started{}, err
	}
	tell, err := s.telemetry(ctx, st, telemetry.Options{Service: publishing, Pipeline: p.Pipeline, Consumer: name})
	if err != nil {
		return started{}, err
	}
	if err := bus.Ensure(ctx, slices.Concat(PublisherNeeds(p.Pipeline).Topics, DetectorNeeds(p.Pipeline, name).Topics)...); err != nil {
		return started{}, err
	}
	store, err := cursor.OpenFile(s.CursorFile)
	if err != nil {
		return started{}, err
	}
	st.push(func() {
		if err := store.Close(); err != nil {
			s.Log.Error("saving the cursors", "err", err)
		}
	})
	spans := tracing.New(tell.Tracer())
	pub, err := newPublisher(ctx, s, p, sourceWiring{source, primary, sourceID, bus, cursor.Sole{Single: store}, spans, tell.Meter()})
	if err != nil {
		return started{}, err
	}
	con, err := newConsumer(ctx, s, p, replicaWiring{rep, replicaID, bus, spans, tell.Meter()})
	if err != nil {
		return started{}, err
	}
	pub.reload = con.reload // one file, one process
	if err := observe(tell.Meter(), con.reload.Observe, con.observe, pub.observe); err != nil {
		return started{}, err
	}
	s.Log.Info("verifying", "pipeline", p.Pipeline, "source", sourceID.String(), "replica", replicaID.String())
	reload := func(ctx context.Context) error {
		return con.reload.watch(ctx, s, func(next *policy.Policy) error {
			if err := con.apply(next); err != nil {
				return err
			}
			return pub.apply(next)
		})
	}
	return started{parts: []func(context.Context) error{pub.run, con.run, reload}, page: s.page(sides{con, pub}, tell)}, nil
}
