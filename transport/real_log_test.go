package transport_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/trickle-verify/trickle/internal/testbed/kafka"
	"github.com/trickle-verify/trickle/transport"
)

// realLogs is a broker of Kafka's own that soon rolls, cleans and expires what it has.
type realLogs struct {
	t     *testing.T
	bus   *transport.Kafka
	admin *kadm.Client
	addr  string
}

func newRealLogs(ctx context.Context, t *testing.T) *realLogs {
	t.Helper()
	broker, err := kafka.Start(ctx, kafka.Options{Properties: map[string]string{
		"log.retention.check.interval.ms": "200", "log.cleaner.backoff.ms": "200", "log.initial.task.delay.ms": "100", "file.delete.delay.ms": "100",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := broker.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	r := &realLogs{t: t, bus: newKafka(t, []string{broker.Addr()}), addr: broker.Addr()}
	r.admin = kadm.NewClient(r.client())
	return r
}

func (r *realLogs) client(opts ...kgo.Opt) *kgo.Client {
	r.t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(r.addr))...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(cl.Close)
	return cl
}

// fill appends n records of about a kibibyte, each with a key of its own unless they are to share one.
func (r *realLogs) fill(ctx context.Context, topic, key string, n int) {
	r.t.Helper()
	padding := strings.Repeat("x", 1000)
	cl := r.client(kgo.ProducerBatchCompression(kgo.NoCompression()))
	for i := range n {
		record := &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(padding)}
		if key == "" {
			record.Key = fmt.Append(nil, i)
		}
		if err := cl.ProduceSync(ctx, record).FirstErr(); err != nil {
			r.t.Fatal(err)
		}
	}
}

// until polls.
func until(ctx context.Context, t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatal("never: " + what)
		case <-tick.C:
		}
	}
}

