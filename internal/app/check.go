package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/check"
	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/scanner"
	"github.com/trickle-verify/trickle/sidechannel"
	"github.com/trickle-verify/trickle/transport"
)

// CheckOptions say what a preflight looks at.
type CheckOptions struct {
	Side CheckSide
	// Timeout bounds each check.
	Timeout time.Duration
	// Ask puts a question for each table to the running publisher: the one thing that is sent.
	Ask Asking
}

// CheckSide is whose preflight it is.
type CheckSide int

const (
	// CheckPublisher looks at the source, and at the replica where its DSN is given too.
	CheckPublisher CheckSide = iota
	// CheckConsumer looks at the replica, and at the source where its DSN is given too.
	CheckConsumer
)

// Asking tells whether the publisher is asked.
type Asking int

const (
	// AskNobody sends nothing.
	AskNobody Asking = iota
	// AskPublisher sends a question for each table.
	AskPublisher
)

// Check looks at all that has to be right before anything runs. Its error is one of the settings: then nothing was looked at.
func Check(ctx context.Context, s Settings, o CheckOptions) (check.Report, error) {
	p, warnings, err := s.readPolicy()
	if err != nil {
		return check.Report{}, err
	}
	if err := s.Security.Check(); err != nil && len(s.Brokers) > 0 {
		return check.Report{}, err
	}
	pre := &preflight{settings: s, policy: p}
	defer pre.close()
	checks, err := pre.checks(o)
	if err != nil {
		return check.Report{}, err
	}
	return check.Run(ctx, append([]check.Check{check.Policy(p, warnings)}, checks...), o.Timeout), nil
}

// preflight holds what its checks open, some at once.
type preflight struct {
	settings Settings
	policy   *policy.Policy

	mu sync.Mutex
	st stack

	dialling sync.Mutex // held for as long as brokers that are away are waited for, so nothing else takes it
	bus      *transport.Kafka
}

func (p *preflight) close() { p.st.close() }

func (p *preflight) checks(o CheckOptions) ([]check.Check, error) {
	s := p.settings
	var checks []check.Check
	var source *check.Source
	if o.Side == CheckPublisher || s.SourceDSN != "" {
		side, err := p.side(s.SourceDSN, postgres.Options{Role: "source", Setting: "--source or TRICKLE_SOURCE_DSN"})
		if err != nil {
			return nil, err
		}
		source = check.NewSource(side, p.policy, scanner.Rules)
		if s.PrimaryDSN != "" {
			primary, err := p.side(s.PrimaryDSN, postgres.Options{Role: "primary", Setting: "--primary or TRICKLE_PRIMARY_DSN"})
			if err != nil {
				return nil, err
			}
			source.Primary = &primary
		}
		checks = append(checks, source.Checks()...)
	}
	kafka := &check.Kafka{Brokers: s.Brokers, Principal: s.Security.Principal(), Security: secured(s.Security), Warnings: s.Security.Warnings(), Wanted: wantsKafka(p.policy)}
	kafka.Needs = func() ([]transport.TopicSpec, []transport.Right, error) {
		n := SourceNeeds(p.policy)
		return n.Topics, n.Rights, nil
	}
	if o.Side == CheckPublisher && s.ReplicaDSN != "" {
		kafka.Sides = check.BothSides
	}
	if len(s.Brokers) > 0 {
		kafka.Open = func(ctx context.Context) (check.Broker, error) {
			bus, err := p.kafka(ctx)
			return broker{bus}, err
		}
	}
	if o.Side == CheckConsumer || s.ReplicaDSN != "" {
		side, err := p.side(s.ReplicaDSN, postgres.Options{Role: "replica", Setting: "--replica or TRICKLE_REPLICA_DSN"})
		if err != nil {
			return nil, err
		}
		replica := check.NewReplica(side, p.policy, scanner.Rules)
		replica.Source = source
		name := func() (string, error) { return s.consumer(replica.Identity()) }
		if o.Ask == AskPublisher && len(s.Brokers) > 0 {
			replica.Publisher = &inquiry{preflight: p, consumer: name}
		}
		checks = append(checks, replica.Checks()...)
		if o.Side == CheckConsumer {
			kafka.After = []string{"replica/connect"}
			kafka.Sink = p.policy.Gate.Group // the detector's business: the publisher takes no right to it
			kafka.Needs = func() ([]transport.TopicSpec, []transport.Right, error) {
				consumer, err := name()
				n := ConsumerNeeds(p.policy, consumer)
				return n.Topics, n.Rights, err
			}
			if p.policy.Baseline.URL != "" {
				kafka.Wishes = func() ([]transport.Right, error) {
					consumer, err := name()
					return RestoreNeeds(p.policy, consumer).Rights, err
				}
			}
		}
	}
	if o.Side == CheckPublisher && s.ReplicaDSN == "" {
		checks = append(checks, check.Lag(p.policy))
	}
	checks = append(checks, kafka.Checks()...)
	if o.Side == CheckPublisher && s.ReplicaDSN == "" && p.policy.Baseline.URL != "" {
		checks = append(checks, p.view(source).Checks()...)
	}
	return checks, nil
}

