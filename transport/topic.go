package transport

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// needMessage is the least max.message.bytes that a topic works with; Kafka's own default is a little more.
const needMessage = 1 << 20

// keepAtLeast is how long a topic for which nothing else is asked should keep messages.
const keepAtLeast = time.Hour

// TopicSpec is what a topic should be.
type TopicSpec struct {
	Name       string
	Partitions int32         // at least 1
	Compacted  bool          // keep the last record of each key for ever
	Retention  time.Duration // of a topic that is not compacted; 0 for the broker's own
}

// Setting is one of a topic's settings in Kafka's words.
type Setting struct{ Name, Value string }

func (s Setting) String() string { return s.Name + "=" + s.Value }

// Config is what the topic cannot do without.
func (s TopicSpec) Config() []Setting {
	out := []Setting{{"cleanup.policy", "delete"}}
	switch {
	case s.Compacted:
		out[0].Value = "compact"
	case s.Retention > 0:
		out = append(out, Setting{"retention.ms", strconv.FormatInt(s.Retention.Milliseconds(), 10)})
	}
	return append(out, Setting{"max.message.bytes", strconv.Itoa(needMessage)})
}

// Tuning is what the topic is better with, where the cluster lets its users set it: compaction leaves the segment alone that is being
// written, and with the usual segments of a week that is what a start would have to read.
func (s TopicSpec) Tuning() []Setting {
	if !s.Compacted {
		return nil
	}
	return []Setting{{"segment.ms", strconv.FormatInt((4 * time.Hour).Milliseconds(), 10)}, {"segment.bytes", strconv.Itoa(50 << 20)}}
}

// CreateCommand is the line that makes the topic with Kafka's own tools.
func (s TopicSpec) CreateCommand(brokers []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s --create --topic %s --partitions %d", tool("kafka-topics.sh", brokers), s.Name, s.partitions())
	for _, c := range slices.Concat(s.Config(), s.Tuning()) {
		fmt.Fprintf(&b, " --config %s", c)
	}
	return b.String()
}

func (s TopicSpec) partitions() int32 { return max(s.Partitions, 1) }

// tool begins a line that calls one of Kafka's tools; what it takes to log in stands in a file that every tool reads.
func tool(name string, brokers []string) string {
	return name + " --bootstrap-server " + strings.Join(brokers, ",") + " --command-config admin.properties"
}

// TopicState is what a cluster has for a spec.
type TopicState struct {
	Spec     TopicSpec
	Exists   bool
	Denied   bool              // this login may not even see whether it exists
	Settings map[string]string // nil where this login may not read them (DESCRIBE_CONFIGS)
	Faults   []TopicFault
	Allowed  []Operation // what this login may do with it; nil where the cluster does not say

	Partitions, Replicas int // 0 where it does not exist
}

// TopicFault is where a topic that exists is not what it should be.
type TopicFault struct {
	What string
	Fix  string // a line for a shell
	// Serious: messages can't travel, or get lost. Otherwise it works, and not as well as it could.
	Serious bool
}

func (f TopicFault) String() string { return f.What + "; mend it with: " + f.Fix }

// judge finds the faults.
func (t *TopicState) judge(brokers []string) {
	fault := func(fix, what string, args ...any) {
		t.Faults = append(t.Faults, TopicFault{What: "topic " + t.Spec.Name + " " + fmt.Sprintf(what, args...), Fix: fix, Serious: true})
	}
	alter := func(s Setting) string {
		return fmt.Sprintf("%s --alter --entity-type topics --entity-name %s --add-config %s", tool("kafka-configs.sh", brokers), t.Spec.Name, s)
	}
	if want := int(t.Spec.partitions()); t.Partitions < want {
		fault(fmt.Sprintf("%s --alter --topic %s --partitions %d", tool("kafka-topics.sh", brokers), t.Spec.Name, want),
			"has %d partitions and not %d, so fewer instances can share its work", t.Partitions, want)
		t.Faults[len(t.Faults)-1].Serious = false
	}
	if t.Settings == nil {
		return
	}
	for _, want := range t.Spec.Config() {
		has := t.Settings[want.Name]
		switch n, err := strconv.ParseInt(has, 10, 64); {
		case want.Name == "cleanup.policy" && has != want.Value && t.Spec.Compacted:
			fault(alter(want), "has cleanup.policy=%s and not compact: what the publisher remembers would get lost", has)
		case want.Name == "cleanup.policy" && has != want.Value:
			fault(alter(want), "has cleanup.policy=%s and not delete: messages would get lost", has)
		case want.Name == "max.message.bytes" && err == nil && n < needMessage:
			fault(alter(want), "has max.message.bytes=%s: messages of up to %d do not fit", has, needMessage)
		case want.Name == "retention.ms" && err == nil && n >= 0 && n < t.Spec.Retention.Milliseconds():
			fault(alter(want), "has retention.ms=%s: messages would go before they are read", has)
		}
	}
	if n, err := strconv.ParseInt(t.Settings["retention.ms"], 10, 64); err == nil && !t.Spec.Compacted && t.Spec.Retention == 0 && n >= 0 && n < keepAtLeast.Milliseconds() {
		fault(alter(Setting{"retention.ms", strconv.FormatInt(keepAtLeast.Milliseconds(), 10)}),
			"has retention.ms=%d: what a side that was away for longer missed is verified a cycle later", n)
		t.Faults[len(t.Faults)-1].Serious = false
	}
	if n, err := strconv.Atoi(t.Settings["min.insync.replicas"]); err == nil && t.Replicas > 0 && n > t.Replicas {
		fault(alter(Setting{"min.insync.replicas", strconv.Itoa(t.Replicas)}),
			"has min.insync.replicas=%d and %d replicas: nothing can be written to it", n, t.Replicas)
	}
}

// NotCreatedError is that topics are missing, or may not be seen, and this login may not create them.
type NotCreatedError struct {
	Topics    []TopicSpec
	Brokers   []string
	Principal string // who would have to be granted CREATE
	Err       error  // what the cluster said
}

func (e *NotCreatedError) Error() string {
	var b strings.Builder
	names := make([]string, len(e.Topics))
	for i, t := range e.Topics {
		names[i] = t.Name
	}
	noun, pronoun := "topic", "it"
	if len(names) > 1 {
		noun, pronoun = "topics", "them"
	}
	fmt.Fprintf(&b, "%s %s: not there for this login, which may not create %s (%v). Create %s:", noun, strings.Join(names, ", "), pronoun, e.Err, pronoun)
	for _, t := range e.Topics {
		b.WriteString("\n    " + t.CreateCommand(e.Brokers))
	}
	b.WriteString("\nor let this login do so:")
	for _, t := range e.Topics {
		b.WriteString("\n    " + Right{Resource: Topic, Name: t.Name, Operations: []Operation{Create, Describe}}.GrantCommand(e.Brokers, e.Principal))
	}
	return b.String()
}

// Unwrap returns what the cluster said.
func (e *NotCreatedError) Unwrap() error { return e.Err }
