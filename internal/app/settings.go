// Package app wires the parts of both commands together and runs them.
//
// It decides which parts a command is made of, in which order they start, and that all of them have ended when Run returns. What always
// holds: everything that can be wrong in the settings is found before the first range is read, as one line that names the setting; what was
// opened is closed in reverse order. When a part fails for good the others are stopped and its error is returned.
package app

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/telemetry"
	"github.com/trickle-verify/trickle/transport"
)

// Settings are what flags and the environment say; secrets come from the environment only.
type Settings struct {
	PolicyFile string
	SourceDSN  string
	// PrimaryDSN names the server that the source is a standby of; empty where it is none, or nothing shall be corrected.
	PrimaryDSN string
	ReplicaDSN string
	Brokers    []string
	// Security is how brokers and trickle prove to each other who they are.
	Security transport.Security
	// Consumer names the replica in topics and groups; empty: made of the replica's identity.
	Consumer string
	// Listen is the address of the status port, empty for none.
	Listen string
	// Wait is for how long run tries to reach a database or Kafka that is away when it starts.
	Wait time.Duration
	// Listening is told the address of the status port once it is open; nil: nobody is.
	Listening func(address string)
	// Beside is where both sides of one process meet that run as over Kafka, so that one status port shows both; nil: they don't.
	Beside *Beside
	// CursorFile keeps cursors where there is no Kafka.
	CursorFile string
	// SigningKey signs messages and refuses those that are not; empty: no signatures.
	SigningKey string
	Log        *slog.Logger
	// Watch tells whether the policy file is reloaded when it changes.
	Watch bool
}

// stack is what was opened, to be closed in reverse.
type stack struct{ closers []func() }

func (s *stack) push(fn func()) { s.closers = append(s.closers, fn) }

func (s *stack) close() {
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
}

// LoadPolicy reads the policy. What it warns of is said by who works by it for good, and by who checks it: run, check and validate.
func (s Settings) LoadPolicy() (*policy.Policy, error) {
	p, _, err := s.readPolicy()
	return p, err
}

// runPolicy reads the policy for run, and logs its warnings.
func (s Settings) runPolicy() (*policy.Policy, error) {
	p, warnings, err := s.readPolicy()
	for _, w := range warnings {
		s.Log.Warn("policy", "warning", w.String())
	}
	return p, err
}

// lookingPolicy is the policy for whoever only looks, or decides on what is there: of a file that is refused, while another stays in force, what can be relied upon. refused says why.
func (s Settings) lookingPolicy() (p *policy.Policy, refused, err error) {
	p, err = s.LoadPolicy()
	var problems policy.Errors
	if err == nil || !errors.As(err, &problems) {
		return p, nil, err
	}
	refused = err
	if p, err = policy.Remains(s.PolicyFile); err != nil {
		return nil, nil, err
	}
	s.Log.Warn("the policy's file is not valid: going on by the pipeline's name", "pipeline", p.Pipeline, "err", refused)
	return p, refused, nil
}

func (s Settings) readPolicy() (*policy.Policy, []policy.Warning, error) {
	if s.PolicyFile == "" {
		return nil, nil, errors.New("no policy given: --policy FILE or TRICKLE_POLICY; see docs/reference-policy.yaml")
	}
	return policy.Load(s.PolicyFile)
}

func (s Settings) codec() message.Codec { return message.Codec{Secret: []byte(s.SigningKey)} }

func (s Settings) openSource(ctx context.Context, st *stack) (*pgxpool.Pool, postgres.Identity, error) {
	return open(ctx, st, s.SourceDSN, postgres.Options{Role: "source", Setting: "--source or TRICKLE_SOURCE_DSN", MaxConns: 12, Failover: true})
}

func (s Settings) openReplica(ctx context.Context, st *stack) (*pgxpool.Pool, postgres.Identity, error) {
	return open(ctx, st, s.ReplicaDSN, replicaOptions())
}

func replicaOptions() postgres.Options {
	return postgres.Options{Role: "replica", Setting: "--replica or TRICKLE_REPLICA_DSN", MaxConns: 12}
}

