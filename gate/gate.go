// Package gate is how far the replica is known to have got, and whether that is near enough to act on.
//
// It decides Through, the time up to which every source transaction has been applied, and whether the gate is open. What always
// holds: Through never claims more than the heartbeat that CDC carried (or the lag that the operator vouches for); what is unknown keeps the gate closed, and
// every verdict carries its reason. After a failover of the source nothing counts that was known about the server before. When the heartbeat can't be read the
// gate is closed and says so; nothing is corrected meanwhile.
package gate

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/trickle-verify/trickle/policy"
)

// What may close the gate.
const (
	ByPolicy    = "policy"    // it names no way to know the lag
	ByPublisher = "publisher" // nothing has been heard of it
	ByTimeline  = "timeline"  // the source failed over
	ByHeartbeat = "heartbeat"
	ByAssumed   = "assumed" // gate.assume_lag
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
	By     string // what closes it, empty when open
	Reason string // why it is closed, empty when open
}

// Behind reports that the lag is known and too long, so verifying would find nothing but the lag.
func (s State) Behind() bool { return !s.Open && s.Lag >= 0 }

func (s State) closed(by, format string, args ...any) State {
	s.Open, s.By, s.Reason = false, by, fmt.Sprintf(format, args...)
	return s
}

// Heartbeat reads the replica's copy of the heartbeat: a time of the source's clock and the timeline it was written on, zero where there is none.
type Heartbeat interface {
	Beat(ctx context.Context) (at time.Time, timeline uint32, err error)
}

// Parts are what a gate is made of.
type Parts struct {
	Heartbeat Heartbeat        // used only where the policy asks for one
	Now       func() time.Time // the local clock, for elapsed time only; nil for time.Now
}

// Gate answers from the heartbeat or the assumed lag. It is safe for concurrent use.
type Gate struct {
	parts Parts

	mu       sync.Mutex
	policy   policy.Gate
	source   time.Time // the newest read time seen in any message
	received time.Time // when that was
	line     timeline
}

// timeline is what is known of the source's failovers.
type timeline struct {
	highest uint32    // seen anywhere; 0: none yet
	since   time.Time // the source's clock when a change to it was noticed; zero: it was never another
	heard   uint32    // in the newest answer
}

// New makes a gate.
func New(p policy.Gate, parts Parts) *Gate {
	if parts.Now == nil {
		parts.Now = time.Now
	}
	return &Gate{policy: p, parts: parts}
}

// Apply replaces the policy.
func (g *Gate) Apply(p policy.Gate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.policy = p
}

// Heard tells the gate the read time and the timeline of an answer that has just come in: that is what the source's clock says now, forwards
// or, where it was set back, backwards. It reports false for an answer of an older timeline than is known: whoever gave it still
// reads the server from before a failover, and what it says must not be believed. Timeline 0 means not told.
func (g *Gate) Heard(readAt time.Time, timeline uint32) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if timeline != 0 {
		g.line.heard = timeline
		if timeline < g.line.highest {
			return false
		}
		g.onto(timeline, readAt)
	}
	g.source, g.received = readAt, g.parts.Now()
	return true
}

// Saw tells the gate the read time and the timeline of a message, which may have waited: the source's clock was at least there.
func (g *Gate) Saw(readAt time.Time, timeline uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case timeline != 0 && timeline < g.line.highest: // from before the failover, by another server's clock
	case timeline > g.line.highest && g.line.highest != 0, readAt.After(g.sourceNow()):
		g.onto(timeline, readAt)
		g.source, g.received = readAt, g.parts.Now()
	default:
		g.onto(timeline, readAt)
	}
}

// onto takes note of a timeline that was seen. It needs the lock.
func (g *Gate) onto(timeline uint32, at time.Time) {
	if timeline <= g.line.highest {
		return
	}
	if g.line.highest != 0 {
		g.line.since = at
	}
	g.line.highest = timeline
}

// sourceNow is the source's clock as far as is known: the newest read time and what has elapsed here since it came in.
func (g *Gate) sourceNow() time.Time {
	if g.source.IsZero() {
		return time.Time{}
	}
	return g.source.Add(g.parts.Now().Sub(g.received))
}

// Check looks at the gate.
func (g *Gate) Check(ctx context.Context) State {
	var beat beat
	if h := g.rules().Heartbeat; h.Enabled {
		beat.at, beat.timeline, beat.err = g.parts.Heartbeat.Beat(ctx)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.onto(beat.timeline, beat.at)
	s := g.judge(beat)
	s.Source = g.sourceNow()
	return s
}

func (g *Gate) rules() policy.Gate {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.policy
}

// beat is a reading of the heartbeat.
type beat struct {
	at       time.Time
	timeline uint32
	err      error
}

// judge needs the lock.
func (g *Gate) judge(b beat) State {
	p, now := g.policy, g.sourceNow()
	s := State{Open: true, Configured: true, Lag: -1}
	if g.line.heard != 0 && g.line.heard < g.line.highest {
		return s.closed(ByTimeline, "the source failed over (timeline %d) and the publisher still reads the server from before (timeline %d): point --source at the new primary",
			g.line.highest, g.line.heard)
	}
	switch {
	case p.Heartbeat.Enabled:
		return g.byHeartbeat(s, b)
	case p.AssumeLag > 0 && now.IsZero():
		return s.closed(ByPublisher, "no message from the publisher yet")
	case p.AssumeLag > 0:
		lag := time.Duration(p.AssumeLag)
		if now.Add(-lag).Before(g.line.since) {
			return s.closed(ByTimeline, "the source failed over (timeline %d): closed until gate.assume_lag, %s, has passed", g.line.highest, lag)
		}
		s.Through, s.Lag = now.Add(-lag), lag
		return s
	default:
		s.Configured = false
		return s.closed(ByPolicy, "no gate is configured, so the lag is unknown and nothing is corrected: set gate.heartbeat: true, or gate.assume_lag if you vouch for the lag")
	}
}

func (g *Gate) byHeartbeat(s State, b beat) State {
	p, now := g.policy, g.sourceNow()
	switch {
	case b.err != nil:
		return s.closed(ByHeartbeat, "the heartbeat %s can't be read in the replica: %v", p.Heartbeat.Replica, b.err)
	case b.at.IsZero():
		return s.closed(ByHeartbeat, "no heartbeat has come through CDC yet: is %s part of what CDC copies, and does the publisher run?", p.Heartbeat.Table)
	case now.IsZero():
		return s.closed(ByPublisher, "no message from the publisher yet")
	case b.timeline != g.line.highest:
		// What CDC still carries of the old primary may be newer than the source, and its clock may have been ahead.
		return s.closed(ByTimeline, "the source failed over (timeline %d) and CDC has brought no heartbeat of that timeline yet; the newest is of timeline %d", g.line.highest, b.timeline)
	}
	s.Through, s.Lag = b.at, max(0, now.Sub(b.at))
	if limit := time.Duration(p.MaxLag); s.Lag > limit {
		return s.closed(ByHeartbeat, "the replica is %s behind the source, more than gate.max_lag %s", s.Lag.Round(100*time.Millisecond), limit)
	}
	return s
}
