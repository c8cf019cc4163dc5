package app

import (
	"slices"
	"strings"
	"time"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/transport"
)

// cursorPartitions is how many publishers may share a pipeline, and a table. It has many divisors, so that two, three, four or six of them have
// equal parts.
const cursorPartitions = 12

// Needs is what one side has of Kafka: the topics that it makes where they are missing, and the rights that its login has to have. Rights
// to make topics and to read their settings are not among them: it works without.
type Needs struct {
	Topics []transport.TopicSpec
	Rights []transport.Right
}

// PublisherNeeds lists what the publisher of a pipeline uses.
func PublisherNeeds(pipeline string) Needs {
	t := message.Topics{Pipeline: pipeline}
	return Needs{
		Topics: []transport.TopicSpec{verifyTopic(t), requestsTopic(t), {Name: t.Cursors(), Partitions: cursorPartitions, Compacted: true}},
		Rights: []transport.Right{
			may(t.Verify(), "to send verification", transport.Write),
			may(t.Requests(), "to hear what replicas ask", transport.Read),
			{Resource: transport.Topic, Name: t.Replies(""), Prefix: true, Operations: []transport.Operation{transport.Write}, Why: "to answer them"},
			may(t.Cursors(), "to remember where the scan stands", transport.Read, transport.Write),
			{Resource: transport.Group, Name: t.PublisherGroup(), Operations: []transport.Operation{transport.Read}, Why: "to share what replicas ask"},
			{Resource: transport.Group, Name: t.CursorGroup(), Operations: []transport.Operation{transport.Read}, Why: "to share the tables with other publishers"},
		},
	}
}

// DetectorNeeds lists what a pipeline's detector of that name uses.
func DetectorNeeds(pipeline, consumer string) Needs {
	t := message.Topics{Pipeline: pipeline}
	return Needs{
		Topics: []transport.TopicSpec{verifyTopic(t), requestsTopic(t), {Name: t.Replies(consumer), Partitions: 1, Retention: time.Hour}},
		Rights: []transport.Right{
			may(t.Verify(), "to verify", transport.Read),
			may(t.Requests(), "to ask the publisher", transport.Write),
			may(t.Replies(consumer), "to hear its answers", transport.Read),
			{Resource: transport.Group, Name: t.DetectorGroup(consumer), Operations: []transport.Operation{transport.Read}, Why: "to share the work with other instances"},
		},
	}
}

// DebeziumNeeds lists what a detector uses beside that when its resyncs go through a connector.
func DebeziumNeeds(p *policy.Policy, consumer string) Needs {
	to := p.Resync.Debezium
	return Needs{
		Topics: []transport.TopicSpec{debezium.SignalTopic(to), debezium.NotificationTopic(to)},
		Rights: []transport.Right{
			may(to.SignalTopic, "to ask Debezium for a snapshot", transport.Write),
			may(to.NotificationTopic, "to hear what became of it", transport.Read),
			{Resource: transport.Group, Name: message.Topics{Pipeline: p.Pipeline}.DebeziumGroup(consumer), Operations: []transport.Operation{transport.Read}, Why: "to share what Debezium says with other instances"},
		},
	}
}

// BaselineNeeds lists what a publisher uses beside that when it builds sets of the base-line view: to know how far the CDC's topics reach. To see how long these keep their
// records it takes DESCRIBE_CONFIGS, without which it works.
func BaselineNeeds(p *policy.Policy) Needs {
	const why = "to know how far the CDC's log reaches"
	var n Needs
	for _, topic := range p.Baseline.Topics {
		name, _, pattern := strings.Cut(topic, "*")
		n.Rights = append(n.Rights, transport.Right{Resource: transport.Topic, Name: name, Prefix: pattern, Operations: []transport.Operation{transport.Describe}, Why: why})
	}
	if prefix := p.Resync.Debezium.TopicPrefix; len(n.Rights) == 0 && prefix != "" {
		n.Rights = []transport.Right{{Resource: transport.Topic, Name: prefix + ".", Prefix: true, Operations: []transport.Operation{transport.Describe}, Why: why}}
	}
	return n
}

// SourceNeeds lists all that the source's side uses under a policy.
func SourceNeeds(p *policy.Policy) Needs {
	needs := PublisherNeeds(p.Pipeline)
	if p.Baseline.URL != "" {
		needs = needs.and(BaselineNeeds(p))
	}
	return needs
}

// RestoreNeeds lists what a restore uses beside what a detector does: the CDC's topics, which it plays forward, and the group under which it shows how far it is; or the
// group of the user's own sink, whose offsets it sets. To see how long the topics keep their records it takes DESCRIBE_CONFIGS, without which it works.
func RestoreNeeds(p *policy.Policy, consumer string) Needs {
	n := BaselineNeeds(p)
	for i := range n.Rights {
		n.Rights[i].Operations, n.Rights[i].Why = []transport.Operation{transport.Read}, "to bring a restored replica up to date"
	}
	group := func(name, why string) {
		n.Rights = append(n.Rights, transport.Right{Resource: transport.Group, Name: name, Operations: []transport.Operation{transport.Read}, Why: why})
	}
	group(message.Topics{Pipeline: p.Pipeline}.PlayGroup(consumer), "to show how far a restored replica was played forward")
	if p.Gate.Group != "" {
		group(p.Gate.Group, "to set the sink of a restored replica to where it has to begin")
	}
	return n
}

// ConsumerNeeds lists all that a replica's side uses under a policy.
func ConsumerNeeds(p *policy.Policy, consumer string) Needs {
	needs := DetectorNeeds(p.Pipeline, consumer)
	if p.Resync.Via == policy.ViaDebezium {
		needs = needs.and(DebeziumNeeds(p, consumer))
	}
	return needs
}

// and joins what two parts of a side need.
func (n Needs) and(o Needs) Needs {
	return Needs{Topics: slices.Concat(n.Topics, o.Topics), Rights: slices.Concat(n.Rights, o.Rights)}
}

func verifyTopic(t message.Topics) transport.TopicSpec {
	return transport.TopicSpec{Name: t.Verify(), Partitions: 8}
}

func requestsTopic(t message.Topics) transport.TopicSpec {
	return transport.TopicSpec{Name: t.Requests(), Partitions: 4}
}

func may(topic, why string, ops ...transport.Operation) transport.Right {
	return transport.Right{Resource: transport.Topic, Name: topic, Operations: ops, Why: why}
}

// OptionalRights are those that a side works better with: it then makes its topics itself and sees whether they are set up as they should be.
func (n Needs) OptionalRights() []transport.Right {
	out := make([]transport.Right, len(n.Topics))
	for i, t := range n.Topics {
		out[i] = may(t.Name, "to make it, and to see how it is set up", transport.Create, transport.DescribeConfigs)
	}
	return out
}
