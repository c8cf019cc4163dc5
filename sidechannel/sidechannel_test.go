package sidechannel_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/sidechannel"
	"github.com/trickle-verify/trickle/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var topics = message.Topics{Pipeline: "shop"}

// handler is a function that answers.
type handler func(ctx context.Context, env *tricklepb.Envelope) *tricklepb.Envelope

func (h handler) Answer(ctx context.Context, env *tricklepb.Envelope) *tricklepb.Envelope {
	return h(ctx, env)
}

// echo answers a boundaries request with the table's name as a key.
func echo(_ context.Context, env *tricklepb.Envelope) *tricklepb.Envelope {
	return &tricklepb.Envelope{Table: env.GetTable(), Body: &tricklepb.Envelope_BoundariesReply{BoundariesReply: &tricklepb.BoundariesReply{
		Keys: []*tricklepb.Key{{Values: []string{env.GetTable()}}},
	}}}
}

func question(table string) *tricklepb.Envelope {
	return &tricklepb.Envelope{Table: table, Body: &tricklepb.Envelope_BoundariesRequest{BoundariesRequest: &tricklepb.BoundariesRequest{}}}
}

func memoryBus(t *testing.T, consumers ...string) transport.Bus {
	t.Helper()
	bus := transport.NewMemory(transport.MemoryOptions{})
	create(t, bus, consumers...)
	return bus
}

func create(t *testing.T, bus transport.Bus, consumers ...string) {
	t.Helper()
	specs := []transport.TopicSpec{{Name: topics.Requests(), Partitions: 2}}
	for _, c := range consumers {
		specs = append(specs, transport.TopicSpec{Name: topics.Replies(c), Partitions: 1})
	}
	if err := bus.Ensure(t.Context(), specs...); err != nil {
		t.Fatal(err)
	}
}

// start runs something until the returned function is called, which waits for it and fails the test if it failed.
func start(t *testing.T, run func(ctx context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run ended with %v", err)
		}
	})
}

func ask(t *testing.T, c *sidechannel.Client, table string) {
	t.Helper()
	reply, err := c.Ask(t.Context(), question(table))
	if err != nil {
		t.Fatal(err)
	}
	if got := reply.GetBoundariesReply().GetKeys()[0].GetValues()[0]; got != table {
		t.Errorf("asked about %q, answered about %q", table, got)
	}
}

func client(bus transport.Bus, consumer string) *sidechannel.Client {
	return sidechannel.New(bus, message.Codec{}, sidechannel.Options{Pipeline: "shop", Consumer: consumer})
}

func server(bus transport.Bus, h handler) *sidechannel.Server {
	return sidechannel.NewServer(bus, message.Codec{}, h, sidechannel.ServerOptions{Pipeline: "shop"})
}

func TestEveryoneGetsTheirOwnAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus := memoryBus(t, "cache", "search")
		eavesdropper, err := bus.Tail(t.Context(), topics.Replies("search"))
		if err != nil {
			t.Fatal(err)
		}
		s := server(bus, echo)
		defer start(t, s.Run)()
		one, two := client(bus, "cache"), client(bus, "cache") // two instances of one consumer
		defer start(t, one.Run)()
		defer start(t, two.Run)()
		var asking sync.WaitGroup
		for i := range 100 {
			for n, c := range []*sidechannel.Client{one, two} {
				asking.Go(func() { ask(t, c, fmt.Sprintf("public.t%d_%d", i, n)) })
			}
		}
		asking.Wait()
		synctest.Wait()
		if got := s.Stats(); got != (sidechannel.Stats{Answered: 200}) {
			t.Errorf("got %+v", got)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if heard, err := eavesdropper.Fetch(short); err == nil {
			t.Errorf("another consumer heard %d answers", len(heard))
		}
	})
}

func TestOverKafka(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	bus, err := transport.NewKafka(t.Context(), transport.KafkaOptions{Brokers: cluster.ListenAddrs()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bus.Close(); err != nil {
			t.Error(err)
		}
	})
	create(t, bus, "cache")
	large := strings.Repeat("x", 3<<20)
	defer start(t, server(bus, func(ctx context.Context, env *tricklepb.Envelope) *tricklepb.Envelope {
		reply := echo(ctx, env)
		reply.Snapshot = large
		return reply
	}).Run)()
	c := client(bus, "cache")
	defer start(t, c.Run)()
	var asking sync.WaitGroup
	for i := range 10 {
		asking.Go(func() { ask(t, c, fmt.Sprintf("public.t%d", i)) })
	}
	asking.Wait()
}
