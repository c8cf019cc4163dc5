package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/trickle-verify/trickle/transport"
)

// Broker is Kafka, looked at; see package transport.
type Broker interface {
	Cluster(ctx context.Context) (transport.ClusterState, error)
	Inspect(ctx context.Context, specs ...transport.TopicSpec) ([]transport.TopicState, error)
	CanCreate(ctx context.Context, spec transport.TopicSpec) error
	Lacking(ctx context.Context, rights ...transport.Right) ([]transport.Right, error)
	Progress(ctx context.Context, group string) (transport.Progress, error)
}

// Kafka is what the way between the sides is checked against.
type Kafka struct {
	// Open connects; nil where no brokers are given. Whoever made it closes the connection.
	Open    func(ctx context.Context) (Broker, error)
	Brokers []string // as the commands of a fix reach them
	// Principal is whom a right is granted to, "User:alice"; empty where only the brokers know.
	Principal string
	// Security is how the connection is made, in words, and what should not be done about it.
	Security string
	Warnings []string
	// Needs are the topics and the rights of this side. They are asked for once the checks of After have passed, since a consumer may be named
	// after its replica.
	Needs func() (topics []transport.TopicSpec, rights []transport.Right, err error)
	After []string
	// Wishes are rights to what is done in need only; nil: none.
	Wishes func() ([]transport.Right, error)
	// Sink is the consumer group of the CDC's sink, where the policy names it.
	Sink string
	// Wanted is the key of the policy that can't do without Kafka; empty: none.
	Wanted string
	// Sides tells whether both sides may run in one process, which needs no Kafka.
	Sides Sides

	broker  Broker
	brokers int // how many there are
}

// Sides are what a preflight was told of.
type Sides int

const (
	// OneSide goes by Kafka.
	OneSide Sides = iota
	// BothSides may run in one process, without.
	BothSides
)

// Checks lists them.
func (k *Kafka) Checks() []Check {
	if k.Open == nil && k.Wanted == "" && k.Sides == BothSides {
		return []Check{{Group: "kafka", Name: "connect", Run: func(context.Context) ([]Finding, error) {
			return []Finding{ok("not needed where both sides run in one process (trickle run --without-kafka); to look at it give --brokers or TRICKLE_BROKERS")}, nil
		}}}
	}
	connected := []string{"kafka/connect"}
	named := append(slices.Clone(connected), k.After...)
	checks := []Check{
		{Group: "kafka", Name: "connect", Run: k.connect},
		{Group: "kafka", Name: "topics", Needs: named, Run: k.topics},
		{Group: "kafka", Name: "rights", Needs: named, Run: k.rights},
	}
	if k.Sink != "" {
		checks = append(checks, Check{Group: "kafka", Name: "sink", Needs: connected, Run: k.sink})
	}
	return checks
}

func (k *Kafka) connect(ctx context.Context) ([]Finding, error) {
	if k.Open == nil && k.Wanted != "" {
		return nil, &FaultError{Err: errors.New("no brokers are given, and the policy's " + k.Wanted + " goes through Kafka"), Fix: "--brokers host:port,… or TRICKLE_BROKERS"}
	}
	if k.Open == nil {
		return nil, &absentError{"no brokers are given", "--brokers host:port,… or TRICKLE_BROKERS, unless both sides run in one process (trickle run --without-kafka)"}
	}
	fix := "check --brokers or TRICKLE_BROKERS, TRICKLE_KAFKA_…, that the brokers run, and their advertised.listeners"
	broker, err := k.Open(ctx)
	if err != nil {
		return nil, unconnected(err, fix)
	}
	k.broker = broker
	cluster, err := broker.Cluster(ctx)
	if err != nil {
		return nil, unconnected(err, fix)
	}
	k.brokers = cluster.Brokers
	found := []Finding{ok("Kafka %s, %s, %s", strings.TrimPrefix(cluster.Version, "v"), count(cluster.Brokers, "broker"), k.Security)}
	for _, w := range k.Warnings {
		what, fix, _ := strings.Cut(w, ": ")
		found = append(found, warn(fix, "%s", what))
	}
	return found, nil
}

func (k *Kafka) topics(ctx context.Context) ([]Finding, error) {
	specs, _, err := k.Needs()
	if err != nil {
		return nil, err
	}
	states, err := k.broker.Inspect(ctx, specs...)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, t := range states {
		list, err := k.topic(ctx, t)
		if err != nil {
			return found, err
		}
		for _, f := range list {
			found = append(found, f.of(t.Spec.Name))
		}
	}
	return found, nil
}

