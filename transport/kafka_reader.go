package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/trickle-verify/trickle/telemetry/pulse"
)

const (
	sessionTimeout = 10 * time.Second // how long the partitions of a member that was killed wait for another one
	leaveTimeout   = 3 * time.Second
	// Members learn of a rebalance with their next heartbeat, and nothing in it moves before all of them have.
	heartbeatInterval = time.Second
)

// kafkaReader is a member of a group, or a tail.
//
// A rebalance never waits for the caller, who may hold records for minutes: it is held up only while Fetch takes note of what it was
// given. A partition that moves on meanwhile is left out of the next commit; its records come to the new member again. Parts of a
// message that is not complete hold the commit at the first of them, so that a restart sees the whole message.
type kafkaReader struct {
	bus    *Kafka
	client *kgo.Client
	group  string // empty for a tail

	mu        sync.Mutex
	parts     assembler
	next      map[partition]kgo.EpochOffset // behind the last record that was fetched
	committed map[partition]int64
	closed    bool
}

// Group joins a consumer group with cooperative-sticky balancing.
func (k *Kafka) Group(ctx context.Context, group string, topics ...string) (Reader, error) {
	for _, topic := range topics {
		if err := k.existing(ctx, topic); err != nil {
			return nil, err
		}
	}
	r := k.newReader(group)
	lost := func(_ context.Context, _ *kgo.Client, lost map[string][]int32) { r.lose(lost) }
	return k.open(r, append(membership(group, topics...),
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsRevoked(lost),
		kgo.OnPartitionsLost(lost),
	)...)
}

// membership is how every member takes part in a group.
func membership(group string, topics ...string) []kgo.Opt {
	return []kgo.Opt{
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topics...),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.DisableAutoCommit(),
		kgo.SessionTimeout(sessionTimeout),
		kgo.HeartbeatInterval(heartbeatInterval),
		kgo.RebalanceTimeout(sessionTimeout), // nobody needs longer, as no caller holds a rebalance up; it also bounds the wait for a lost answer
	}
}

// Tail reads the partitions that the topic has now, from their present ends on.
func (k *Kafka) Tail(ctx context.Context, topic string) (Reader, error) {
	_, ends, err := k.bounds(ctx, topic)
	if err != nil {
		return nil, err
	}
	from := map[int32]kgo.Offset{}
	for id, end := range ends {
		from[id] = kgo.NewOffset().At(end)
	}
	return k.open(k.newReader(""), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}))
}

// TailSince is Tail from what the topic took at a time on; for the zero time from now on.
func (k *Kafka) TailSince(ctx context.Context, topic string, since time.Time) (Reader, error) {
	if since.IsZero() {
		return k.Tail(ctx, topic)
	}
	if err := k.existing(ctx, topic); err != nil {
		return nil, err
	}
	from := map[int32]kgo.Offset{}
	err := k.patient(ctx, func() error {
		listed, err := k.admin.ListOffsetsAfterMilli(ctx, since.UnixMilli(), topic)
		if err == nil {
			err = listed.Error()
		}
		for id, o := range listed[topic] {
			from[id] = kgo.NewOffset().At(o.Offset)
		}
		return err
	})
	if err != nil {
		return nil, k.explain(err, topic, Read)
	}
	return k.open(k.newReader(""), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}))
}

// bounds returns the first offset and the high watermark of each partition.
func (k *Kafka) bounds(ctx context.Context, topic string) (starts, ends map[int32]int64, err error) {
	if err := k.existing(ctx, topic); err != nil {
		return nil, nil, err
	}
	list := func(ask func(context.Context, ...string) (kadm.ListedOffsets, error)) (map[int32]int64, error) {
		out := map[int32]int64{}
		err := k.patient(ctx, func() error {
			listed, err := ask(ctx, topic)
			if err == nil {
				err = listed.Error()
			}
			for id, o := range listed[topic] {
				out[id] = o.Offset
			}
			return err
		})
		return out, explain(err, topic)
	}
	if starts, err = list(k.admin.ListStartOffsets); err != nil {
		return nil, nil, err
	}
	ends, err = list(k.admin.ListEndOffsets)
	return starts, ends, err
}

func (k *Kafka) newReader(group string) *kafkaReader {
	return &kafkaReader{bus: k, group: group, next: map[partition]kgo.EpochOffset{}, committed: map[partition]int64{}}
}

func (k *Kafka) open(r *kafkaReader, opts ...kgo.Opt) (Reader, error) {
	client, err := k.newClient(append(opts,
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), // seen again is harmless, never seen is not
		kgo.FetchMaxWait(500*time.Millisecond),
	)...)
	if err != nil {
		return nil, fmt.Errorf("opening a Kafka reader: %w", err)
	}
	r.client = client
	if !k.watch(r) {
		return nil, errors.Join(ErrClosed, r.Close())
	}
	return r, nil
}

// watch sees to it that Close closes c too; false when it has been closed already.
func (k *Kafka) watch(c io.Closer) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.closed {
		k.readers[c] = struct{}{}
	}
	return !k.closed
}

// leave leaves a group, or gives up on that when no broker answers soon.
func (k *Kafka) leave(client *kgo.Client, group string) {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	if err := client.LeaveGroupContext(ctx); err != nil {
		k.options.Logger.Debug("leaving a group failed; the broker notices by itself", "group", group, "err", err)
	}
	client.CloseAllowingRebalance()
}

// forget is the end of watch.
func (k *Kafka) forget(c io.Closer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.readers, c)
}

