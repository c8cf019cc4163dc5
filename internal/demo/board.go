package demo

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	redraw      = 200 * time.Millisecond
	rateSmooth  = 2 * time.Second
	sampleLimit = 5 * time.Second
)

// board is what is known at the moment. The watcher and the story write it, the screen and the story read it.
type board struct {
	begin time.Time

	mu      sync.Mutex
	now     State
	changed chan struct{} // closed and replaced with every sample
	rateAt  time.Time
	writes  int64 // at rateAt
}

func newBoard(begin time.Time, duration time.Duration) *board {
	return &board{begin: begin, changed: make(chan struct{}), now: State{Duration: duration, Steps: len(phases())}}
}

// state returns what is known now.
func (b *board) state() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.now
	s.Elapsed = time.Since(b.begin)
	s.Events = append([]Event{}, b.now.Events...)
	return s
}

// phase begins one.
func (b *board) phase(step int, name string) {
	b.mu.Lock()
	b.now.Step, b.now.Phase = step, name
	b.mu.Unlock()
	b.event("%d/%d %s", step, len(phases()), name)
}

// event notes something that happened.
func (b *board) event(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now.Events = append(b.now.Events, Event{time.Since(b.begin), fmt.Sprintf(format, args...)})
}

// page notes where the live page is.
func (b *board) page(address string) {
	b.mu.Lock()
	b.now.Page = "http://" + address + "/"
	b.mu.Unlock()
	b.event("watch it in a browser: http://%s/", address)
}

// put replaces what a sample told; phase and events stay.
func (b *board) put(s State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.Phase, s.Step, s.Steps, s.Duration, s.Page, s.Events = b.now.Phase, b.now.Step, b.now.Steps, b.now.Duration, b.now.Page, b.now.Events
	s.WritesPerSecond = b.now.WritesPerSecond
	if since := time.Since(b.rateAt); since >= rateSmooth {
		if !b.rateAt.IsZero() {
			s.WritesPerSecond = float64(s.Writes-b.writes) / since.Seconds()
		}
		b.rateAt, b.writes = time.Now(), s.Writes
	}
	b.now = s
	close(b.changed)
	b.changed = make(chan struct{})
}

// await returns true once a sample taken from now on meets the condition, false when the limit comes first.
func (b *board) await(ctx context.Context, limit time.Duration, met func(State) bool) (bool, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for samples := 0; ; samples++ {
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		// The first sample may have been under way before the call.
		if samples > 1 && met(b.state()) {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, ended(ctx)
		case <-timer.C:
			return false, nil
		case <-changed:
		}
	}
}

// showOn keeps the screen up to date until the returned function is called, and shows the last state then.
func (b *board) showOn(screen screen) (stop func()) {
	done := make(chan struct{})
	var showing sync.WaitGroup
	showing.Go(func() {
		tick := time.NewTicker(redraw)
		defer tick.Stop()
		for {
			select {
			case <-done:
				screen.Show(b.state())
				return
			case <-tick.C:
				screen.Show(b.state())
			}
		}
	})
	return func() { close(done); showing.Wait() }
}
