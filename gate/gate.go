// Package gate is how far the replica is known to have got, and whether that is near enough to act on.
//
// It decides Through, the time up to which every source transaction has been applied, and whether the gate is open. What always holds: Through never claims more
// than is proven by what the policy names: slot and group taken together, the heartbeat that CDC carried where the operator vouches that CDC applies in commit order
// across tables, or the lag that the operator vouches for; of several the least. What is unknown keeps the gate closed, and every verdict carries its reason. After a failover of
// the source nothing counts that was known about the server before, nor, once its clock was set back, what was known of times to come. When the heartbeat or the
// group can't be read, or the publisher can't tell of the slot, the gate is closed and says so; nothing is corrected meanwhile.
package gate

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/trickle-verify/trickle/policy"
)

// What may close the gate.
const (
	ByPolicy    = "policy"    // it names no way to know the lag
	ByPublisher = "publisher" // nothing has been heard of it
	ByTimeline  = "timeline"  // the source failed over
	BySlot      = "slot"
	ByGroup     = "group"
	ByHeartbeat = "heartbeat"
	ByAssumed   = "assumed" // gate.assume_lag
	ByPath      = "path"    // slot and group taken together
	ByRestore   = "restore" // the replica is being restored
)

// State is one verdict.
type State struct {
	Open bool
	// Configured is false where the policy names no way to know the lag: then nothing is ever corrected.
	Configured bool
	// Through: the replica has applied every source transaction that committed before this time of the source's clock. Zero: unknown.
	Through time.Time
	// Lag is the worst there is, of Through behind the source's clock and of each measure; negative where one is unknown.
	Lag time.Duration
	// Source is the source's clock as far as is known; zero: unknown.
	Source   time.Time
	By       string    // what closes it, empty when open
	Reason   string    // why it is closed, empty when open
	Measures []Measure // what the policy names, one by one

	late bool
}

// Measure is one of the ways to know the lag.
type Measure struct {
	By     string
	Lag    time.Duration // negative: unknown
	Reason string        // why it closes the gate, empty where it does not

	through time.Time
	closes  string // what it closes as, where that is not By
	behind  bool   // the reason is a lag that is known and too long
}

func (m Measure) closed(format string, args ...any) Measure {
	m.Reason = fmt.Sprintf(format, args...)
	return m
}

func (m Measure) late(format string, args ...any) Measure {
	m.behind = true
	return m.closed(format, args...)
}

// Behind reports that the lag is known and too long, so verifying would find nothing but the lag.
func (s State) Behind() bool { return !s.Open && s.late }

func (s State) closed(by, reason string) State {
	s.Open, s.By, s.Reason = false, by, reason
	return s
}

// Heartbeat reads the replica's copy of the heartbeat: a time of the source's clock and the timeline it was written on, zero where there is none.
type Heartbeat interface {
	Beat(ctx context.Context) (at time.Time, timeline uint32, err error)
}

// Restoring says why nothing may be corrected while the replica is being restored, empty where it is not.
type Restoring interface {
	Restoring(ctx context.Context) (string, error)
}

// Parts are what a gate is made of.
type Parts struct {
	Heartbeat Heartbeat        // used only where the policy asks for one
	Restoring Restoring        // nil where no replica is ever restored
	Now       func() time.Time // the local clock, for elapsed time only; nil for time.Now
	Log       *slog.Logger     // of verdicts that differ from the one before; nil for none
}

// Gate answers from the heartbeat, the slot and the group, or the assumed lag. It is safe for concurrent use.
type Gate struct {
	parts Parts

	mu       sync.Mutex
	policy   policy.Gate
	source   time.Time // the newest read time seen in any message
	received time.Time // when that was
	line     timeline
	path     pathView
	group    groupView
	marks    marks
	beaten   time.Time // the newest heartbeat, as it was last read
	back     time.Time // not zero: the source's clock was set back, and had not been beyond this; no beat has come from after that
	last     State     // the last verdict
}

// timeline is what is known of the source's failovers.
type timeline struct {
	highest uint32    // seen anywhere; 0: none yet
	since   time.Time // the source's clock when a change to it was noticed; zero: it was never another
	heard   uint32    // in the newest answer, or in a message since of the highest
}

