package transport_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/trickle-verify/trickle/transport"
)

// sinkOf is a group with one member, which reads the topics, and whose commits are the test's.
type sinkOf struct {
	t       *testing.T
	cluster *kfake.Cluster
	bus     *transport.Kafka
	admin   *kadm.Client
	follow  *transport.Follower
	member  *kgo.Client // nil: it has none
}

var written = time.Now().Add(-time.Minute).UnixMilli() // when records are; not so long ago that they expire

func newSink(ctx context.Context, t *testing.T, opts []kgo.Opt, topics ...transport.TopicSpec) *sinkOf {
	t.Helper()
	cluster := newCluster(t)
	s := &sinkOf{t: t, cluster: cluster, bus: newKafka(t, cluster.ListenAddrs())}
	ensure(ctx, t, s.bus, topics...)
	names := make([]string, len(topics))
	for i, topic := range topics {
		names[i] = topic.Name
	}
	client := func(opts ...kgo.Opt) *kgo.Client {
		cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(cluster.ListenAddrs()...))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return cl
	}
	s.admin = kadm.NewClient(client())
	s.follow = s.bus.Follow()
	if opts != nil {
		s.member = client(append(opts, kgo.ConsumerGroup("sink"), kgo.ConsumeTopics(names...), kgo.DisableAutoCommit())...)
		polling, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for polling.Err() == nil {
				s.member.PollFetches(polling)
			}
		}()
		t.Cleanup(func() { cancel(); <-done })
	}
	return s
}

// produce appends records, the nth of them written n seconds after the first. Options make it a transaction, which the test ends.
func (s *sinkOf) produce(ctx context.Context, topic string, n int, opts ...kgo.Opt) *kgo.Client {
	s.t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(s.cluster.ListenAddrs()...), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(cl.Close)
	if len(opts) > 0 {
		if err := cl.BeginTransaction(); err != nil {
			s.t.Fatal(err)
		}
	}
	for i := range n {
		r := &kgo.Record{Key: []byte("k"), Value: fmt.Append(nil, i), Timestamp: time.UnixMilli(written).Add(time.Duration(i) * time.Second)}
		if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
			s.t.Fatal(err)
		}
	}
	return cl
}

func (s *sinkOf) commit(ctx context.Context, topic string, offset int64) {
	s.t.Helper()
	if s.member != nil {
		var failed error
		s.member.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{topic: {0: {Epoch: -1, Offset: offset}}},
			func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, answer *kmsg.OffsetCommitResponse, err error) {
				if failed = err; err == nil {
					failed = kerr.ErrorForCode(answer.Topics[0].Partitions[0].ErrorCode)
				}
			})
		if failed != nil {
			s.t.Fatal(failed)
		}
		return
	}
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: topic, At: offset, LeaderEpoch: -1})
	if err := s.admin.CommitAllOffsets(ctx, "sink", offsets); err != nil {
		s.t.Fatal(err)
	}
}

// progress waits until the group has come to rest.
func (s *sinkOf) progress(ctx context.Context) (transport.Progress, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		p, err := s.follow.Progress(ctx, "sink")
		if settled := s.member == nil || p.Members > 0 || err != nil && strings.Contains(err.Error(), "grant") || err != nil && strings.Contains(err.Error(), "of a[0]"); settled {
			return p, err
		}
		select {
		case <-ctx.Done():
			return p, err
		case <-tick.C:
		}
	}
}

