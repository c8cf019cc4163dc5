package transport_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/trickle-verify/trickle/transport"
)

// bare is a client without anything.
func (s *sinkOf) bare() *kgo.Client {
	s.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.cluster.ListenAddrs()...))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(cl.Close)
	return cl
}

// again deletes a topic and makes it anew.
func (s *sinkOf) again(ctx context.Context, topic string) {
	s.t.Helper()
	if _, err := s.admin.DeleteTopics(ctx, topic); err != nil {
		s.t.Fatal(err)
	}
	create(ctx, s.t, s.bare(), topic, nil)
}

func play(ctx context.Context, t *testing.T, bus *transport.Kafka, from transport.Position) *transport.Player {
	t.Helper()
	p, err := bus.Play(ctx, from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, p) })
	return p
}

// offsets reads a partition up to an end.
func offsets(ctx context.Context, t *testing.T, p *transport.Player, at transport.Partition, end int64) []int64 {
	t.Helper()
	var out []int64
	for {
		r, ok, err := p.Next(ctx, at, end)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return out
		}
		out = append(out, r.Offset)
	}
}

func from(topic string, offsets ...int64) transport.Position {
	return transport.Position{{Topic: topic, Offsets: offsets}}
}

func TestPlay(t *testing.T) {
	t.Parallel()
	transactional := kgo.TransactionalID("t")
	for name, c := range map[string]struct {
		prepare func(ctx context.Context, s *sinkOf)
		from    int64
		end     int64 // -1: where the log ends now
		want    []int64
	}{
		"nothing":         {func(context.Context, *sinkOf) {}, 0, -1, nil},
		"all":             {func(ctx context.Context, s *sinkOf) { s.produce(ctx, "a", 4) }, 0, -1, []int64{0, 1, 2, 3}},
		"from the middle": {func(ctx context.Context, s *sinkOf) { s.produce(ctx, "a", 4) }, 2, -1, []int64{2, 3}},
		"up to an end":    {func(ctx context.Context, s *sinkOf) { s.produce(ctx, "a", 4) }, 1, 3, []int64{1, 2}},
		"from the end":    {func(ctx context.Context, s *sinkOf) { s.produce(ctx, "a", 4) }, 4, -1, nil},
		"a marker at the end": {func(ctx context.Context, s *sinkOf) {
			end(kgo.TryCommit)(ctx, s.t, s.produce(ctx, "a", 2, transactional))
		}, 0, -1, []int64{0, 1}},
		"aborted at the end": {func(ctx context.Context, s *sinkOf) {
			s.produce(ctx, "a", 2)
			end(kgo.TryAbort)(ctx, s.t, s.produce(ctx, "a", 3, transactional))
		}, 0, -1, []int64{0, 1}},
		"aborted between": {func(ctx context.Context, s *sinkOf) {
			s.produce(ctx, "a", 1)
			end(kgo.TryAbort)(ctx, s.t, s.produce(ctx, "a", 3, transactional))
			s.produce(ctx, "a", 1)
		}, 0, -1, []int64{0, 5}},
		"compacted": {func(ctx context.Context, s *sinkOf) {
			send(ctx, s.t, s.bus, "a", "first") // it stays, as the only one of its key
			s.produce(ctx, "a", 8)
			s.cluster.Compact()
		}, 2, -1, []int64{7, 8}},
		"compacted behind the end": {func(ctx context.Context, s *sinkOf) {
			send(ctx, s.t, s.bus, "a", "first") // it stays, as the only one of its key
			s.produce(ctx, "a", 8)
			s.cluster.Compact()
		}, 2, 6, nil},
		"an open transaction does not hold what is before it": {func(ctx context.Context, s *sinkOf) {
			s.produce(ctx, "a", 2)
			s.produce(ctx, "a", 3, transactional)
		}, 0, -1, []int64{0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			s := newSink(ctx, t, nil, transport.TopicSpec{Name: "a", Partitions: 1, Compacted: true})
			c.prepare(ctx, s)
			p := play(ctx, t, s.bus, from("a", c.from))
			if c.end < 0 {
				ends, err := p.Ends(ctx)
				if err != nil {
					t.Fatal(err)
				}
				c.end = ends[0].Offsets[0]
			}
			if got := offsets(ctx, t, p, transport.Partition{Topic: "a"}, c.end); !slices.Equal(got, c.want) {
				t.Errorf("got %v up to %d", got, c.end)
			}
		})
	}
}

