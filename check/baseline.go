package check

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/transport"
)

// Baseline is what the base-line view is checked against, where the policy has one.
type Baseline struct {
	// Source is the source's side; its tables are found by then.
	Source *Source
	// Refresh is baseline.refresh.
	Refresh time.Duration
	// Sets looks into the store, writes nothing, and tells how many complete sets there are. Its error says what to change.
	Sets func(ctx context.Context) (int, error)
	// Topics are the CDC's for the source's tables, and of one table, empty where that can't be told.
	Topics  func(tables []postgres.Name) ([]string, error)
	TopicOf func(table postgres.Name) string
	// Logs asks Kafka for topics; nil where no brokers are given.
	Logs func(ctx context.Context, topics []string) ([]transport.Log, error)

	logs map[string]transport.Log
}

// ErrNotMade is Sets' error for a folder that is not there yet.
var ErrNotMade = errors.New("the folder is not there yet")

const baselineGroup = "base-line"

// Checks lists them.
func (b *Baseline) Checks() []Check {
	return []Check{
		{Group: baselineGroup, Name: "store", Run: b.store},
		{Group: baselineGroup, Name: "fence", Needs: []string{b.Source.id("connect"), b.Source.id("standing")}, Run: b.fence},
		{Group: baselineGroup, Name: "logs", Needs: []string{"kafka/connect", "tables/found"}, Run: b.find},
		{Group: baselineGroup, Name: "retention", Needs: []string{baselineGroup + "/logs"}, Run: b.retention},
	}
}

func (b *Baseline) store(ctx context.Context) ([]Finding, error) {
	sets, err := b.Sets(ctx)
	if errors.Is(err, ErrNotMade) {
		return []Finding{ok("the folder is not there yet, and is made when trickle starts")}, nil
	}
	if err != nil {
		return []Finding{fail("correct baseline.url in the policy, or give this account rights to list, read, write and delete there", "%s", oneLine(err.Error()))}, nil
	}
	return []Finding{ok("can be read and holds %s; whether it can be written is seen with the next build, since nothing is written here", count(sets, "complete set"))}, nil
}

// fence is whether ranges can be read that show all that CDC has delivered.
func (b *Baseline) fence(context.Context) ([]Finding, error) {
	if b.Source.identity.Standby && b.Source.Primary == nil {
		return []Finding{fail("name the primary with --primary or TRICKLE_PRIMARY_DSN, or point "+b.Source.Setting+" at it",
			"no set can be built: the source is a standby, which may be behind what CDC has delivered")}, nil
	}
	return []Finding{ok("ranges can be read that show all that CDC has delivered")}, nil
}

// find looks for the topics that hold the CDC's log.
func (b *Baseline) find(ctx context.Context) ([]Finding, error) {
	if b.Logs == nil {
		return nil, &absentError{"no brokers are given", "--brokers host:port,… or TRICKLE_BROKERS"}
	}
	names := make([]postgres.Name, len(b.Source.tables))
	for i, t := range b.Source.tables {
		names[i] = t.name
	}
	topics, err := b.Topics(names)
	if err != nil {
		return nil, err
	}
	logs, err := b.Logs(ctx, topics)
	if err != nil {
		return nil, err // it names the rights that are missing, and the lines that grant them
	}
	b.logs = map[string]transport.Log{}
	for _, l := range logs {
		if len(l.Partitions) > 0 {
			b.logs[l.Topic] = l
		}
	}
	if len(b.logs) == 0 {
		return nil, &FaultError{Err: errors.New("none of the CDC's topics is there: " + strings.Join(topics, ", ")),
			Fix: "name them in baseline.topics, or correct resync.debezium.topic_prefix, or start the connector"}
	}
	var found []Finding
	for _, t := range b.Source.tables {
		topic := b.TopicOf(t.name)
		if _, there := b.logs[topic]; there || topic == "" {
			continue
		}
		f := warn("correct resync.debezium.topic_prefix, or name the CDC's topics in baseline.topics, if its changes lie elsewhere",
			"there is no topic %s: nothing of it was carried yet, or its changes lie in another topic", topic).of(t.name.String())
		if t.partitioned {
			f.Fix = "publish it by its root (publish_via_partition_root), or name the topics of its partitions in baseline.topics"
		}
		found = append(found, f)
	}
	return remaining(found, len(b.Source.tables), "%s: the CDC's log is in "+count(len(b.logs), "topic")), nil
}

// retention is for how long a set stays a restore point.
func (b *Baseline) retention(context.Context) ([]Finding, error) {
	var found []Finding
	names := make([]string, 0, len(b.logs))
	for name := range b.logs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		found = append(found, b.kept(b.logs[name])...)
	}
	if len(found) == 0 {
		found = []Finding{ok("what comes after a set is kept for long enough in %s", count(len(names), "topic"))}
	}
	return found, nil
}

func (b *Baseline) kept(l transport.Log) (found []Finding) {
	r := l.Retention
	const longer = "let it keep more, or lower baseline.refresh"
	if r.Unknown {
		see := transport.Right{Resource: transport.Topic, Name: l.Topic, Operations: []transport.Operation{transport.DescribeConfigs}}
		return []Finding{warn(see.GrantCommand(nil, ""), "this login may not see how long it keeps its records: whether the view is refreshed in time can't be told").of(l.Topic)}
	}
	if r.Time > 0 && r.Time < 2*b.Refresh {
		found = append(found, warn(longer, "keeps its records for %s (retention.ms), which is less than twice baseline.refresh (%s): the view is refreshed every %s", r.Time, b.Refresh, r.Time/2).of(l.Topic))
	}
	if r.Compacted && r.Tombstones < 2*b.Refresh {
		found = append(found, warn("raise delete.retention.ms, or lower baseline.refresh", "is compacted and keeps deletions for %s (delete.retention.ms), which is less than twice baseline.refresh (%s): the view is refreshed every %s", r.Tombstones, b.Refresh, r.Tombstones/2).of(l.Topic))
	}
	if r.Compacted {
		found = append(found, warn("cleanup.policy=delete with a long retention.ms", "is compacted: where an update left a large value alone, the event that had it may be gone; the full pass after a restore finds that").of(l.Topic))
	}
	if r.Bytes > 0 {
		found = append(found, warn("retention.bytes=-1, or watch the restore point's expiry", "is limited by size (retention.bytes) as well: a burst of writes may take the restore point's beginning").of(l.Topic))
	}
	return found
}
