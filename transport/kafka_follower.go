package transport

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"golang.org/x/sync/errgroup"
)

// Progress is how far a consumer group has got, in every partition of every topic that it reads.
type Progress struct {
	Members    int
	Partitions []PartitionProgress
}

// PartitionProgress is how far it has got in one.
type PartitionProgress struct {
	Topic     string
	Partition int32
	Start     int64 // the offset of the oldest record that is left
	Committed int64 // -1: nothing
	End       int64 // the offset behind the last record
	Done      int64 // every record before it has been committed; End where none is left
	// Since is when the first record that is left was written, by the clock of its producer or broker; zero: none is left, or a transaction around it is still open.
	Since time.Time
}

// Follower reads the progress of others' consumer groups. It remembers where the records that are left begin, so it is worth keeping.
type Follower struct {
	kafka *Kafka

	mu    sync.Mutex
	begin map[string]map[partition]beginning // by group
}

// beginning is where the records that are left begin: there is none in [from, at).
type beginning struct {
	from, at int64
	since    time.Time
	found    bool // there is one at at
}

// Follow returns a follower.
func (k *Kafka) Follow() *Follower {
	return &Follower{kafka: k, begin: make(map[string]map[partition]beginning)}
}

// Progress reads the group's commits, then the ends of its topics. Its error says why the group isn't known in full, and what to do.
//
// A commit below the end does not mean that a record is left: what lies between may be transaction markers, aborted, expired or compacted away. So the log is
// asked for its first record from the commit on.
func (f *Follower) Progress(ctx context.Context, group string) (Progress, error) {
	subscribed, members, err := f.describe(ctx, group)
	if err != nil {
		return Progress{}, err
	}
	commits, err := f.kafka.admin.FetchOffsets(ctx, group)
	if err != nil {
		return Progress{}, explainGroup(err)
	}
	for topic := range commits {
		subscribed.Add(topic)
	}
	logs, err := f.logs(ctx, subscribed.Topics())
	if err != nil {
		return Progress{}, err
	}
	for topic, assigned := range subscribed {
		for id := range assigned {
			if _, ok := logs[partition{topic, id}]; !ok {
				return Progress{}, fmt.Errorf("the broker knows nothing of %s[%d], which a member reads: was the topic deleted, or is the broker just starting?", topic, id)
			}
		}
	}
	if len(logs) == 0 {
		return Progress{}, fmt.Errorf("none of the topics that it reads exists (%s), so nothing shows how far it is: check gate.group, and the topics of the sink", strings.Join(subscribed.Topics(), ", "))
	}
	out := Progress{Members: members, Partitions: make([]PartitionProgress, 0, len(logs))}
	for at, log := range logs {
		p := PartitionProgress{Topic: at.topic, Partition: at.id, Start: log.start, Committed: -1, End: log.end, Done: -1 - log.start}
		switch commit, ok := commits.Lookup(at.topic, at.id); {
		case ok && commit.Err != nil:
			return Progress{}, explainGroup(commit.Err)
		case ok && commit.At > log.end:
			// The commit is of records that are no more, and says nothing of those that are there now.
			return Progress{}, fmt.Errorf("it has committed offset %d, beyond the end of %s[%d] at %d: was the topic made anew, or did a broker lose records? Wait until the sink has read it, or set the group's offset to what it has read",
				commit.At, at.topic, at.id, log.end)
		case ok && commit.At >= 0:
			p.Committed = commit.At
			p.Done = max(commit.At, log.start) // what expired before it was read never comes
		}
		out.Partitions = append(out.Partitions, p)
	}
	return out, f.findBeginnings(ctx, group, out.Partitions)
}

// extent is from where to where a partition reaches.
type extent struct{ start, end int64 }

// logs asks how far the topics reach. A topic that doesn't exist holds nothing that is left.
func (f *Follower) logs(ctx context.Context, topics []string) (map[partition]extent, error) {
	if len(topics) == 0 {
		return nil, errors.New("it has committed nothing yet, and shows no topic that it reads")
	}
	logs := make(map[partition]extent)
	starts, err := f.kafka.admin.ListStartOffsets(ctx, topics...)
	if err != nil {
		return nil, explainRead(err)
	}
	ends, err := f.kafka.admin.ListEndOffsets(ctx, topics...) // after the commits were read, so they are not beyond
	if err != nil {
		return nil, explainRead(err)
	}
	for _, listed := range []kadm.ListedOffsets{starts, ends} {
		for topic, partitions := range listed {
			for id, o := range partitions {
				if errors.Is(o.Err, kerr.UnknownTopicOrPartition) {
					continue
				}
				if o.Err != nil {
					return nil, fmt.Errorf("topic %s: %w", topic, explainRead(o.Err))
				}
				logs[partition{topic, id}] = extent{start: starts[topic][id].Offset, end: ends[topic][id].Offset}
			}
		}
	}
	return logs, nil
}