func end(how kgo.TransactionEndTry) func(context.Context, *testing.T, *kgo.Client) {
	return func(ctx context.Context, t *testing.T, cl *kgo.Client) {
		t.Helper()
		if err := cl.EndTransaction(ctx, how); err != nil {
			t.Fatal(err)
		}
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return time.UnixMilli(written).Add(time.Duration(s) * time.Second) }
	transactional := kgo.TransactionalID("t")
	for name, c := range map[string]struct {
		prepare func(ctx context.Context, s *sinkOf)
		end     int64
		done    int64
		since   time.Time
	}{
		"nothing was ever written": {func(context.Context, *sinkOf) {}, 0, 0, time.Time{}},
		"all is committed": {func(ctx context.Context, s *sinkOf) {
			s.produce(ctx, "a", 5)
			s.commit(ctx, "a", 5)
		}, 5, 5, time.Time{}},
		"two are left": {func(ctx context.Context, s *sinkOf) {
			s.produce(ctx, "a", 5)
			s.commit(ctx, "a", 3)
		}, 5, 3, at(3)},
		"a marker is no record": {func(ctx context.Context, s *sinkOf) {
			end(kgo.TryCommit)(ctx, s.t, s.produce(ctx, "a", 2, transactional))
			s.commit(ctx, "a", 2)
		}, 3, 3, time.Time{}},
		"a record behind the marker": {func(ctx context.Context, s *sinkOf) {
			end(kgo.TryCommit)(ctx, s.t, s.produce(ctx, "a", 2, transactional))
			s.commit(ctx, "a", 2)
			s.produce(ctx, "a", 1)
		}, 4, 3, at(0)},
		"what was aborted never comes": {func(ctx context.Context, s *sinkOf) {
			s.produce(ctx, "a", 2)
			end(kgo.TryAbort)(ctx, s.t, s.produce(ctx, "a", 3, transactional))
			s.commit(ctx, "a", 2)
		}, 6, 6, time.Time{}},
		"a transaction is still open": {func(ctx context.Context, s *sinkOf) {
			s.produce(ctx, "a", 2)
			s.produce(ctx, "a", 3, transactional)
			s.commit(ctx, "a", 2)
		}, 5, 2, time.Time{}},
		"compacted away between": {func(ctx context.Context, s *sinkOf) {
			s.produce(ctx, "a", 9)
			s.commit(ctx, "a", 3)
			s.cluster.Compact()
		}, 9, 7, at(7)}, // the last record is in a segment of its own, which is left alone
		"expired before it was read": {func(ctx context.Context, s *sinkOf) {
			s.produce(ctx, "a", 9)
			s.commit(ctx, "a", 3)
			if err := s.cluster.DeleteRecords("a", 0, 7); err != nil {
				s.t.Fatal(err)
			}
		}, 9, 7, at(7)},
		"all expired": {func(ctx context.Context, s *sinkOf) {
			s.produce(ctx, "a", 9)
			s.commit(ctx, "a", 3)
			if err := s.cluster.DeleteRecords("a", 0, 9); err != nil {
				s.t.Fatal(err)
			}
		}, 9, 9, time.Time{}},
		"expired, and never committed": {func(ctx context.Context, s *sinkOf) {
			s.produce(ctx, "a", 9)
			if err := s.cluster.DeleteRecords("a", 0, 9); err != nil {
				s.t.Fatal(err)
			}
		}, 9, 9, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			s := newSink(ctx, t, []kgo.Opt{}, transport.TopicSpec{Name: "a", Partitions: 1, Compacted: true})
			if _, err := s.progress(ctx); err != nil { // the member is there
				t.Fatal(err)
			}
			c.prepare(ctx, s)
			for range 2 { // the second time it remembers
				p, err := s.progress(ctx)
				if err != nil || p.Members != 1 || len(p.Partitions) != 1 {
					t.Fatalf("%+v, %v", p, err)
				}
				got := p.Partitions[0]
				if got.Topic != "a" || got.Partition != 0 || got.End != c.end || got.Done != c.done || !got.Since.Equal(c.since) {
					t.Errorf("%+v, want end %d, done %d, since %s", got, c.end, c.done, c.since)
				}
			}
		})
	}
}

// What is remembered of a partition holds only as long as nothing was committed beyond it, or set back.
func TestProgressGoesOn(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	s := newSink(ctx, t, []kgo.Opt{}, transport.TopicSpec{Name: "a", Partitions: 1})
	s.produce(ctx, "a", 10)
	for _, c := range []struct{ commit, done int64 }{{2, 2}, {3, 3}, {7, 7}, {4, 4}, {10, 10}, {1, 1}} {
		s.commit(ctx, "a", c.commit)
		p, err := s.progress(ctx)
		if err != nil || p.Partitions[0].Done != c.done {
			t.Errorf("committed %d: %+v, %v", c.commit, p, err)
		}
	}
}

