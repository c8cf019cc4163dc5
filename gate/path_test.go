package gate_test

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

	"github.com/trickle-verify/trickle/gate"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/telemetry/pulse"
)

// pipeline is a publisher and a Kafka that say what they are told; a record is written in each second, and the slot is confirmed and the group has committed up to
// the second that it is held at.
type pipeline struct {
	g     *gate.Gate
	began time.Time

	mu        sync.Mutex
	slotHeld  time.Duration // since the beginning; negative: not held
	groupHeld time.Duration
	timeline  uint32
	reason    string
	members   int
	fetched   error         // what Kafka answers
	silent    bool          // the publisher does not answer
	hung      bool          // Kafka does not answer
	refusal   error         // what the publisher answers
	ahead     time.Duration // the source's clock, of ours
	reading   func()        // what happens during the next reading of the group
}

const second = time.Second

var errNoRight = errors.New("no right")

func (p *pipeline) change(how func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	how()
}

func (p *pipeline) since(held time.Duration) time.Duration {
	if held >= 0 {
		return held
	}
	return time.Since(p.began)
}

func (p *pipeline) Path(ctx context.Context, slot string) (gate.Path, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.silent {
		p.mu.Unlock()
		<-ctx.Done()
		p.mu.Lock()
		return gate.Path{}, ctx.Err()
	}
	if slot != "cdc" {
		return gate.Path{}, errors.New("asked about " + slot)
	}
	if p.refusal != nil {
		return gate.Path{}, p.refusal
	}
	now := time.Now().Add(p.ahead)
	if !p.g.Heard(now, p.timeline) {
		return gate.Path{}, errors.New("outdated")
	}
	return gate.Path{Clock: now, Timeline: p.timeline, Through: p.began.Add(p.since(p.slotHeld)).Add(p.ahead), Reason: p.reason}, nil
}

func (p *pipeline) Group(ctx context.Context, name string) (gate.Group, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if do := p.reading; do != nil {
		p.reading = nil
		p.mu.Unlock()
		do()
		p.mu.Lock()
	}
	if p.hung {
		p.mu.Unlock()
		<-ctx.Done()
		p.mu.Lock()
		return gate.Group{}, ctx.Err()
	}
	if name != "sink" {
		return gate.Group{}, errors.New("asked about " + name)
	}
	if p.fetched != nil {
		return gate.Group{}, p.fetched
	}
	at := gate.Progress{End: int64(time.Since(p.began) / second), Done: int64(p.since(p.groupHeld) / second)}
	if at.Done < at.End {
		at.Since = p.began.Add(time.Duration(at.Done) * second)
	}
	return gate.Group{Members: p.members, Partitions: map[gate.Partition]gate.Progress{{Topic: "orders", ID: 0}: at}}, nil
}

// flowing is a pipeline in which everything flows, on a source whose clock is an hour ahead of ours.
func flowing(g *gate.Gate) *pipeline {
	return &pipeline{g: g, began: time.Now(), slotHeld: -1, groupHeld: -1, timeline: 1, members: 1, ahead: time.Hour}
}

// start runs a gate on a pipeline in which everything flows.
func start(t *testing.T, pol policy.Gate, beat gate.Heartbeat, log *slog.Logger) *pipeline {
	t.Helper()
	p := flowing(gate.New(pol, gate.Parts{Heartbeat: beat, Log: log}))
	p.run(t)
	return p
}

// run runs its gate until the test ends.
func (p *pipeline) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.g.Run(ctx, gate.Inputs{Publisher: p, Groups: p}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func slotAndGroup() policy.Gate {
	return policy.Gate{MaxLag: policy.Duration(30 * second), Slot: "cdc", Group: "sink"}
}

func TestAPublisherThatHasYetToAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := flowing(gate.New(slotAndGroup(), gate.Parts{}))
		p.silent = true
		p.run(t)
		time.Sleep(second)
		if s := p.g.Check(t.Context()); s.Open || !strings.Contains(s.Reason, "the publisher has not answered yet") {
			t.Errorf("%+v", s)
		}
	})
}

