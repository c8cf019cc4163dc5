package pulse_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/telemetry/pulse"
)

// What a process of one loop looks like after a while.
func TestMonitor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		loop  func(context.Context, *pulse.Monitor)
		stuck string // begins the one reason there is; empty: none
	}{
		{"turns", func(ctx context.Context, _ *pulse.Monitor) {
			for ctx.Err() == nil {
				pulse.Beat(ctx)
				time.Sleep(time.Minute)
			}
		}, ""},
		{"turned once", func(ctx context.Context, _ *pulse.Monitor) { <-ctx.Done() }, "counting has not turned for 1h0m"},
		{"waits for what is away", func(ctx context.Context, _ *pulse.Monitor) {
			defer pulse.Away(ctx)()
			<-ctx.Done()
		}, ""},
		{"waited, and then stopped", func(ctx context.Context, _ *pulse.Monitor) {
			back := pulse.Away(ctx)
			time.Sleep(30 * time.Minute)
			back()
			back() // counts once
			<-ctx.Done()
		}, "counting has not turned for 30m"},
		{"one of two calls is still away", func(ctx context.Context, _ *pulse.Monitor) {
			first := pulse.Away(ctx)
			defer pulse.Away(ctx)()
			first()
			<-ctx.Done()
		}, ""},
		{"ended", func(context.Context, *pulse.Monitor) {}, ""},
		{"started work that never rests and is its own", func(ctx context.Context, _ *pulse.Monitor) {
			apart := pulse.Apart(ctx)
			for ctx.Err() == nil {
				pulse.Beat(apart)
				pulse.Away(apart)()
				time.Sleep(time.Minute)
			}
		}, "counting has not turned for 1h0m"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := pulse.New(pulse.Bound)
				m.Started()
				ctx, cancel := context.WithCancel(m.In(t.Context()))
				var running sync.WaitGroup
				running.Go(func() {
					ctx, end := pulse.Loop(ctx, "counting")
					defer end()
					c.loop(ctx, m)
				})
				time.Sleep(time.Hour + time.Second)
				s := m.State()
				switch {
				case c.stuck == "" && !s.Ready():
					t.Errorf("%+v", s)
				case c.stuck != "" && (len(s.Stuck) != 1 || !strings.HasPrefix(s.Stuck[0], c.stuck) || s.Ready()):
					t.Errorf("%+v", s)
				}
				cancel()
				running.Wait()
			})
		})
	}
}

// A loop that has nothing to do is not listed, and still told of when it is stuck.
func TestIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := pulse.New(pulse.Bound)
		ctx, end := pulse.Loop(m.In(t.Context()), "counting")
		defer end()
		pulse.Idle(ctx)
		if s := m.State(); len(s.Loops) > 0 || len(s.Stuck) > 0 {
			t.Errorf("with nothing to do: %+v", s)
		}
		time.Sleep(time.Hour)
		if s := m.State(); len(s.Stuck) != 1 {
			t.Errorf("stuck with nothing to do: %+v", s)
		}
		pulse.Beat(ctx)
		if s := m.State(); len(s.Loops) != 1 || len(s.Stuck) > 0 {
			t.Errorf("with something to do: %+v", s)
		}
	})
}

func TestStart(t *testing.T) {
	t.Parallel()
	m := pulse.New(pulse.Bound)
	if s := m.State(); s.Starting == "" || s.Ready() {
		t.Errorf("at first: %+v", s)
	}
	m.Starting("waiting: no route to host")
	if s := m.State(); s.Starting != "waiting: no route to host" || s.Ready() {
		t.Errorf("while it waits: %+v", s)
	}
	m.Started()
	if s := m.State(); !s.Ready() {
		t.Errorf("then: %+v", s)
	}
	m.Ending()
	if s := m.State(); s.Ready() || !s.Ending || len(s.Stuck) > 0 {
		t.Errorf("at the end: %+v", s)
	}
}

// A library that is embedded has no monitor.
func TestWithout(t *testing.T) {
	t.Parallel()
	ctx, end := pulse.Loop(t.Context(), "counting")
	pulse.Beat(pulse.Apart(ctx))
	pulse.Away(ctx)()
	end()
}