// findBeginnings moves Done to the first record that is left. A negative Done is a log's start, and says that nothing has been committed.
func (f *Follower) findBeginnings(ctx context.Context, group string, partitions []PartitionProgress) error {
	f.mu.Lock()
	known := f.begin[group]
	f.mu.Unlock()
	found := make([]beginning, len(partitions))
	var asks errgroup.Group
	asks.SetLimit(8)
	for i := range partitions {
		asks.Go(func() error {
			p := &partitions[i]
			uncommitted := p.Done < 0
			if uncommitted {
				p.Done = -1 - p.Done
			}
			at := partition{p.Topic, p.Partition}
			b := known[at]
			if p.Done < b.from || p.Done > b.at {
				b = beginning{from: p.Done, at: p.Done}
			}
			if err := f.kafka.find(ctx, at, &b, p.End); err != nil {
				return fmt.Errorf("topic %s: %w", p.Topic, explainRead(err))
			}
			found[i] = b
			if uncommitted && b.at < p.End {
				return fmt.Errorf("it has committed nothing of %s[%d], which holds records: does it read that partition?", p.Topic, p.Partition)
			}
			p.Done, p.Since = min(b.at, p.End), b.since
			if p.Done == p.End {
				p.Since = time.Time{}
			}
			return nil
		})
	}
	err := asks.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	next := make(map[partition]beginning, len(partitions))
	for i, p := range partitions {
		next[partition{p.Topic, p.Partition}] = found[i]
	}
	f.begin[group] = next
	return err
}

// find goes on from where b is until it meets a record or the end.
func (k *Kafka) find(ctx context.Context, at partition, b *beginning, end int64) error {
	for !b.found && b.at < end {
		held, next, err := k.fetchAt(ctx, at, fetch{offset: b.at, committed: true, most: 1}) // one batch
		switch {
		case errors.Is(err, kerr.OffsetOutOfRange):
			return nil // it expired just now, as the next look will show
		case err != nil:
			return err
		case len(held.Records) > 0:
			b.at, b.since, b.found = held.Records[0].Offset, held.Records[0].Timestamp, true
		case next <= b.at && held.HighWatermark >= end && held.LastStableOffset >= held.HighWatermark:
			b.at = end // compacted away up to the end
		case next <= b.at:
			return nil // a transaction is open there
		default:
			b.at = next
		}
	}
	return nil
}

// describe finds out which topics the group's members want, and how many members there are.
func (f *Follower) describe(ctx context.Context, group string) (kadm.TopicsSet, int, error) {
	groups, err := f.kafka.admin.DescribeGroups(ctx, group)
	if err != nil {
		return nil, 0, explainGroup(err)
	}
	g := groups[group]
	switch {
	case errors.Is(g.Err, kerr.GroupIDNotFound) || g.Err == nil && g.State == "Dead":
		return f.describeNew(ctx, group)
	case g.Err != nil:
		return nil, 0, explainGroup(g.Err)
	case g.State == "Empty":
		return make(kadm.TopicsSet), 0, nil
	case g.State != "Stable":
		return nil, 0, fmt.Errorf("its members are being given partitions (%s)", g.State) // meanwhile they don't show what they want
	}
	wanted := g.AssignedPartitions()
	for _, topic := range g.JoinTopics() {
		wanted.Add(topic)
	}
	return wanted, len(g.Members), nil
}

// describeNew does so for a group of the newer protocol, of which the older one does not know.
func (f *Follower) describeNew(ctx context.Context, group string) (kadm.TopicsSet, int, error) {
	groups, err := f.kafka.admin.DescribeConsumerGroups(ctx, group)
	g := groups[group]
	switch {
	case err == nil && g.Err == nil && g.State != "" && g.State != "Dead":
	case errors.Is(err, kerr.GroupAuthorizationFailed), errors.Is(g.Err, kerr.GroupAuthorizationFailed):
		return nil, 0, explainGroup(kerr.GroupAuthorizationFailed)
	case ctx.Err() != nil:
		return nil, 0, ctx.Err()
	default:
		return nil, 0, errors.New("there is no such group: check gate.group (a Kafka Connect sink's is connect-<name of the connector>), and that the sink has run")
	}
	wanted := g.AssignedPartitions()
	wanted.Merge(g.TargetPartitions())
	for _, topic := range g.SubscribedTopics() {
		wanted.Add(topic)
	}
	return wanted, len(g.Members), nil
}

// What keeps this login from following a group.
var (
	ErrGroupDenied       = errors.New("this login may not look at it: grant DESCRIBE on the group")
	ErrGroupTopicsDenied = errors.New("this login may not look at it: grant DESCRIBE and READ on the topics that the group reads")
)

func explainGroup(err error) error {
	var auth *kadm.AuthError
	if errors.As(err, &auth) || errors.Is(err, kerr.GroupAuthorizationFailed) {
		return fmt.Errorf("%w: %w", ErrGroupDenied, kerr.GroupAuthorizationFailed)
	}
	return err
}

func explainRead(err error) error {
	if errors.Is(err, kerr.TopicAuthorizationFailed) {
		return fmt.Errorf("%w: %w", ErrGroupTopicsDenied, kerr.TopicAuthorizationFailed)
	}
	return err
}
