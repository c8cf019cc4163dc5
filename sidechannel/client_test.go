package sidechannel_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/sidechannel"
)

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
