package gate_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/gate"
	"github.com/trickle-verify/trickle/policy"
)

// beats is a heartbeat that says what it is told.
type beats struct {
	at       time.Time
	timeline uint32
	err      error
}

func (b *beats) Beat(context.Context) (time.Time, uint32, error) { return b.at, b.timeline, b.err }

func TestGate(t *testing.T) {
	t.Parallel()
	source := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	heartbeat := policy.Gate{MaxLag: policy.Duration(30 * time.Second), Heartbeat: policy.Heartbeat{Enabled: true, InCommitOrder: true, Table: "trickle.heartbeat", Replica: "cache.heartbeat"}}
	assumed := policy.Gate{AssumeLag: policy.Duration(time.Minute)}
	ago := func(d time.Duration) time.Time { return source.Add(-d) }
	for name, c := range map[string]struct {
		policy  policy.Gate
		saw     time.Time
		elapsed time.Duration // here, since then
		beat    beats
		open    bool
		through time.Time
		lag     time.Duration
		reason  string
		behind  bool
	}{
		"nothing configured":         {policy.Gate{}, source, 0, beats{}, false, time.Time{}, -1, "no gate is configured", false},
		"assumed, no message":        {assumed, time.Time{}, 0, beats{}, false, time.Time{}, -1, "no message", false},
		"assumed":                    {assumed, source, 5 * time.Second, beats{}, true, ago(55 * time.Second), time.Minute, "", false},
		"heartbeat, no message":      {heartbeat, time.Time{}, 0, beats{at: source, timeline: 1}, false, time.Time{}, -1, "no message", false},
		"heartbeat never came":       {heartbeat, source, 0, beats{}, false, time.Time{}, -1, "trickle.heartbeat", false},
		"heartbeat can't be read":    {heartbeat, source, 0, beats{err: errors.New("gone")}, false, time.Time{}, -1, "cache.heartbeat can't be read in the replica: gone", false},
		"in step":                    {heartbeat, source, 0, beats{at: ago(time.Second), timeline: 1}, true, ago(time.Second), time.Second, "", false},
		"at the limit":               {heartbeat, source, 0, beats{at: ago(30 * time.Second), timeline: 1}, true, ago(30 * time.Second), 30 * time.Second, "", false},
		"behind":                     {heartbeat, source, 0, beats{at: ago(31 * time.Second), timeline: 1}, false, ago(31 * time.Second), 31 * time.Second, "more than gate.max_lag 30s", true},
		"the beats stopped":          {heartbeat, source, time.Minute, beats{at: source, timeline: 1}, false, source, time.Minute, "1m0s behind", true},
		"beats ahead of the message": {heartbeat, source, 0, beats{at: source.Add(time.Second), timeline: 1}, true, source.Add(time.Second), 0, "", false},
	} {
		now := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC) // this side's clock is wrong, and it does not matter
		g := gate.New(c.policy, gate.Parts{Heartbeat: &c.beat, Now: func() time.Time { return now }})
		if !c.saw.IsZero() {
			g.Saw(c.saw, 1)
			g.Saw(c.saw.Add(-time.Hour), 1) // an old message takes nothing back
		}
		now = now.Add(c.elapsed)
		s := g.Check(t.Context())
		if s.Open != c.open || !s.Through.Equal(c.through) || s.Lag != c.lag || s.Behind() != c.behind || s.Configured != (c.policy != policy.Gate{}) {
			t.Errorf("%s: %+v", name, s)
		}
		if (s.Reason == "") != s.Open || (s.By == "") != s.Open || !strings.Contains(s.Reason, c.reason) {
			t.Errorf("%s: by %q, reason %q, want %q", name, s.By, s.Reason, c.reason)
		}
		if !c.saw.IsZero() && !s.Source.Equal(source.Add(c.elapsed)) {
			t.Errorf("%s: the source's clock is taken for %s", name, s.Source)
		}
		g.Apply(policy.Gate{})
		if s := g.Check(t.Context()); s.Open || s.Configured {
			t.Errorf("%s: still open after the policy took the gate away: %+v", name, s)
		}
	}
}

// A beat that CDC may have carried past older rows of other tables proves nothing; with it alone nothing is ever proven, until somebody vouches for the order.
func TestAHeartbeatProvesNothingUntilItIsVouchedFor(t *testing.T) {
	t.Parallel()
	source := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, slot := range []string{"", "cdc"} { // nor does half of the way beside it
		p := policy.Gate{MaxLag: policy.Duration(30 * time.Second), Heartbeat: policy.Heartbeat{Enabled: true}, Slot: slot}
		g := gate.New(p, gate.Parts{Heartbeat: &beats{at: source, timeline: 1}, Now: func() time.Time { return source }})
		g.Saw(source, 1)
		s := g.Check(t.Context())
		if s.Open || s.Configured || !s.Through.IsZero() || s.By != gate.ByPolicy || !strings.Contains(s.Reason, "in_commit_order") {
			t.Errorf("slot %q: %+v", slot, s)
		}
	}
}

// A look that was called off says nothing about the replica: neither the log nor the next look takes it for a change.
func TestALookThatIsCalledOffTellsNothing(t *testing.T) {
	t.Parallel()
	source := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	var log strings.Builder
	beat := beats{at: source, timeline: 1}
	g := gate.New(policy.Gate{MaxLag: policy.Duration(time.Minute), Heartbeat: policy.Heartbeat{Enabled: true, InCommitOrder: true}},
		gate.Parts{Heartbeat: &beat, Log: slog.New(slog.NewTextHandler(&log, nil))})
	g.Saw(source, 1)
	if !g.Check(t.Context()).Open {
		t.Fatal("it is closed")
	}
	off, cancel := context.WithCancel(t.Context())
	cancel()
	beat.err = off.Err()
	if g.Check(off).Open {
		t.Error("it is open to somebody who has stopped waiting")
	}
	beat.err = nil
	if !g.Check(t.Context()).Open || strings.Contains(log.String(), "closed") || strings.Count(log.String(), "the gate is open") != 1 {
		t.Errorf("it logs %s", log.String())
	}
}
