// Package gate is how far the replica is known to have got, and whether that is near enough to act on.
//
// It decides Through, the time up to which every source transaction has been applied, and whether the gate is open. What always
// holds: Through never claims more than the heartbeat that CDC carried (or the lag that the operator vouches for); what is unknown keeps the gate closed, and
// every verdict carries its reason. When the heartbeat can't be read the gate is closed and says so; nothing is corrected meanwhile.
package gate

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/trickle-verify/trickle/policy"
)

// State is one verdict.
type State struct {
	Open bool
	// Configured is false where the policy names no way to know the lag: then nothing is ever corrected.
	Configured bool
	// Through: the replica has applied every source transaction that committed before this time of the source's clock. Zero: unknown.
	Through time.Time
	// Lag is how far Through is behind the source's clock; negative where unknown.
	Lag time.Duration
	// Source is the source's clock as far as is known; zero: unknown.
	Source time.Time
	Reason string // why it is closed, empty when open
}

// Behind reports that the lag is known and too long, so verifying would find nothing but the lag.
func (s State) Behind() bool { return !s.Open && s.Lag >= 0 }

// Heartbeat reads the replica's copy of the heartbeat: a time of the source's clock, zero where there is none.
type Heartbeat interface {
	Beat(ctx context.Context) (time.Time, error)
}

// Gate answers from the heartbeat or the assumed lag. It is safe for concurrent use.
type Gate struct {
	beat Heartbeat
	now  func() time.Time

	mu       sync.Mutex
	policy   policy.Gate
	source   time.Time // the newest read time seen in any message
	received time.Time // when that was
}

// New makes a gate; beat is used only where the policy asks for a heartbeat. now is the local clock, for elapsed time only.
func New(p policy.Gate, beat Heartbeat, now func() time.Time) *Gate {
	return &Gate{policy: p, beat: beat, now: now}
}

// Apply replaces the policy.
func (g *Gate) Apply(p policy.Gate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.policy = p
}

// Heard tells the gate the read time of an answer that has just come in: that is what the source's clock says now, forwards or, where it was
// set back, backwards.
func (g *Gate) Heard(readAt time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.source, g.received = readAt, g.now()
}

// Saw tells the gate the read time of a message, which may have waited: the source's clock was at least there.
func (g *Gate) Saw(readAt time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if readAt.After(g.sourceNow()) {
		g.source, g.received = readAt, g.now()
	}
}

// sourceNow is the source's clock as far as is known: the newest read time and what has elapsed here since it came in.
func (g *Gate) sourceNow() time.Time {
	if g.source.IsZero() {
		return time.Time{}
	}
	return g.source.Add(g.now().Sub(g.received))
}

// Check looks at the gate.
func (g *Gate) Check(ctx context.Context) State {
	g.mu.Lock()
	p, now := g.policy, g.sourceNow()
	g.mu.Unlock()
	s := g.check(ctx, p, now)
	s.Source = now
	return s
}

func (g *Gate) check(ctx context.Context, p policy.Gate, now time.Time) State {
	switch {
	case p.Heartbeat.Enabled:
		return g.byHeartbeat(ctx, p, now)
	case p.AssumeLag > 0 && now.IsZero():
		return State{Configured: true, Lag: -1, Reason: "no message from the publisher yet"}
	case p.AssumeLag > 0:
		lag := time.Duration(p.AssumeLag)
		return State{Open: true, Configured: true, Through: now.Add(-lag), Lag: lag}
	default:
		return State{Lag: -1, Reason: "no gate is configured, so the lag is unknown and nothing is corrected: set gate.heartbeat: true, or gate.assume_lag if you vouch for the lag"}
	}
}

func (g *Gate) byHeartbeat(ctx context.Context, p policy.Gate, now time.Time) State {
	s := State{Configured: true, Lag: -1}
	beat, err := g.beat.Beat(ctx)
	switch {
	case err != nil:
		s.Reason = fmt.Sprintf("the heartbeat %s can't be read in the replica: %v", p.Heartbeat.Replica, err)
		return s
	case beat.IsZero():
		s.Reason = fmt.Sprintf("no heartbeat has come through CDC yet: is %s part of what CDC copies, and does the publisher run?", p.Heartbeat.Table)
		return s
	case now.IsZero():
		s.Reason = "no message from the publisher yet"
		return s
	}
	s.Through, s.Lag = beat, max(0, now.Sub(beat))
	if limit := time.Duration(p.MaxLag); s.Lag > limit {
		s.Reason = fmt.Sprintf("the replica is %s behind the source, more than gate.max_lag %s", s.Lag.Round(100*time.Millisecond), limit)
		return s
	}
	s.Open = true
	return s
}