// What real brokers make of topics: expired, cleaned, deleted, made again, with what was aborted at the end.
func TestRealLogs(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	r := newRealLogs(ctx, t)
	t.Run("old segments expire", func(t *testing.T) {
		t.Parallel()
		create(ctx, t, r.client(), "expiring", map[string]string{"segment.bytes": "1048576", "retention.bytes": "1048576"})
		r.fill(ctx, "expiring", "", 5)
		p := play(ctx, t, r.bus, from("expiring", 0))
		at := transport.Partition{Topic: "expiring"}
		if got := offsets(ctx, t, p, at, 5); len(got) != 5 {
			t.Fatalf("got %v", got)
		}
		r.fill(ctx, "expiring", "", 3000)
		until(ctx, t, "expired", func() bool { return logsOf(ctx, t, r.bus, "expiring")[0].Partitions[0].Start > 5 })
		var err error
		for ok := true; ok; { // what it has fetched ahead is still right
			_, ok, err = p.Next(ctx, at, 3000)
		}
		if err != nil && !errors.Is(err, transport.ErrLost) || err == nil {
			t.Errorf("got %v", err)
		}
		if err := from("expiring", 5).Held(logsOf(ctx, t, r.bus, "expiring")); !errors.Is(err, transport.ErrLost) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("records are deleted", func(t *testing.T) {
		t.Parallel()
		create(ctx, t, r.client(), "deleted", nil)
		r.fill(ctx, "deleted", "", 5)
		var to kadm.Offsets
		to.Add(kadm.Offset{Topic: "deleted", At: 5})
		if _, err := r.admin.DeleteRecords(ctx, to); err != nil {
			t.Fatal(err)
		}
		if l := logsOf(ctx, t, r.bus, "deleted")[0]; l.Partitions[0] != (transport.Extent{Start: 5, End: 5}) {
			t.Errorf("got %+v", l)
		}
		if got := offsets(ctx, t, play(ctx, t, r.bus, from("deleted", 5)), transport.Partition{Topic: "deleted"}, 5); len(got) != 0 {
			t.Errorf("got %v", got)
		}
		if _, err := r.bus.Play(ctx, from("deleted", 4)); !errors.Is(err, transport.ErrLost) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("compacted, and the last transaction aborted", func(t *testing.T) {
		t.Parallel()
		create(ctx, t, r.client(), "compacted", map[string]string{"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01"})
		r.fill(ctx, "compacted", "k", 50)
		txn := r.client(kgo.TransactionalID("t"), kgo.DefaultProduceTopic("compacted"))
		if err := txn.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := txn.ProduceSync(ctx, &kgo.Record{Key: []byte("aborted")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		var got []int64
		until(ctx, t, "compacted", func() bool {
			p := play(ctx, t, r.bus, from("compacted", 0))
			ends, err := p.Ends(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if ends[0].Offsets[0] != 50 {
				t.Fatalf("an open transaction is before the end: %v", ends)
			}
			got = offsets(ctx, t, p, transport.Partition{Topic: "compacted"}, ends[0].Offsets[0])
			closed(t, p)
			return len(got) < 50
		})
		if last := got[len(got)-1]; last != 49 {
			t.Errorf("got %v", got)
		}
		end(kgo.TryAbort)(ctx, t, txn)
		p := play(ctx, t, r.bus, from("compacted", 0))
		until(ctx, t, "the transaction's end in the log", func() bool {
			ends, err := p.Ends(ctx)
			return err == nil && ends[0].Offsets[0] == 52
		})
		if got := offsets(ctx, t, p, transport.Partition{Topic: "compacted"}, 52); got[len(got)-1] != 49 {
			t.Errorf("got %v", got)
		}
		if at, err := r.bus.WrittenAt(ctx, "compacted", 0, 3); err != nil || at.IsZero() {
			t.Error(at, err)
		}
		if at, err := r.bus.WrittenAt(ctx, "compacted", 0, 50); err != nil || !at.IsZero() {
			t.Error(at, err)
		}
	})
	t.Run("made again", func(t *testing.T) {
		t.Parallel()
		create(ctx, t, r.client(), "again", nil)
		r.fill(ctx, "again", "", 3)
		was := transport.Ends(logsOf(ctx, t, r.bus, "again"))
		p := play(ctx, t, r.bus, from("again", 0))
		at := transport.Partition{Topic: "again"}
		if got := offsets(ctx, t, p, at, 3); len(got) != 3 {
			t.Fatalf("got %v", got)
		}
		if err := r.bus.ResetGroup(ctx, "sink-of-again", was); err != nil {
			t.Fatal(err)
		}
		if _, err := r.admin.DeleteTopics(ctx, "again"); err != nil {
			t.Fatal(err)
		}
		until(ctx, t, "deleted", func() bool { return len(logsOf(ctx, t, r.bus, "again")[0].Partitions) == 0 })
		create(ctx, t, r.client(), "again", nil)
		r.fill(ctx, "again", "", 9)
		if err := was.Held(logsOf(ctx, t, r.bus, "again")); !errors.Is(err, transport.ErrLost) || !strings.Contains(err.Error(), "made again") {
			t.Errorf("got %v", err)
		}
		if _, _, err := p.Next(ctx, at, 9); !errors.Is(err, transport.ErrLost) {
			t.Errorf("got %v", err)
		}
		// So what a group has committed in a topic is of the one that is there now.
		if got := committed(ctx, t, r.bus, "sink-of-again", "again"); !slices.Equal(got, []int64{-1}) {
			t.Errorf("the offsets of a topic that is no more: %v", got)
		}
	})
	for name, opts := range map[string][]kgo.Opt{"classic": nil, "newer": {kgo.ServerSideBalancer()}} {
		t.Run("a group with a member, "+name, func(t *testing.T) {
			t.Parallel()
			topic, group := "read-"+name, "sink-"+name
			create(ctx, t, r.client(), topic, nil)
			r.fill(ctx, topic, "", 3)
			if err := r.bus.ResetGroup(ctx, group, from(topic, 1)); err != nil {
				t.Fatal(err)
			}
			member := r.client(append(opts, kgo.ClientID("the-sink"), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit())...)
			if got := member.PollFetches(ctx).Records(); len(got) == 0 || got[0].Offset != 1 {
				t.Errorf("it begins with %v", got)
			}
			for what, err := range map[string]error{"reset": r.bus.ResetGroup(ctx, group, from(topic, 2)), "commit": r.bus.CommitFor(ctx, group, from(topic, 2))} {
				var has *transport.MembersError
				if !errors.As(err, &has) || !strings.Contains(err.Error(), "the-sink at 127.0.0.1") {
					t.Errorf("%s: %v", what, err)
				}
			}
			member.LeaveGroup()
			until(ctx, t, "left", func() bool { return r.bus.ResetGroup(ctx, group, from(topic, 2)) == nil })
			if got := committed(ctx, t, r.bus, group, topic); !slices.Equal(got, []int64{2}) {
				t.Errorf("got %v", got)
			}
		})
	}
}
