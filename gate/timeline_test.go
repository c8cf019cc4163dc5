package gate_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/gate"
	"github.com/trickle-verify/trickle/policy"
)

// After a failover a beat counts only when it was written on the new timeline, however new the clock of the old primary made the old ones look.
func TestFailoverClosesUntilTheNewHeartbeatCame(t *testing.T) {
	t.Parallel()
	source, now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), time.Now()
	b := &beats{at: source.Add(time.Hour), timeline: 1} // the old primary's clock was an hour ahead
	g := gate.New(policy.Gate{MaxLag: policy.Duration(30 * time.Second), Heartbeat: policy.Heartbeat{Enabled: true, InCommitOrder: true}}, gate.Parts{Heartbeat: b, Now: func() time.Time { return now }})
	open := func(when string, want bool, reason string) {
		t.Helper()
		if s := g.Check(t.Context()); s.Open != want || !strings.Contains(s.Reason, reason) || !want && (s.By != gate.ByTimeline || !s.Through.IsZero() || s.Behind()) {
			t.Errorf("%s: %+v", when, s)
		}
	}
	g.Heard(source.Add(time.Hour), 1)
	open("before", true, "")
	if !g.Heard(source, 2) {
		t.Error("the new primary's answer is refused")
	}
	open("after the failover", false, "no heartbeat of that timeline yet")
	g.Saw(source.Add(2*time.Hour), 1)
	if s := g.Check(t.Context()); !s.Source.Equal(source) {
		t.Errorf("a message of the old primary sets the clock to %s", s.Source)
	}
	b.at, b.timeline = source.Add(-time.Second), 2
	open("the new heartbeat came", true, "")
	if g.Heard(source.Add(time.Hour), 1) {
		t.Error("an answer of the old primary is believed")
	}
	open("a publisher reads the old primary", false, "point --source at the new primary")
	g.Heard(source, 2)
	open("none does any more", true, "")
	b.timeline = 3
	open("CDC was there before the publisher", false, "still reads the server from before")
	g.Heard(source, 3)
	open("and now the publisher too", true, "")
}

// A replica that agrees has nothing to ask for, so the messages alone have to show that the publisher has moved, before the new heartbeat comes through or after.
func TestMessagesShowThatThePublisherMoved(t *testing.T) {
	t.Parallel()
	source, now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), time.Now()
	b := &beats{at: source, timeline: 1}
	g := gate.New(policy.Gate{MaxLag: policy.Duration(30 * time.Second), Heartbeat: policy.Heartbeat{Enabled: true, InCommitOrder: true}}, gate.Parts{Heartbeat: b, Now: func() time.Time { return now }})
	closed := func(when, reason string) {
		t.Helper()
		if s := g.Check(t.Context()); s.Open || s.By != gate.ByTimeline || !strings.Contains(s.Reason, reason) {
			t.Errorf("%s: %+v", when, s)
		}
	}
	opened := func(when string) {
		t.Helper()
		if s := g.Check(t.Context()); !s.Open {
			t.Errorf("%s: closed, %s", when, s.Reason)
		}
	}
	g.Heard(source, 1)
	opened("before")
	g.Saw(source.Add(time.Second), 2)
	closed("the message came first", "no heartbeat of that timeline yet")
	b.at, b.timeline = source.Add(time.Second), 2
	opened("and the heartbeat has come")
	b.at, b.timeline = source.Add(2*time.Second), 3
	g.Heard(source.Add(time.Second), 2)
	closed("the heartbeat came first", "still reads the server from before")
	g.Saw(source.Add(time.Second), 2)
	closed("a message that waited", "still reads the server from before")
	g.Saw(source.Add(2*time.Second), 3)
	opened("and the message has come")
}

// With an assumed lag nothing shows what has come through, so what was on its way at the failover is given its time.
func TestFailoverUnderAnAssumedLag(t *testing.T) {
	t.Parallel()
	source, now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), time.Now()
	g := gate.New(policy.Gate{AssumeLag: policy.Duration(time.Minute)}, gate.Parts{Now: func() time.Time { return now }})
	g.Saw(source, 1)
	if s := g.Check(t.Context()); !s.Open {
		t.Errorf("closed: %s", s.Reason)
	}
	g.Saw(source.Add(-time.Hour), 2) // a message that waited, by a clock that is behind
	now = now.Add(59 * time.Second)
	if s := g.Check(t.Context()); s.Open || s.By != gate.ByTimeline {
		t.Errorf("%+v", s)
	}
	now = now.Add(time.Second)
	if s := g.Check(t.Context()); !s.Open {
		t.Errorf("closed: %s", s.Reason)
	}
}

// A heartbeat from before the source's clock was set back proves nothing about the hours that pass again, although CDC stands still and it looks like the newest.
func TestASourceClockThatWasSetBack(t *testing.T) {
	t.Parallel()
	source, now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), time.Now()
	b := &beats{at: source, timeline: 1}
	g := gate.New(policy.Gate{MaxLag: policy.Duration(30 * time.Second), Heartbeat: policy.Heartbeat{Enabled: true, InCommitOrder: true}}, gate.Parts{Heartbeat: b, Now: func() time.Time { return now }})
	g.Heard(source, 1)
	state := g.Check(t.Context())
	if !state.Open {
		t.Fatalf("%+v", state)
	}
	answered := func(readAt time.Time) {
		g.Turned(g.Through(), readAt)
		g.Heard(readAt, 1)
	}
	for _, back := range []time.Duration{-time.Minute, time.Second, -time.Minute} { // an answer that comes late takes nothing back
		answered(source.Add(back))
		if s := g.Check(t.Context()); s.Open || !s.Through.IsZero() || !strings.Contains(s.Reason, "clock was set back") {
			t.Fatalf("%s: %+v", back, s)
		}
	}
	b.at = source.Add(-59 * time.Second)
	if s := g.Check(t.Context()); !s.Open || !s.Through.Equal(b.at) {
		t.Errorf("a beat came from after that: %+v", s)
	}
	answered(source.Add(-58 * time.Second))
	if s := g.Check(t.Context()); !s.Open {
		t.Errorf("all is well again: %+v", s)
	}
}

// overtaken is a publisher whose answer arrives together with the first word of a new timeline.
type overtaken struct{ *pipeline }

func (o overtaken) Path(ctx context.Context, slot string) (gate.Path, error) {
	p, err := o.pipeline.Path(ctx, slot)
	o.g.Saw(p.Clock, p.Timeline+1)
	return p, err
}

// An answer about the slot of the server before says nothing of the new one's, although it was believed when it came in.
func TestAFailoverOvertakesAnAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := gate.New(slotAndGroup(), gate.Parts{})
		p := flowing(g)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.Run(ctx, gate.Inputs{Publisher: overtaken{p}, Groups: p}) }()
		time.Sleep(second)
		if s := g.Check(ctx); s.Open || s.Measures[0].By != gate.BySlot || s.Measures[0].Lag >= 0 {
			t.Errorf("%+v", s)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