// New makes a gate.
func New(p policy.Gate, parts Parts) *Gate {
	if parts.Now == nil {
		parts.Now = time.Now
	}
	if parts.Log == nil {
		parts.Log = slog.New(slog.DiscardHandler)
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

// Through is that of the last verdict.
func (g *Gate) Through() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.last.Through
}

// Turned finds out that the source's clock was set back: a question that was put when the last verdict was Through this time has been answered from a read that
// was earlier. What the gate holds then is true of the time as it passed before. Taken for the same hours as they pass again, it would cover what has yet to come through.
func (g *Gate) Turned(through, readAt time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !through.After(readAt) {
		return
	}
	if g.path.through.After(readAt) {
		g.path.forget()
	}
	g.marks.rewind(readAt)
	if !g.beaten.Before(through) { // else a beat from after that is here already
		g.back = latest(g.beaten, g.sourceNow())
	}
}

// follow takes a heartbeat in; CDC keeps commit order, so one that is older than the one before was written after the clock was set back. It needs the lock.
func (g *Gate) follow(b beat) {
	if b.err != nil || b.at.IsZero() {
		return
	}
	if b.at.Before(g.beaten) || b.at.After(g.back) {
		g.back = time.Time{}
	}
	g.beaten = b.at
}

// Saw tells the gate the read time and the timeline of a message, which may have waited: the source's clock was at least there.
func (g *Gate) Saw(readAt time.Time, timeline uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if timeline >= g.line.highest {
		g.line.heard = timeline // a replica that agrees asks nothing, so no answer may tell
	}
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
		g.path.forget() // it was of the server before
		g.marks, g.back = marks{}, time.Time{}
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
	restoring := g.restoring(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.onto(beat.timeline, beat.at)
	g.follow(beat)
	s := g.judge(beat)
	if restoring != "" {
		// What the replica lacks is on its way, however short the lag is: to compare would find nothing else.
		s = s.closed(ByRestore, restoring)
		s.late = true
	}
	s.Source = g.sourceNow()
	if ctx.Err() != nil { // what it found is that nobody waits any more, and no state of the replica
		return s.closed(s.By, s.Reason)
	}
	switch first := g.last.By == "" && !g.last.Open; {
	case s.Open && !g.last.Open:
		g.parts.Log.Info("the gate is open", "lag", s.Lag)
	case !s.Open && (first || s.By != g.last.By):
		g.parts.Log.Warn("the gate is closed: nothing is corrected", "by", s.By, "reason", s.Reason)
	}
	g.last = s
	return s
}

// restoring is why a restore closes the gate, "" where none does.
func (g *Gate) restoring(ctx context.Context) string {
	if g.parts.Restoring == nil {
		return ""
	}
	why, err := g.parts.Restoring.Restoring(ctx)
	if err != nil {
		return "it is not known whether the replica is being restored: " + err.Error()
	}
	return why
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

// vouch is how the heartbeat comes to prove something.
const vouch = "vouch with gate.heartbeat: {in_commit_order: true} that CDC applies in commit order across tables"

// judge needs the lock.
func (g *Gate) judge(b beat) State {
	p := g.policy
	s := State{Open: true, Configured: p.Known(), Lag: -1}
	var measures []Measure
	if p.Slot != "" {
		measures = append(measures, g.bySlot())
	}
	if p.Group != "" {
		measures = append(measures, g.byGroup())
	}
	if p.Heartbeat.Enabled {
		measures = append(measures, g.byHeartbeat(b))
	}
	if p.AssumeLag > 0 {
		measures = append(measures, g.byWord())
	}
	s.Measures = slices.Clip(measures)
	if p.Whole() {
		measures = append(measures, g.byPath())
	}
	switch {
	case g.line.heard != 0 && g.line.heard < g.line.highest:
		return s.closed(ByTimeline, fmt.Sprintf("the source failed over (timeline %d) and the publisher still reads the server from before (timeline %d): point --source at the new primary",
			g.line.highest, g.line.heard))
	case !s.Configured && p.Heartbeat.Enabled:
		s = s.closed(ByPolicy, "the heartbeat may overtake other tables' rows, so it proves nothing by itself: name gate.slot and gate.group, or "+vouch)
	case !s.Configured && len(measures) > 0:
		s = s.closed(ByPolicy, "gate.slot and gate.group prove what has been applied only together: name both, or "+vouch)
	case !s.Configured:
		return s.closed(ByPolicy, "no gate is configured, so the lag is unknown and nothing is corrected: name gate.slot and gate.group, "+vouch+", or set gate.assume_lag if you vouch for the lag")
	}
	return s.worst(measures)
}

// worst is what several measures come to: closed if one of them is, and no further than the least of them.
func (s State) worst(measures []Measure) State {
	unknown, sure := false, true
	for _, m := range measures {
		unknown = unknown || m.Lag < 0
		s.Lag = max(s.Lag, m.Lag)
		s.late = s.late || m.behind
		if m.Reason != "" && s.Open {
			s = s.closed(cmp.Or(m.closes, m.By), m.Reason)
		}
		if m.By == BySlot || m.By == ByGroup {
			continue // one half of the way each
		}
		if m.through.IsZero() {
			sure = false
		} else if s.Through.IsZero() || m.through.Before(s.Through) {
			s.Through = m.through
		}
	}
	if unknown {
		s.Lag = -1
	}
	if !sure || !s.Configured {
		s.Through = time.Time{}
	}
	return s
}