// What is unknown closes the gate, whatever else is fine, and so does either half of the way that is late; each says why, and it opens by itself when that is over.
func TestUnknownMeansClosed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		trouble func(p *pipeline)
		by      string
		reason  string
		known   bool // how late it is
	}{
		"the connector stands still": {func(p *pipeline) { p.slotHeld = time.Since(p.began) }, gate.BySlot, "replication slot cdc is 5", true},
		"nobody reads the slot":      {func(p *pipeline) { p.reason = "nobody reads it" }, gate.BySlot, "nobody reads it", false},
		"the publisher is silent":    {func(p *pipeline) { p.silent = true }, gate.BySlot, "has not answered for 5", false},
		"it can't read the slot":     {func(p *pipeline) { p.refusal = errors.New("the source is down") }, gate.BySlot, "the source is down", false},
		"the sink stands still":      {func(p *pipeline) { p.groupHeld = time.Since(p.began) }, gate.ByGroup, "consumer group sink is ", true},
		"the sink has gone":          {func(p *pipeline) { p.groupHeld, p.members = time.Since(p.began), 0 }, gate.ByGroup, "no members, and records to go in orders[0]", false},
		"the group is not known":     {func(p *pipeline) { p.fetched = errNoRight }, gate.ByGroup, "consumer group sink: no right", false},
		"Kafka is silent":            {func(p *pipeline) { p.hung = true }, gate.ByGroup, "consumer group sink", false},
		"the source fails over":      {func(p *pipeline) { p.timeline, p.groupHeld = 2, time.Since(p.began) }, gate.ByGroup, "consumer group sink is ", true},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := start(t, slotAndGroup(), nil, nil)
			settled := func(when string) {
				t.Helper()
				s := p.g.Check(t.Context())
				if !s.Open || s.Reason != "" || s.By != "" || s.Lag < 0 || s.Lag > 12*second || s.Source.Sub(s.Through) > 12*second || s.Source.Sub(s.Through) < 5*second { // what was confirmed is left to settle
					t.Errorf("%s, %s: %+v", name, when, s)
				}
			}
			time.Sleep(20 * second)
			settled("before")
			p.change(func() { c.trouble(p) })
			time.Sleep(55 * second)
			s := p.g.Check(t.Context())
			if s.Open || s.By != c.by || !strings.Contains(s.Reason, c.reason) || s.Behind() != c.known {
				t.Errorf("%s: %+v", name, s)
			}
			p.change(func() {
				p.slotHeld, p.groupHeld, p.reason, p.members, p.fetched, p.refusal, p.silent, p.hung = -1, -1, "", 1, nil, nil, false, false
			})
			time.Sleep(65 * second) // a question that hangs is given up in time
			settled("after")
		})
	}
}

// A failover makes all that is known of the way worthless, until what the new primary wrote has come through.
func TestFailoverBySlotAndGroup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, slotAndGroup(), nil, nil)
		time.Sleep(20*second + second/2) // between two questions, whose answers are the old primary's
		p.g.Heard(time.Now(), 2)         // the new primary's clock is an hour behind
		s := p.g.Check(t.Context())
		if s.Open || s.By != gate.BySlot || !s.Through.IsZero() {
			t.Errorf("just after it: %+v", s)
		}
		time.Sleep(20 * second)
		if s := p.g.Check(t.Context()); s.Open || !s.Through.IsZero() {
			t.Errorf("a publisher that still reads the old primary: %+v", s)
		}
		p.change(func() { p.groupHeld = time.Since(p.began) })
		time.Sleep(3 * second)
		p.change(func() { p.timeline = 2 })
		time.Sleep(12 * second)
		if s := p.g.Check(t.Context()); s.Open || s.By != gate.ByTimeline || !strings.Contains(s.Reason, "has not come through to the sink yet") {
			t.Errorf("before the sink got there: %+v", s)
		}
		p.change(func() { p.groupHeld = -1 })
		time.Sleep(12 * second)
		if s := p.g.Check(t.Context()); !s.Open {
			t.Errorf("after: %s", s.Reason)
		}
	})
}

// Beside a heartbeat each half closes the gate for itself, and the least of what is known is what counts.
func TestSlotAndGroupBesideTheHeartbeat(t *testing.T) {
	t.Parallel()
	heartbeat := policy.Heartbeat{Enabled: true, InCommitOrder: true, Table: "h", Replica: "h"}
	for name, c := range map[string]struct {
		slot, group string
		trouble     func(p *pipeline)
		by          string
		ago         time.Duration // what is known to be applied, give or take
	}{
		"all is well, the heartbeat is the least": {"cdc", "sink", func(*pipeline) {}, "", 25 * second},
		"slot and group are the least":            {"cdc", "sink", func(p *pipeline) { p.groupHeld = 62 * second }, gate.ByGroup, 46 * second},
		"a slot":                                  {"cdc", "", func(*pipeline) {}, "", 25 * second},
		"a slot that nobody reads":                {"cdc", "", func(p *pipeline) { p.reason = "nobody reads it" }, gate.BySlot, 25 * second},
		"a group":                                 {"", "sink", func(p *pipeline) { p.g.Heard(time.Now().Add(time.Hour), 1) }, "", 25 * second},
		"a group that is late":                    {"", "sink", func(p *pipeline) { p.groupHeld = 0; p.g.Heard(time.Now().Add(time.Hour), 1) }, gate.ByGroup, 25 * second},
	} {
		synctest.Test(t, func(t *testing.T) {
			beat := &beats{timeline: 1}
			p := start(t, policy.Gate{MaxLag: policy.Duration(30 * second), Slot: c.slot, Group: c.group, Heartbeat: heartbeat}, beat, nil)
			p.change(func() { c.trouble(p) })
			time.Sleep(101 * second)
			beat.at = time.Now().Add(time.Hour - 25*second)
			s := p.g.Check(t.Context())
			if s.Open != (c.by == "") || s.By != c.by || (s.Source.Sub(s.Through)-c.ago).Abs() > 5*second {
				t.Errorf("%s: %+v, through %s ago", name, s, s.Source.Sub(s.Through))
			}
			want := 1
			for _, n := range []string{c.slot, c.group} {
				if n != "" {
					want++
				}
			}
			if len(s.Measures) != want {
				t.Errorf("%s: %+v", name, s.Measures)
			}
		})
	}
}

