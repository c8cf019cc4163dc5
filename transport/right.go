package transport

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Resource is a kind of thing that rights are about.
type Resource string

// The resources that trickle needs rights to.
const (
	Topic   Resource = "topic"
	Group   Resource = "group"
	Cluster Resource = "cluster"
)

// Operation is what a right allows, in Kafka's words.
type Operation string

// The operations that trickle needs. Read and Write include Describe.
const (
	Read     Operation = "READ"
	Write    Operation = "WRITE"
	Create   Operation = "CREATE"
	Describe Operation = "DESCRIBE"
	// IdempotentWrite is to a cluster before Kafka 2.8 what Write to a topic implies since.
	IdempotentWrite Operation = "IDEMPOTENT_WRITE"
	// DescribeConfigs is reading a topic's settings.
	DescribeConfigs Operation = "DESCRIBE_CONFIGS"
)

// Right is what a login has to be allowed.
type Right struct {
	Resource   Resource
	Name       string
	Prefix     bool // all resources whose names begin with Name
	Operations []Operation
	Why        string // what it is for
}

func (r Right) String() string {
	ops := make([]string, len(r.Operations))
	for i, o := range r.Operations {
		ops[i] = string(o)
	}
	name := r.Name
	if r.Prefix {
		name += "*"
	}
	on := string(r.Resource) + " " + name
	switch r.Resource {
	case Group:
		on = "consumer group " + name
	case Cluster:
		on = "the cluster"
	}
	return strings.Join(ops, " and ") + " on " + on
}

// GrantCommand is the line that grants it with Kafka's own tools. An empty principal leaves a gap to fill in.
func (r Right) GrantCommand(brokers []string, principal string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s --add --allow-principal '%s'", tool("kafka-acls.sh", brokers), cmp.Or(principal, "User:NAME"))
	for _, o := range r.Operations {
		fmt.Fprintf(&b, " --operation %s", o.forTools())
	}
	fmt.Fprintf(&b, " --%s", r.Resource)
	if r.Resource != Cluster {
		b.WriteString(" " + r.Name)
	}
	if r.Prefix {
		b.WriteString(" --resource-pattern-type prefixed")
	}
	return b.String()
}

// forTools is how kafka-acls.sh spells an operation.
func (o Operation) forTools() string {
	var b strings.Builder
	for word := range strings.SplitSeq(string(o), "_") {
		b.WriteString(word[:1] + strings.ToLower(word[1:]))
	}
	return b.String()
}

// RightsError is that a login lacks rights.
type RightsError struct {
	Rights    []Right
	Brokers   []string
	Principal string
	Err       error // what the cluster said; nil where it was asked beforehand
}

func (e *RightsError) Error() string {
	var b strings.Builder
	b.WriteString("this login at Kafka lacks ")
	for i, r := range e.Rights {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(r.String())
		if r.Why != "" {
			fmt.Fprintf(&b, " (%s)", r.Why)
		}
	}
	if e.Err != nil {
		fmt.Fprintf(&b, " (%v)", e.Err)
	}
	b.WriteString("; grant it:")
	between := " "
	if len(e.Rights) > 1 {
		between = "\n    "
	}
	for _, r := range e.Rights {
		b.WriteString(between + r.GrantCommand(e.Brokers, e.Principal))
	}
	return b.String()
}

// Unwrap returns what the cluster said.
func (e *RightsError) Unwrap() error { return e.Err }

// lacking is the part of a right that is not among what is allowed; ok is false where nothing is missing.
func (r Right) lacking(allowed []Operation) (missing Right, ok bool) {
	missing = r
	missing.Operations = nil
	for _, o := range r.Operations {
		if !slices.Contains(allowed, o) {
			missing.Operations = append(missing.Operations, o)
		}
	}
	return missing, len(missing.Operations) > 0
}
