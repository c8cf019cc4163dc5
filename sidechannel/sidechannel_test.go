package sidechannel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
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

func TestAskAgainUntilThePublisherIsThere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus := memoryBus(t, "cache")
		c := client(bus, "cache")
		defer start(t, c.Run)()
		answers := 0
		s := server(bus, func(ctx context.Context, env *tricklepb.Envelope) *tricklepb.Envelope {
			answers++
			return echo(ctx, env)
		})
		stop := func() {}
		time.AfterFunc(31*time.Second, func() { stop = start(t, s.Run) })
		began := time.Now()
		ask(t, c, "public.t")
		if waited := time.Since(began); waited != 31*time.Second {
			t.Errorf("waited %s for a publisher that came after 31 s", waited)
		}
		synctest.Wait()
		stop()
		if answers != 1 {
			t.Errorf("the seven repetitions in the queue were answered %d times", answers)
		}
	})
}

func TestASlowPublisherDoesNotAnswerRepetitions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus := memoryBus(t, "cache")
		answers := 0
		stop := start(t, server(bus, func(ctx context.Context, env *tricklepb.Envelope) *tricklepb.Envelope {
			answers++
			time.Sleep(12 * time.Second)
			return echo(ctx, env)
		}).Run)
		c := client(bus, "cache")
		defer start(t, c.Run)()
		ask(t, c, "public.t")
		time.Sleep(time.Minute)
		stop()
		if answers != 1 {
			t.Errorf("answered %d times", answers)
		}
	})
}

func TestALostRequestIsSentAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus := memoryBus(t, "cache")
		c := client(bus, "cache")
		defer start(t, c.Run)()
		thief, err := bus.Group(t.Context(), topics.PublisherGroup(), topics.Requests())
		if err != nil {
			t.Fatal(err)
		}
		stop := make(chan func(), 1)
		go func() {
			if _, err := thief.Fetch(t.Context()); err != nil {
				t.Error(err)
			}
			if err := errors.Join(thief.Commit(t.Context()), thief.Close()); err != nil {
				t.Error(err)
			}
			stop <- start(t, server(bus, echo).Run)
		}()
		began := time.Now()
		ask(t, c, "public.t")
		if waited := time.Since(began); waited != 5*time.Second {
			t.Errorf("answered after %s, want 5 s", waited)
		}
		(<-stop)()
	})
}

func TestAskEndsWithItsContextAndWithRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus := memoryBus(t, "cache")
		c := client(bus, "cache")
		short, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := c.Ask(short, question("public.t")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("before Run: %v", err)
		}
		stop := start(t, c.Run)
		<-c.Ready()
		short, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := c.Ask(short, question("public.t")); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "public.t") {
			t.Errorf("without an answer: %v", err)
		}
		ended := make(chan error)
		go func() {
			_, err := c.Ask(t.Context(), question("public.t"))
			ended <- err
		}()
		synctest.Wait()
		stop()
		if err := <-ended; !errors.Is(err, sidechannel.ErrStopped) {
			t.Errorf("when Run ended: %v", err)
		}
		if _, err := c.Ask(t.Context(), question("public.t")); !errors.Is(err, sidechannel.ErrStopped) {
			t.Errorf("after Run: %v", err)
		}
	})
}

func TestAnErrorReplyIsAnError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus := memoryBus(t, "cache")
		defer start(t, server(bus, func(context.Context, *tricklepb.Envelope) *tricklepb.Envelope {
			return &tricklepb.Envelope{Body: &tricklepb.Envelope_ErrorReply{ErrorReply: &tricklepb.ErrorReply{
				Code: tricklepb.ErrorCode_ERROR_CODE_UNSTABLE, Reason: "a transaction hangs",
			}}}
		}).Run)()
		c := client(bus, "cache")
		defer start(t, c.Run)()
		_, err := c.Ask(t.Context(), question("public.t"))
		var e *sidechannel.Error
		if !errors.As(err, &e) || e.Code != tricklepb.ErrorCode_ERROR_CODE_UNSTABLE || e.Reason != "a transaction hangs" {
			t.Errorf("got %v", err)
		}
	})
}

func TestAnAnswerThatCannotTravelIsAnErrorReply(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus := memoryBus(t, "cache")
		defer start(t, server(bus, func(context.Context, *tricklepb.Envelope) *tricklepb.Envelope {
			return echo(t.Context(), question("\xff")) // no UTF-8: protobuf refuses it
		}).Run)()
		c := client(bus, "cache")
		defer start(t, c.Run)()
		_, err := c.Ask(t.Context(), question("public.t"))
		var e *sidechannel.Error
		if !errors.As(err, &e) || e.Code != tricklepb.ErrorCode_ERROR_CODE_FAILED {
			t.Errorf("got %v", err)
		}
	})
}