// What deletes a key is not what sets it to nothing; headers, key and time come along.
func TestPlayGivesRecordsAsTheyAre(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	s := newSink(ctx, t, nil, transport.TopicSpec{Name: "a", Partitions: 1})
	at := time.UnixMilli(written)
	for _, r := range []*kgo.Record{
		{Topic: "a", Key: []byte("k"), Timestamp: at, Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("v")}}},
		{Topic: "a", Key: []byte("k"), Value: []byte{}},
		{Topic: "a", Value: []byte("x")},
	} {
		if err := s.bare().ProduceSync(ctx, r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	p := play(ctx, t, s.bus, from("a", 0))
	var got []transport.Record
	for range 3 {
		r, ok, err := p.Next(ctx, transport.Partition{Topic: "a"}, 3)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		got = append(got, r)
	}
	if r := got[0]; r.Value != nil || string(r.Key) != "k" || r.Headers["h"] != "v" || !r.At.Equal(at) {
		t.Errorf("what deletes: %+v", r)
	}
	if r := got[1]; r.Value == nil || len(r.Value) != 0 || r.Offset != 1 {
		t.Errorf("nothing: %+v", r)
	}
	if r := got[2]; r.Key != nil || string(r.Value) != "x" {
		t.Errorf("without a key: %+v", r)
	}
}

// An end beyond what has been committed is waited for.
func TestPlayWaitsForATransaction(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	s := newSink(ctx, t, nil, transport.TopicSpec{Name: "a", Partitions: 1})
	open := s.produce(ctx, "a", 2, kgo.TransactionalID("t"))
	p := play(ctx, t, s.bus, from("a", 0))
	looked := make(chan struct{}, 1)
	s.cluster.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
		s.cluster.KeepControl()
		select {
		case looked <- struct{}{}:
		default:
		}
		return nil, nil, false
	})
	got := make(chan []int64, 1)
	go func() { got <- offsets(ctx, t, p, transport.Partition{Topic: "a"}, 2) }()
	<-looked
	<-looked // so the first look has come to nothing
	end(kgo.TryCommit)(ctx, t, open)
	if g := <-got; !slices.Equal(g, []int64{0, 1}) {
		t.Errorf("got %v", g)
	}
}

// Partitions and topics that come later are read from their beginning, and rounds go on where the last one ended.
func TestPlayTakesUpWhatComesLater(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	s := newSink(ctx, t, nil, transport.TopicSpec{Name: "a", Partitions: 1})
	s.produce(ctx, "a", 2)
	p := play(ctx, t, s.bus, transport.Position{{Topic: "a", Offsets: []int64{1}}, {Topic: "b"}})
	if got := p.Partitions(); !slices.Equal(got, []transport.Partition{{Topic: "a"}}) {
		t.Errorf("at first: %v", got)
	}
	round := func() string {
		t.Helper()
		ends, err := p.Ends(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, at := range p.Partitions() {
			end, _ := ends.Of(at.Topic)
			out = append(out, fmt.Sprint(at, offsets(ctx, t, p, at, end.Offsets[at.ID])))
		}
		return strings.Join(out, " ")
	}
	if got := round(); got != "a[0] [1]" {
		t.Error(got)
	}
	create(ctx, t, s.bare(), "b", nil)
	if _, err := s.admin.CreatePartitions(ctx, 1, "a"); err != nil {
		t.Fatal(err)
	}
	s.produce(ctx, "b", 2)
	s.produce(ctx, "a", 1)
	if err := s.bus.SendTo(ctx, 1, transport.Record{Topic: "a"}); err != nil {
		t.Fatal(err)
	}
	if got := round(); got != "a[0] [2] a[1] [0] b[0] [0 1]" {
		t.Error(got)
	}
	s.produce(ctx, "b", 1)
	if got := round(); got != "a[0] [] a[1] [] b[0] [2]" {
		t.Error(got)
	}
}

// Whatever becomes of a log meanwhile, nothing is skipped.
func TestPlayNeverSkips(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		happens func(ctx context.Context, s *sinkOf)
		want    string
	}{
		"expired": {func(_ context.Context, s *sinkOf) {
			if err := s.cluster.DeleteRecords("a", 0, 7); err != nil {
				s.t.Fatal(err)
			}
		}, "a[0] can't be read on from offset 4: what was there has expired, the oldest that is left is 7"},
		"deleted": {func(ctx context.Context, s *sinkOf) {
			if _, err := s.admin.DeleteTopics(ctx, "a"); err != nil {
				s.t.Fatal(err)
			}
		}, "a[0] can't be read on from offset 4: the topic does not exist any more"},
		"made again": {func(ctx context.Context, s *sinkOf) {
			s.again(ctx, "a")
			s.produce(ctx, "a", 9)
		}, "a[0] can't be read on from offset 4: the topic was deleted and made again"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			s := newSink(ctx, t, nil, transport.TopicSpec{Name: "a", Partitions: 1})
			s.produce(ctx, "a", 4)
			p := play(ctx, t, s.bus, from("a", 0))
			at := transport.Partition{Topic: "a"}
			if got := offsets(ctx, t, p, at, 4); len(got) != 4 {
				t.Fatalf("got %v", got)
			}
			// The look ahead of what is given out has to be over: it finds nothing, and the next one is asked for.
			if _, ok, err := p.Next(ctx, at, 4); ok || err != nil {
				t.Fatal(ok, err)
			}
			idle(ctx, t, s, p)
			s.produce(ctx, "a", 5)
			c.happens(ctx, s)
			for range 2 { // it stays so
				_, ok, err := p.Next(ctx, at, 9)
				if ok || !errors.Is(err, transport.ErrLost) || err.Error() != c.want {
					t.Errorf("got %t, %v", ok, err)
				}
			}
		})
	}
}

