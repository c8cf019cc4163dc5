// Package pulse tells a loop that waits from one that is stuck.
//
// It decides when a loop has been silent for too long: it has not turned within its bound, and waits for nothing outside of the process. What always holds: whoever
// waits for a database, a broker or a store says so (Away) and is never stuck, however long that takes; neither is one that has ended. Loops find
// their monitor in the context, so that a library which is embedded without one needs nothing and pays nothing. Nothing in here stops anything: a loop that
// is stuck is told of by name, and somebody else decides.
package pulse

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Bound is how long a loop of trickle's may take for a turn in which it waits for nothing outside.
const Bound = 2 * time.Minute

// Monitor watches loops, and the start before them. Its methods may be called from any goroutine.
type Monitor struct {
	bound time.Duration

	mu       sync.Mutex
	loops    map[*loop]struct{}
	starting string // what the start waits for, or is at; empty once it is over
	ending   bool
}

// loop is one of them.
type loop struct {
	monitor *Monitor
	name    string
	// What follows is guarded by the monitor's lock.
	turned time.Time
	away   int  // how many of its calls wait for something outside
	idle   bool // it had nothing to do when it turned last
}

// New returns a monitor of a process that starts. Its loops have to turn within the bound.
func New(bound time.Duration) *Monitor {
	return &Monitor{bound: bound, loops: map[*loop]struct{}{}, starting: "it has just begun"}
}

type key struct{}

// bearer is what a context carries.
type bearer struct {
	monitor *Monitor
	loop    *loop // nil: none has begun
}

// In returns a context under which loops are watched by this monitor.
func (m *Monitor) In(ctx context.Context) context.Context {
	return context.WithValue(ctx, key{}, bearer{monitor: m})
}

// Loop begins a loop that has to turn within the bound; its calls get the context. The function ends it. Without a monitor both do nothing.
func Loop(ctx context.Context, name string) (context.Context, func()) {
	b, ok := ctx.Value(key{}).(bearer)
	if !ok {
		return ctx, func() {}
	}
	m := b.monitor
	l := &loop{monitor: m, name: name, turned: time.Now()}
	m.mu.Lock()
	m.loops[l] = struct{}{}
	m.mu.Unlock()
	return context.WithValue(ctx, key{}, bearer{m, l}), func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.loops, l)
	}
}

// Apart returns a context that belongs to no loop, for work that a loop starts and does not wait for.
func Apart(ctx context.Context) context.Context {
	if b, ok := ctx.Value(key{}).(bearer); ok {
		return b.monitor.In(ctx)
	}
	return ctx
}

// Beat says that the loop of this context has turned, or gets on.
func Beat(ctx context.Context) { turn(ctx, false) }

// Idle is a Beat of a loop that has nothing to do as things are, such as one for what the policy does not name: it is not listed until it beats again, and
// still told of when it is stuck.
func Idle(ctx context.Context) { turn(ctx, true) }

func turn(ctx context.Context, idle bool) {
	if b, ok := ctx.Value(key{}).(bearer); ok && b.loop != nil {
		b.monitor.mu.Lock()
		defer b.monitor.mu.Unlock()
		b.loop.turned, b.loop.idle = time.Now(), idle
	}
}

// Away says that the loop of this context waits for something outside of the process until the function is called.
func Away(ctx context.Context) (back func()) {
	b, ok := ctx.Value(key{}).(bearer)
	if !ok || b.loop == nil {
		return func() {}
	}
	b.monitor.mu.Lock()
	b.loop.away++
	b.monitor.mu.Unlock()
	return sync.OnceFunc(func() {
		b.monitor.mu.Lock()
		defer b.monitor.mu.Unlock()
		b.loop.away--
		b.loop.turned = time.Now()
	})
}

// Starting says what the start is at, or waits for.
func (m *Monitor) Starting(at string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.starting = at
}

// Started says that the start is over.
func (m *Monitor) Started() { m.Starting("") }

// Ending says that the process has been asked to end.
func (m *Monitor) Ending() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ending = true
}

// State is how the process is.
type State struct {
	Starting string   // what it waits for, or is at; empty: it has started
	Stuck    []string // the loops that are, each with how long; empty: none
	Ending   bool
	Loops    []string // those that have something to do, each with when it turned last
}

// Ready reports that it is at work.
func (s State) Ready() bool { return s.Starting == "" && len(s.Stuck) == 0 && !s.Ending }

// State tells how the process is now.
func (m *Monitor) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := State{Starting: m.starting, Ending: m.ending}
	now := time.Now()
	for l := range m.loops {
		silent := now.Sub(l.turned)
		how := "turned " + silent.Round(100*time.Millisecond).String() + " ago"
		switch {
		case l.away > 0:
			how = "waits for something outside"
		case silent > m.bound:
			s.Stuck = append(s.Stuck, fmt.Sprintf("%s has not turned for %s, more than %s", l.name, silent.Round(time.Second), m.bound))
		}
		if !l.idle {
			s.Loops = append(s.Loops, l.name+": "+how)
		}
	}
	slices.Sort(s.Stuck)
	slices.Sort(s.Loops)
	return s
}
