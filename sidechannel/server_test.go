package sidechannel_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/sidechannel"
	"github.com/trickle-verify/trickle/transport"
)

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