// idle returns once the player has looked behind everything that is there: it is held in Next, which ends with the context.
func idle(ctx context.Context, t *testing.T, s *sinkOf, p *transport.Player) {
	t.Helper()
	bounded, cancel := context.WithCancel(ctx)
	defer cancel()
	looks := make(chan struct{})
	s.cluster.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
		s.cluster.KeepControl()
		select {
		case looks <- struct{}{}:
		case <-bounded.Done():
		}
		return nil, nil, false
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, ok, err := p.Next(bounded, transport.Partition{Topic: "a"}, 5); ok || err == nil {
			t.Error(ok, err)
		}
	}()
	<-looks
	<-looks
	cancel()
	<-done
}

func TestPlayRefusesAPositionThatIsNotHeld(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	s := newSink(ctx, t, nil, transport.TopicSpec{Name: "a", Partitions: 1})
	s.produce(ctx, "a", 4)
	if _, err := s.bus.Play(ctx, from("a", 5)); !errors.Is(err, transport.ErrLost) {
		t.Errorf("beyond the end: %v", err)
	}
	if _, err := s.bus.Play(ctx, transport.Position{{Topic: "a", ID: "AAAAAAAAAAAAAAAAAAAAAQ==", Offsets: []int64{0}}}); !errors.Is(err, transport.ErrLost) {
		t.Errorf("another topic: %v", err)
	}
}

// A broker that does not answer for a while holds the player up and no more; a right that is missing is told.
func TestPlayThroughFaults(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	s := newSink(ctx, t, nil, transport.TopicSpec{Name: "a", Partitions: 1})
	s.produce(ctx, "a", 4)
	s.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.NotLeaderForPartition, Count: 3})
	p := play(ctx, t, s.bus, from("a", 0))
	if got := offsets(ctx, t, p, transport.Partition{Topic: "a"}, 4); len(got) != 4 {
		t.Errorf("got %v", got)
	}
	if _, _, err := p.Next(ctx, transport.Partition{Topic: "b"}, 4); err == nil {
		t.Error("of a topic that is not read")
	}
	closed(t, p)
	if _, _, err := p.Next(ctx, transport.Partition{Topic: "a"}, 5); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("once it is closed: %v", err)
	}
	bus, _ := limited(t, []string{"a"}, topicACL("a", kmsg.ACLOperationDescribe))
	p = play(ctx, t, bus, from("a", 0))
	var rights *transport.RightsError
	if _, _, err := p.Next(ctx, transport.Partition{Topic: "a"}, 1); !errors.As(err, &rights) || !strings.Contains(err.Error(), "--operation Read --topic a") {
		t.Errorf("got %v", err)
	}
}