func TestWhatCannotBeBelievedIsSkipped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var (
			bus    = memoryBus(t, "cache")
			codec  = message.Codec{Secret: []byte("secret")}
			logger = slog.New(slog.NewTextHandler(&log, nil))
			s      = sidechannel.NewServer(bus, codec, handler(echo), sidechannel.ServerOptions{Pipeline: "shop", Logger: logger})
			c      = sidechannel.New(bus, codec, sidechannel.Options{Pipeline: "shop", Consumer: "cache", Logger: logger})
		)
		stopServer, stopClient := start(t, s.Run), start(t, c.Run)
		<-c.Ready()
		put := func(codec message.Codec, topic string, env *tricklepb.Envelope) {
			value := []byte("rubbish")
			if env != nil {
				var err error
				if value, err = codec.Encode(topic, env); err != nil {
					t.Fatal(err)
				}
			}
			if err := bus.Send(t.Context(), transport.Record{Topic: topic, Value: value}); err != nil {
				t.Fatal(err)
			}
		}
		forger := message.Codec{Secret: []byte("guess")}
		foreign := question("public.t")
		foreign.Pipeline, foreign.Id, foreign.Consumer = "other", "1", "cache"
		evil := question("public.t")
		evil.Pipeline, evil.Id, evil.Consumer = "shop", "1", "a/b"
		put(codec, topics.Requests(), nil)
		put(message.Codec{}, topics.Requests(), question("public.t"))
		put(forger, topics.Requests(), question("public.t"))
		put(codec, topics.Requests(), foreign)
		put(codec, topics.Requests(), evil)
		put(codec, topics.Requests(), echo(t.Context(), question("public.t")))
		put(codec, topics.Replies("cache"), nil)
		put(forger, topics.Replies("cache"), echo(t.Context(), question("public.t")))
		ask(t, c, "public.t")
		synctest.Wait()
		stopServer()
		stopClient()
		if got := s.Stats(); got.Skipped != 6 || got.Answered != 1 {
			t.Errorf("server: %+v", got)
		}
		if got := c.Skipped(); got != 2 {
			t.Errorf("client skipped %d", got)
		}
		for _, want := range []string{"topic=shop.requests", "topic=shop.replies.cache", "partition=0", "offset=0"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log does not tell %s:\n%s", want, &log)
			}
		}
		if n := strings.Count(log.String(), "\n"); n != 8 {
			t.Errorf("%d lines of log for 8 messages", n)
		}
	})
}

func TestAConsumerWithoutATopicHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus := memoryBus(t, "cache")
		s := server(bus, echo)
		defer start(t, s.Run)()
		lost := question("public.t")
		lost.Pipeline, lost.Id, lost.Consumer = "shop", "1", "nobody"
		value, err := message.Codec{}.Encode(topics.Requests(), lost)
		if err != nil {
			t.Fatal(err)
		}
		if err := bus.Send(t.Context(), transport.Record{Topic: topics.Requests(), Value: value}); err != nil {
			t.Fatal(err)
		}
		c := client(bus, "cache")
		defer start(t, c.Run)()
		ask(t, c, "public.t")
		synctest.Wait()
		if got := s.Stats(); got.Unsent != 1 || got.Answered != 1 {
			t.Errorf("got %+v", got)
		}
	})
}

func TestConcurrencyIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus := memoryBus(t, "cache")
		var mu sync.Mutex
		now, most := 0, 0
		h := func(ctx context.Context, env *tricklepb.Envelope) *tricklepb.Envelope {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			now--
			mu.Unlock()
			return echo(ctx, env)
		}
		c := client(bus, "cache")
		defer start(t, c.Run)()
		var asking sync.WaitGroup
		for range 40 {
			asking.Go(func() { ask(t, c, "public.t") })
		}
		synctest.Wait()
		began := time.Now()
		defer start(t, server(bus, h).Run)()
		asking.Wait()
		if took := time.Since(began); most != 8 || took != 5*time.Second {
			t.Errorf("%d at once, 40 answers of a second took %s", most, took)
		}
	})
}

func TestALongAnswerHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus := memoryBus(t, "cache")
		answers := make(chan string, 100)
		h := func(ctx context.Context, env *tricklepb.Envelope) *tricklepb.Envelope {
			if env.GetTable() == "public.long" {
				time.Sleep(time.Minute)
			}
			answers <- env.GetTable()
			return echo(ctx, env)
		}
		c := sidechannel.New(bus, message.Codec{}, sidechannel.Options{Pipeline: "shop", Consumer: "cache", Resend: 7 * time.Second})
		defer start(t, c.Run)()
		stop := start(t, server(bus, h).Run)
		var asking sync.WaitGroup
		asking.Go(func() { ask(t, c, "public.long") })
		synctest.Wait()
		began := time.Now()
		for range 10 {
			ask(t, c, "public.short")
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("ten short answers took %s behind a long one", took)
		}
		asking.Wait()
		time.Sleep(time.Second)
		stop()
		defer start(t, server(bus, h).Run)()
		ask(t, c, "public.short")
		if len(answers) != 12 { // the eight repetitions of the long one and what was answered before the restart among them not
			t.Errorf("answered %d times", len(answers))
		}
	})
}

func TestAServerThatDiesWhileAnsweringIsFollowedByOneThatAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus := memoryBus(t, "cache")
		c := sidechannel.New(bus, message.Codec{}, sidechannel.Options{Pipeline: "shop", Consumer: "cache", Resend: time.Hour})
		defer start(t, c.Run)()
		stop := start(t, server(bus, func(ctx context.Context, env *tricklepb.Envelope) *tricklepb.Envelope {
			<-ctx.Done()
			return echo(ctx, env)
		}).Run)
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			ask(t, c, "public.t")
		}()
		synctest.Wait()
		stop()
		defer start(t, server(bus, echo).Run)()
		<-answered
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