func open(ctx context.Context, st *stack, dsn string, o postgres.Options) (*pgxpool.Pool, postgres.Identity, error) {
	pool, err := postgres.Open(ctx, dsn, o)
	if err != nil {
		return nil, postgres.Identity{}, err
	}
	st.push(pool.Close)
	id, err := postgres.Identify(ctx, pool)
	if err != nil {
		return nil, postgres.Identity{}, fmt.Errorf("%s: %w", o.Role, err)
	}
	return pool, id, nil
}

func (s Settings) openBus(ctx context.Context, st *stack) (*transport.Kafka, error) {
	if len(s.Brokers) == 0 {
		return nil, errors.New("no Kafka given: --brokers host:port,… or TRICKLE_BROKERS; only one process for both sides does without (trickle run --without-kafka), which keeps no base-line view")
	}
	for _, w := range s.Security.Warnings() {
		s.Log.Warn("connection to Kafka", "warning", w)
	}
	bus, err := transport.NewKafka(ctx, transport.KafkaOptions{Brokers: s.Brokers, Logger: s.Log, Security: s.Security})
	if err != nil {
		return nil, err
	}
	st.push(func() {
		if err := bus.Close(); err != nil {
			s.Log.Warn("closing the connection to Kafka", "err", err)
		}
	})
	return bus, nil
}

// ground is what either command stands on over Kafka.
type ground struct {
	policy    *policy.Policy
	telemetry *telemetry.Telemetry
	pool      *pgxpool.Pool
	identity  postgres.Identity
	bus       transport.Bus
}

// side is what tells the two commands' grounds apart.
type side struct {
	name  string
	open  func(context.Context, *stack) (*pgxpool.Pool, postgres.Identity, error)
	needs func(*policy.Policy, postgres.Identity) (Needs, error)
	// consumer names the replica; nil on the source's side.
	consumer func(postgres.Identity) (string, error)
}

// ground reads the policy, opens one side's database, connects to Kafka, makes the topics and checks the rights to them.
func (s Settings) ground(ctx context.Context, st *stack, this side) (g ground, err error) {
	if g.policy, err = s.runPolicy(); err != nil {
		return g, err
	}
	if g.pool, g.identity, err = this.open(ctx, st); err != nil {
		return g, err
	}
	about := telemetry.Options{Service: this.name, Pipeline: g.policy.Pipeline}
	if this.consumer != nil {
		if about.Consumer, err = this.consumer(g.identity); err != nil {
			return g, err
		}
	}
	if g.telemetry, err = s.telemetry(ctx, st, about); err != nil {
		return g, err
	}
	needs, err := this.needs(g.policy, g.identity)
	if err != nil {
		return g, err
	}
	bus, err := s.openBus(ctx, st)
	if err != nil {
		return g, err
	}
	g.bus = bus
	err = bus.Ensure(ctx, needs.Topics...)
	var missing *transport.NotCreatedError
	if err == nil || errors.As(err, &missing) { // a topic that is not there for a login may be one that it has no right to
		err = errors.Join(err, bus.Require(ctx, needs.Rights...))
	}
	return g, err
}

// consumer is the replica's name in topics: as set, else from its identity, so that two replicas never share one by default.
func (s Settings) consumer(id postgres.Identity) (string, error) {
	if s.Consumer != "" {
		return s.Consumer, message.CheckName("consumer", s.Consumer)
	}
	h := fnv.New32a()
	h.Write([]byte(id.String()))
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' {
			return r
		}
		return '-'
	}, id.Database)
	return name[:min(len(name), 60)] + "-" + strconv.FormatUint(uint64(h.Sum32()), 36), nil
}

// newID names a resync: short enough to type.
func newID() string {
	b := make([]byte, 5)
	if _, err := rand.Read(b); err != nil {
		return strconv.Itoa(os.Getpid()) // rand.Read never fails on the systems that Go supports
	}
	return hex.EncodeToString(b)
}