func (k *Kafka) topic(ctx context.Context, t transport.TopicState) ([]Finding, error) {
	if t.Denied {
		see := transport.Right{Resource: transport.Topic, Name: t.Spec.Name, Operations: []transport.Operation{transport.Describe}}
		return []Finding{fail(see.GrantCommand(k.Brokers, k.Principal), "this login may not see it")}, nil
	}
	if !t.Exists {
		return k.missing(ctx, t.Spec)
	}
	var found []Finding
	for _, fault := range t.Faults {
		what := strings.TrimPrefix(fault.What, "topic "+t.Spec.Name+" ")
		if fault.Serious {
			found = append(found, fail(fault.Fix, "%s", what))
		} else {
			found = append(found, warn(fault.Fix, "%s", what))
		}
	}
	if t.Replicas == 1 && k.brokers > 1 {
		found = append(found, warn(fmt.Sprintf("%s --replication-factor %d, after it was deleted while trickle is stopped; or kafka-reassign-partitions.sh", t.Spec.CreateCommand(k.Brokers), min(3, k.brokers)),
			"has 1 replica on %d brokers: while the broker that holds it is away, nothing goes through it", k.brokers))
	}
	switch {
	case len(found) > 0:
	case t.Settings == nil:
		see := transport.Right{Resource: transport.Topic, Name: t.Spec.Name, Operations: []transport.Operation{transport.DescribeConfigs}}
		found = append(found, unknown(see.GrantCommand(k.Brokers, k.Principal), "is there; this login may not see how it is set up"))
	default:
		found = append(found, ok("%s, %s, cleanup.policy=%s retention.ms=%s max.message.bytes=%s", count(t.Partitions, "partition"), count(t.Replicas, "replica"), t.Settings["cleanup.policy"], t.Settings["retention.ms"], t.Settings["max.message.bytes"]))
	}
	return found, nil
}

// missing is a topic that trickle would make.
func (k *Kafka) missing(ctx context.Context, spec transport.TopicSpec) ([]Finding, error) {
	err := k.broker.CanCreate(ctx, spec)
	var denied *transport.NotCreatedError
	switch {
	case err == nil:
		return []Finding{ok("is not there yet, and is made when trickle starts")}, nil
	case errors.As(err, &denied):
		return []Finding{fail(spec.CreateCommand(k.Brokers), "is not there, and this login may not make it")}, nil
	case ctx.Err() != nil:
		return nil, err
	default:
		return []Finding{fail(spec.CreateCommand(k.Brokers), "is not there: %s", oneLine(err.Error()))}, nil
	}
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// rights are what the login may do with topics and groups, as far as the brokers tell.
func (k *Kafka) rights(ctx context.Context) ([]Finding, error) {
	_, rights, err := k.Needs()
	if err != nil {
		return nil, err
	}
	lacking, err := k.broker.Lacking(ctx, rights...)
	if err != nil {
		return nil, err
	}
	var found []Finding
	if len(lacking) == 0 {
		found = append(found, ok("this login has what it takes, as far as the brokers tell"))
	}
	for _, r := range lacking {
		found = append(found, fail(r.GrantCommand(k.Brokers, k.Principal), "this login lacks %s, %s", r, r.Why).of(r.Name))
	}
	if k.Wishes == nil {
		return found, nil
	}
	wishes, err := k.Wishes()
	if err != nil {
		return nil, err
	}
	if lacking, err = k.broker.Lacking(ctx, wishes...); err != nil {
		return nil, err
	}
	for _, r := range lacking {
		found = append(found, warn(r.GrantCommand(k.Brokers, k.Principal), "this login lacks %s, %s", r, r.Why).of(r.Name))
	}
	return found, nil
}

// sink is the consumer group by which CDC's sink reads.
func (k *Kafka) sink(ctx context.Context) ([]Finding, error) {
	p, err := k.broker.Progress(ctx, k.Sink)
	var left int64
	for _, part := range p.Partitions {
		left += part.End - max(part.Done, 0)
	}
	var f Finding
	switch {
	case ctx.Err() != nil:
		return nil, err
	case errors.Is(err, transport.ErrGroupDenied):
		see := transport.Right{Resource: transport.Group, Name: k.Sink, Operations: []transport.Operation{transport.Describe}}
		f = fail(see.GrantCommand(k.Brokers, k.Principal), "this login may not look at it: the gate stays closed")
	case errors.Is(err, transport.ErrGroupTopicsDenied):
		f = fail("grant this login READ on every topic that the sink reads, as under rights on Kafka in docs/security.md", "this login may not look at the group's topics: the gate stays closed")
	case err != nil:
		f = warn("start the sink, or correct gate.group in the policy", "%s: the gate stays closed", oneLine(err.Error()))
	case p.Members == 0:
		f = warn("start the sink", "nobody reads in it, %s behind", count(int(left), "record"))
	default:
		f = ok("%s, %s behind", count(p.Members, "member"), count(int(left), "record"))
	}
	return []Finding{f.of(k.Sink)}, nil
}