// A loop is listed as long as the policy names what it follows.
func TestLoopsOfWhatThePolicyNames(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := pulse.New(pulse.Bound)
		g := gate.New(policy.Gate{}, gate.Parts{})
		ctx, cancel := context.WithCancel(m.In(t.Context()))
		done := make(chan error)
		go func() { done <- g.Run(ctx, gate.Inputs{Publisher: flowing(g)}) }()
		for _, c := range []struct{ slot, group, want string }{{"", "", ""}, {"cdc", "", "asking about the replication slot"}, {"", "sink", "following the sink's group"}, {"", "", ""}} {
			g.Apply(policy.Gate{MaxLag: policy.Duration(30 * second), Slot: c.slot, Group: c.group})
			time.Sleep(5 * second)
			var names []string
			for _, l := range m.State().Loops {
				name, _, _ := strings.Cut(l, ": ")
				names = append(names, name)
			}
			if got := strings.Join(names, ", "); got != c.want {
				t.Errorf("slot %q, group %q: %s", c.slot, c.group, got)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Half of the way alone proves nothing, however well it looks.
func TestHalfOfTheWay(t *testing.T) {
	t.Parallel()
	for _, pol := range []policy.Gate{{MaxLag: policy.Duration(30 * second), Slot: "cdc"}, {MaxLag: policy.Duration(30 * second), Group: "sink"}} {
		synctest.Test(t, func(t *testing.T) {
			p := start(t, pol, nil, nil)
			time.Sleep(20 * second)
			if s := p.g.Check(t.Context()); s.Open || s.Configured || s.By != gate.ByPolicy || !s.Through.IsZero() || len(s.Measures) != 1 || s.Measures[0].Reason != "" {
				t.Errorf("%+v", s)
			}
		})
	}
}

// Without Kafka there is no group to look at, and that is said.
func TestAGroupWithoutKafka(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := gate.New(slotAndGroup(), gate.Parts{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- g.Run(ctx, gate.Inputs{Publisher: flowing(g)})
		}()
		time.Sleep(5 * second)
		if s := g.Check(t.Context()); s.Open || s.By != gate.ByGroup || !strings.Contains(s.Reason, "no Kafka in this process") {
			t.Errorf("%+v", s)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A verdict is logged when it changes, not each time that somebody asks; another policy is acted upon without a restart.
func TestVerdictsAreLoggedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := start(t, slotAndGroup(), nil, slog.New(slog.NewTextHandler(&out, nil)))
		look := func(n int) {
			for range n {
				p.g.Check(t.Context())
				time.Sleep(second)
			}
		}
		look(20)
		p.change(func() { p.reason = "nobody reads it" })
		look(20)
		p.change(func() { p.reason = "" })
		look(20)
		p.g.Apply(policy.Gate{MaxLag: policy.Duration(30 * second), Slot: "other", Group: "sink"})
		look(20)
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		for len(lines) > 0 && !strings.Contains(lines[0], "is open") { // what it lacked at first
			lines = lines[1:]
		}
		want := []string{"is open", "nobody reads it", "is open", "slot other"}
		if len(lines) != len(want) {
			t.Fatalf("%d lines from the opening on:\n%s", len(lines), out.String())
		}
		for i, line := range lines {
			if !strings.Contains(line, want[i]) {
				t.Errorf("want %q in %s", want[i], line)
			}
		}
	})
}

// What was known of the old primary goes into no mark of the new one's time, although the source fails over while the ends are being read.
func TestFailoverWhileTheGroupIsRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, slotAndGroup(), nil, nil)
		time.Sleep(20*second + second/2)
		if s := p.g.Check(t.Context()); !s.Open {
			t.Fatalf("before: %+v", s)
		}
		p.change(func() {
			p.reading = func() {
				p.change(func() { p.timeline = 2 })
				time.Sleep(3 * second) // the publisher tells of the new timeline meanwhile
			}
		})
		time.Sleep(5 * second)
		if s := p.g.Check(t.Context()); s.Open || s.By != gate.ByTimeline || !s.Through.IsZero() {
			t.Errorf("right after the failover: %+v", s)
		}
		time.Sleep(20 * second)
		if s := p.g.Check(t.Context()); !s.Open {
			t.Errorf("at last: %+v", s)
		}
	})
}