// Whatever keeps the group from being known in full is an error that says so.
func TestProgressThatIsNotKnown(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(ctx context.Context, s *sinkOf)
		member  []kgo.Opt
		want    string
	}{
		"no such group": {func(context.Context, *sinkOf) {}, nil, "there is no such group: check gate.group"},
		"a partition without a commit": {func(ctx context.Context, s *sinkOf) {
			s.produce(ctx, "a", 1)
		}, []kgo.Opt{}, "it has committed nothing of a[0]"},
		"a broker that has yet to hear of the topic": {func(_ context.Context, s *sinkOf) {
			s.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ListOffsets}, Err: kerr.UnknownTopicOrPartition, Count: -1})
		}, []kgo.Opt{}, "knows nothing of a[0]"},
		// What is in it now are other records than the group has read.
		"a topic that was made anew": {func(ctx context.Context, s *sinkOf) {
			s.produce(ctx, "a", 2)
			s.commit(ctx, "a", 3)
		}, []kgo.Opt{}, "beyond the end of a[0]"},
		"no right to the group": {func(_ context.Context, s *sinkOf) {
			s.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeGroups}, Err: kerr.GroupAuthorizationFailed, Count: -1})
		}, []kgo.Opt{}, "grant DESCRIBE on the group"},
		"no right to its offsets": {func(_ context.Context, s *sinkOf) {
			s.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetFetch}, Err: kerr.GroupAuthorizationFailed, Count: -1})
		}, []kgo.Opt{}, "grant DESCRIBE on the group"},
		"no right to the topic": {func(_ context.Context, s *sinkOf) {
			s.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ListOffsets}, Err: kerr.TopicAuthorizationFailed, Count: -1})
		}, []kgo.Opt{}, "grant DESCRIBE and READ on the topics"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			s := newSink(ctx, t, c.member, transport.TopicSpec{Name: "a", Partitions: 1})
			if c.member == nil {
				if _, err := s.follow.Progress(ctx, "sink"); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v", err)
				}
				return
			}
			if _, err := s.progress(ctx); err != nil {
				t.Fatal(err)
			}
			c.prepare(ctx, s)
			if p, err := s.progress(ctx); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %+v, %v", p, err)
			}
		})
	}
}

// A group whose members have gone keeps its commits, and a topic that is no more holds nothing that is left.
func TestProgressOfAGroupWithoutMembers(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	s := newSink(ctx, t, nil, transport.TopicSpec{Name: "a", Partitions: 2}, transport.TopicSpec{Name: "gone", Partitions: 1})
	s.produce(ctx, "a", 4)
	s.commit(ctx, "a", 3)
	s.commit(ctx, "gone", 3)
	if _, err := s.admin.DeleteTopics(ctx, "gone"); err != nil {
		t.Fatal(err)
	}
	p, err := s.progress(ctx)
	if err != nil || p.Members != 0 || len(p.Partitions) != 2 {
		t.Fatalf("%+v, %v", p, err)
	}
	for _, got := range p.Partitions {
		if left := got.End - got.Done; left != map[int32]int64{0: 1, 1: 0}[got.Partition] {
			t.Errorf("%+v", got)
		}
	}
	s.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ListOffsets}, Err: kerr.UnknownTopicOrPartition, Count: -1})
	if p, err := s.progress(ctx); err == nil || !strings.Contains(err.Error(), "none of the topics that it reads exists (a)") {
		t.Errorf("with no topic at all: %+v, %v", p, err)
	}
}

// The broker answers as it does where compaction took everything up to the end: nothing there, and an end further on.
func TestProgressEndsInAGap(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	s := newSink(ctx, t, nil, transport.TopicSpec{Name: "a", Partitions: 1})
	s.produce(ctx, "a", 10)
	s.commit(ctx, "a", 4)
	s.cluster.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		s.cluster.KeepControl()
		asked := req.(*kmsg.FetchRequest).Topics[0]
		answer := req.ResponseKind().(*kmsg.FetchResponse)
		topic, part := kmsg.NewFetchResponseTopic(), kmsg.NewFetchResponseTopicPartition()
		topic.Topic, topic.TopicID, part.HighWatermark, part.LastStableOffset = asked.Topic, asked.TopicID, 10, 10
		topic.Partitions = append(topic.Partitions, part)
		answer.Topics = append(answer.Topics, topic)
		return answer, nil, true
	})
	if p, err := s.progress(ctx); err != nil || p.Partitions[0].Done != 10 {
		t.Errorf("%+v, %v", p, err)
	}
}