// view is the base-line view, looked at without writing anything: a folder that is not there stays that way.
func (p *preflight) view(source *check.Source) *check.Baseline {
	b := &check.Baseline{
		Source: source, Refresh: time.Duration(p.policy.Baseline.Refresh),
		Sets: func(ctx context.Context) (int, error) { return p.sets(ctx) },
		Topics: func(tables []postgres.Name) ([]string, error) {
			topics, err := cdcTopics(p.policy, tables)
			if errors.Is(err, errNoTopics) {
				return nil, &check.FaultError{Err: errors.New("which topics hold the CDC's log is not known"), Fix: "baseline.topics, or resync.debezium.topic_prefix, in the policy"}
			}
			return topics, err
		},
		TopicOf: func(table postgres.Name) string {
			if prefix := p.policy.Resync.Debezium.TopicPrefix; prefix != "" && len(p.policy.Baseline.Topics) == 0 {
				return debezium.Topic(prefix, table)
			}
			return ""
		},
	}
	if len(p.settings.Brokers) > 0 {
		b.Logs = func(ctx context.Context, topics []string) ([]transport.Log, error) {
			bus, err := p.kafka(ctx)
			if err != nil {
				return nil, err
			}
			return bus.Logs(ctx, topics)
		}
	}
	return b
}

func (p *preflight) sets(ctx context.Context) (int, error) {
	store, err := baseline.Open(ctx, p.settings.view(p.policy))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, check.ErrNotMade
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = store.Close() }()
	sets, err := store.Sets(ctx)
	complete := 0
	for _, l := range sets {
		if !l.Partial {
			complete++
		}
	}
	return complete, err
}

// broker adds what package transport keeps apart.
type broker struct{ *transport.Kafka }

// Progress is how far a group of somebody else's has got.
func (b broker) Progress(ctx context.Context, group string) (transport.Progress, error) {
	return b.Follow().Progress(ctx, group)
}

// wantsKafka is what of a policy can't do without Kafka; empty: nothing.
func wantsKafka(p *policy.Policy) string {
	switch {
	case p.Gate.Group != "":
		return "gate.group"
	case p.Resync.Via == policy.ViaDebezium:
		return "resync.via: " + policy.ViaDebezium
	default:
		return ""
	}
}

// secured says in words how the connection to Kafka is made.
func secured(s transport.Security) string {
	how := "in clear"
	if s.TLS.Enabled {
		how = "TLS"
	}
	if s.Login.Mechanism != "" {
		return how + ", login by " + s.Login.Mechanism
	}
	return how + ", no login"
}

// side is a database that is connected to when its first check runs.
func (p *preflight) side(dsn string, o postgres.Options) (check.Side, error) {
	if _, err := postgres.ParseDSN(dsn, o); err != nil {
		return check.Side{}, err
	}
	o.MaxConns = 6
	return check.Side{Name: o.Role, Setting: o.Setting, Open: func(ctx context.Context) (*pgxpool.Pool, error) {
		pool, err := postgres.Open(ctx, dsn, o)
		if err == nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.st.push(pool.Close)
		}
		return pool, err
	}}, nil
}

// kafka is the one connection to Kafka, made when it is first wanted.
func (p *preflight) kafka(ctx context.Context) (*transport.Kafka, error) {
	p.dialling.Lock()
	defer p.dialling.Unlock()
	if p.bus != nil {
		return p.bus, nil
	}
	quiet := p.settings
	quiet.Log = slog.New(slog.DiscardHandler) // what is odd is in the report
	var own stack
	bus, err := quiet.openBus(ctx, &own)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.st.push(own.close)
	p.bus = bus
	return bus, err
}

// helloWithin is how long the publisher's answer is waited for: longer than the client takes to ask again.
const helloWithin = 8 * time.Second

// inquiry asks the running publisher about tables, as a detector does.
type inquiry struct {
	*preflight
	consumer func() (string, error)

	once   sync.Once
	client *sidechannel.Client
	failed atomic.Pointer[error] // why nobody is asked any more
}

// Hello asks for a table's schema.
func (q *inquiry) Hello(ctx context.Context, table string) (*tricklepb.Schema, string, error) {
	q.once.Do(func() {
		if err := q.start(ctx); err != nil {
			q.failed.Store(&err)
		}
	})
	if err := q.failed.Load(); err != nil {
		return nil, "", *err
	}
	bounded, cancel := context.WithTimeout(ctx, helloWithin)
	defer cancel()
	reply, err := q.client.Ask(bounded, &tricklepb.Envelope{Table: table, Body: &tricklepb.Envelope_HelloRequest{HelloRequest: &tricklepb.HelloRequest{}}})
	if bounded.Err() != nil { // nor will it answer about the next table
		err = fmt.Errorf("the publisher did not answer within %s", helloWithin)
		q.failed.CompareAndSwap(nil, &err)
	}
	if err != nil {
		return nil, "", err
	}
	schema := reply.GetHelloReply().GetSchema()
	if schema == nil {
		return nil, "", fmt.Errorf("the publisher's answer about %s has no schema", table)
	}
	return schema, reply.GetSource(), nil
}

// start listens for answers until the preflight ends.
func (q *inquiry) start(ctx context.Context) error {
	consumer, err := q.consumer()
	if err != nil {
		return err
	}
	bus, err := q.kafka(ctx)
	if err != nil {
		return err
	}
	q.client = sidechannel.New(bus, q.settings.codec(), sidechannel.Options{Pipeline: q.policy.Pipeline, Consumer: consumer, Logger: q.settings.Log})
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	var failed error // once it has ended
	go func() {
		defer close(ended)
		failed = q.client.Run(run)
	}()
	select {
	case <-q.client.Ready():
		q.mu.Lock()
		defer q.mu.Unlock()
		q.st.push(func() {
			cancel()
			<-ended
		})
		return nil
	case <-ended:
		cancel()
		return failed
	case <-ctx.Done():
		cancel()
		<-ended
		return ctx.Err()
	}
}