// Fetch waits for whole records.
func (r *kafkaReader) Fetch(ctx context.Context) ([]Record, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		pulse.Beat(ctx)
		fetches := r.poll(ctx)
		out := r.take(fetches)
		r.client.AllowRebalance()
		if len(out) > 0 {
			return out, nil // an error that came with them comes again
		}
		if fetches.IsClientClosed() {
			return nil, ErrClosed
		}
		for _, e := range fetches.Errors() {
			if errors.Is(e.Err, context.DeadlineExceeded) && ctx.Err() == nil {
				continue // nothing came
			}
			if err := r.bus.judge(ctx, r.group, e); err != nil {
				return nil, err
			}
		}
	}
}

// pollFor is how long a reader waits for records before it shows that it is alive.
const pollFor = 10 * time.Second

func (r *kafkaReader) poll(ctx context.Context) kgo.Fetches {
	bound, cancel := context.WithTimeout(ctx, pollFor)
	defer cancel()
	return r.client.PollRecords(bound, fetchRecords)
}

// judge returns the errors that waiting does not cure.
func (k *Kafka) judge(ctx context.Context, group string, e kgo.FetchError) error {
	var loss *kgo.ErrDataLoss
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(e.Err, &loss):
		k.options.Logger.Warn("the broker lost records; reading on", "topic", loss.Topic, "partition", loss.Partition,
			"from", loss.ConsumedTo, "to", loss.ResetTo)
		return nil
	case errors.Is(e.Err, kerr.GroupAuthorizationFailed):
		return k.noGroup(group, e.Err)
	case errors.Is(e.Err, kerr.TopicAuthorizationFailed):
		return k.explain(e.Err, e.Topic, Read)
	case errors.Is(e.Err, kerr.SaslAuthenticationFailed):
		return fmt.Errorf("Kafka refuses the login: %w; check TRICKLE_KAFKA_SASL_USER and its password", e.Err)
	default:
		k.options.Logger.Debug("reading goes on after an error", "topic", e.Topic, "partition", e.Partition, "err", e.Err)
		return nil
	}
}

// take notes what was fetched and returns what is whole.
func (r *kafkaReader) take(fetches kgo.Fetches) []Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Record
	fetches.EachRecord(func(raw *kgo.Record) {
		r.next[partition{raw.Topic, raw.Partition}] = kgo.EpochOffset{Epoch: raw.LeaderEpoch, Offset: raw.Offset + 1}
		if whole, ok := r.parts.add(fromKafka(raw)); ok {
			out = append(out, whole)
		}
	})
	return out
}

// lose forgets partitions that went to another member.
func (r *kafkaReader) lose(lost map[string][]int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for topic, ids := range lost {
		for _, id := range ids {
			at := partition{topic, id}
			r.parts.forget(at)
			delete(r.next, at)
			delete(r.committed, at)
		}
	}
}

// due returns what a commit would say, by topic.
func (r *kafkaReader) due() map[string]map[int32]kgo.EpochOffset {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]map[int32]kgo.EpochOffset{}
	for at, next := range r.next {
		next.Offset = r.parts.floor(at, next.Offset)
		if before, ok := r.committed[at]; ok && next.Offset <= before {
			continue
		}
		if out[at.topic] == nil {
			out[at.topic] = map[int32]kgo.EpochOffset{}
		}
		out[at.topic][at.id] = next
	}
	return out
}

// Commit stores the positions, waiting for the broker until the context ends. Partitions that this member lost meanwhile are not an
// error: whoever has them now gets their records again.
func (r *kafkaReader) Commit(ctx context.Context) error {
	if r.group == "" {
		return nil
	}
	err := r.bus.patient(ctx, func() error {
		due := r.due()
		if len(due) == 0 {
			return nil
		}
		var failed error
		r.client.CommitOffsetsSync(ctx, due, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, answer *kmsg.OffsetCommitResponse, err error) {
			if failed = err; err == nil {
				failed = r.committedAs(due, answer)
			}
		})
		return failed
	})
	switch {
	case errors.Is(err, kerr.IllegalGeneration), errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.FencedInstanceID),
		errors.Is(err, kerr.StaleMemberEpoch), errors.Is(err, kerr.RebalanceInProgress):
		r.bus.options.Logger.Debug("partitions were lost before they were committed", "group", r.group, "err", err)
		return nil
	case errors.Is(err, kerr.GroupAuthorizationFailed):
		return r.bus.noGroup(r.group, err)
	case err != nil && ctx.Err() == nil && !errors.Is(err, ErrClosed):
		return fmt.Errorf("committing in group %s: %w", r.group, err)
	}
	return err
}

// committedAs notes which partitions the broker committed and returns the first error of the others.
func (r *kafkaReader) committedAs(due map[string]map[int32]kgo.EpochOffset, answer *kmsg.OffsetCommitResponse) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var first error
	for _, topic := range answer.Topics {
		for _, p := range topic.Partitions {
			at := partition{topic.Topic, p.Partition}
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				if first == nil {
					first = err
				}
			} else if _, owned := r.next[at]; owned {
				r.committed[at] = due[at.topic][at.id].Offset
			}
		}
	}
	return first
}

// Close leaves the group, or gives up on that when no broker answers soon.
func (r *kafkaReader) Close() error {
	r.mu.Lock()
	closed := r.closed
	r.closed = true
	r.mu.Unlock()
	if closed {
		return nil
	}
	r.client.AllowRebalance()
	r.bus.leave(r.client, r.group)
	r.bus.forget(r)
	return nil
}
