package gate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/telemetry/pulse"
)

const (
	// every is how often slot and group are looked at.
	every = 2 * time.Second
	// within is how old the last word about them may be. It leaves room for a publisher that is busy with longer answers.
	within = 15 * time.Second
	// settling is how long what was confirmed is left alone before it counts as being in the topics. Debezium confirms by the newest record that a broker has
	// acknowledged, while one from before it may still be on its way to another broker.
	settling = 5 * time.Second
	// patience is how long one question to the publisher is kept up; it is repeated meanwhile.
	patience = time.Minute
)

// Path is what the publisher says about the way from the source to the topics of CDC.
type Path struct {
	Clock    time.Time // the source's, when it was looked at
	Timeline uint32
	// Through: every transaction that committed before it has been confirmed to the slot. Zero: unknown.
	Through time.Time
	Reason  string // why the slot can't be relied upon; empty: it can
}

// Publisher asks the publisher.
type Publisher interface {
	Path(ctx context.Context, slot string) (Path, error)
}

// Partition names one of a topic.
type Partition struct {
	Topic string
	ID    int32
}

// Progress is how far a consumer group has got in one partition.
type Progress struct {
	End  int64 // the offset behind the last record
	Done int64 // every record before it has been dealt with; End where none is left
	// Since is when the first record that is left was written, by the clock of whoever wrote it; zero: there is none, or it isn't known.
	Since time.Time
}

// Group is a consumer group: every partition of every topic that it reads, as far as its members say, or its commits where it has none.
type Group struct {
	Members    int
	Partitions map[Partition]Progress
}

// Groups reads consumer groups. Its error says what is missing and the next step.
type Groups interface {
	Group(ctx context.Context, name string) (Group, error)
}

// Inputs are what Run listens to.
type Inputs struct {
	Publisher Publisher
	Groups    Groups // nil: there is no Kafka
}

// pathView is what was last heard about the slot.
type pathView struct {
	slot    string
	asked   time.Time // when the first question about it was put
	at      time.Time // when the last answer came; zero: none yet
	through time.Time // the latest there was
	reason  string
	told    []told    // not settled yet, oldest first
	settled time.Time // the latest through that was told long enough ago
}

// told is a time through which everything has been confirmed, and when that was heard.
type told struct{ at, through time.Time }

// settle gives the latest time through which everything has been in the topics for certain.
func (v *pathView) settle(now time.Time) time.Time {
	for len(v.told) > 0 && now.Sub(v.told[0].at) >= settling {
		v.settled = latest(v.settled, v.told[0].through)
		v.told = v.told[1:]
	}
	return v.settled
}

// forget takes back all that was told about times of the source's clock.
func (v *pathView) forget() { v.through, v.told, v.settled = time.Time{}, nil, time.Time{} }

// groupView is what was last read about the group.
type groupView struct {
	name  string
	asked time.Time
	at    time.Time // when it was last read, or failed to be
	group Group
	err   error
}

// Run keeps an eye on slot and group, where the policy names them, until the context ends.
func (g *Gate) Run(ctx context.Context, in Inputs) error {
	var loops errgroup.Group
	loops.Go(func() error {
		return loop(ctx, "asking about the replication slot", func(ctx context.Context) bool { return g.ask(ctx, in.Publisher) })
	})
	loops.Go(func() error {
		return loop(ctx, "following the sink's group", func(ctx context.Context) bool { return g.read(ctx, in.Groups) })
	})
	return loops.Wait()
}

// loop turns; once tells whether there was anything to do.
func loop(ctx context.Context, name string, once func(context.Context) bool) error {
	ctx, end := pulse.Loop(ctx, name)
	defer end()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if once(ctx) {
			pulse.Beat(ctx)
		} else {
			pulse.Idle(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// ask asks the publisher about the slot, once; false: the policy names none.
func (g *Gate) ask(ctx context.Context, publisher Publisher) bool {
	slot, ok := g.wants(func() string { return g.policy.Slot }, func(slot string) {
		if g.path.slot != slot {
			g.path = pathView{slot: slot, asked: g.parts.Now()}
			g.marks = marks{}
		}
	})
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p, err := publisher.Path(ctx, slot)
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.path.slot != slot || ctx.Err() != nil: // silence shows as the age of the last answer
	case err != nil:
		g.path.at, g.path.reason = g.parts.Now(), fmt.Sprintf("the publisher can't tell about replication slot %s: %v", slot, err)
	case p.Timeline != 0 && p.Timeline != g.line.highest: // overtaken by a failover
	default:
		if g.path.through.After(p.Clock) {
			g.path.forget() // the source's clock was set back
			g.marks.rewind(p.Clock)
		}
		if p.Through.After(g.path.through) {
			g.path.through = p.Through
			g.path.told = append(g.path.told, told{g.parts.Now(), p.Through})
		}
		g.path.at, g.path.reason = g.parts.Now(), p.Reason
	}
	return true
}

// errNoKafka: without Kafka there are no consumer groups.
var errNoKafka = errors.New("there is no Kafka in this process (trickle run --without-kafka), so no consumer group can be followed: leave gate.group out, or run both sides over Kafka")

// read reads the group, once; false: the policy names none.
func (g *Gate) read(ctx context.Context, groups Groups) bool {
	var next mark
	var line uint32
	name, ok := g.wants(func() string { return g.policy.Group }, func(name string) {
		if g.group.name != name {
			g.group = groupView{name: name, asked: g.parts.Now()}
			g.marks = marks{}
		}
		// The time is taken before the ends are read: whatever it covers is in the topics by then.
		next.at = g.parts.Now()
		next.through, line = g.path.settle(next.at), g.line.highest
	})
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var group Group
	err := errNoKafka
	if groups != nil {
		group, err = groups.Group(ctx, name)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.group.name != name || errors.Is(err, context.Canceled) {
		return true
	}
	g.group.at, g.group.err = g.parts.Now(), err
	if err != nil {
		return true
	}
	g.group.group = group
	if group.Members == 0 {
		return true // nobody says which topics it reads, so there may be one that can't be seen from here
	}
	if g.line.highest != line || next.through.After(g.path.through) {
		next.through = time.Time{} // a failover or a clock set back came in between
	}
	next.ends = make(map[Partition]int64, len(group.Partitions))
	done := make(map[Partition]int64, len(group.Partitions))
	for p, at := range group.Partitions {
		next.ends[p], done[p] = at.End, at.Done
	}
	g.marks.add(next, done)
	return true
}

// wants reads a name out of the policy and prepares for it; false: the policy names none.
func (g *Gate) wants(named func() string, prepare func(string)) (string, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	name := named()
	prepare(name)
	return name, name != ""
}

// bySlot judges what the publisher says. It needs the lock.
func (g *Gate) bySlot() Measure {
	m, v, now := Measure{By: BySlot, Lag: -1}, g.path, g.parts.Now()
	if v.slot != g.policy.Slot || v.asked.IsZero() {
		return m.closed("replication slot %s has not been looked at yet", g.policy.Slot)
	}
	if at := latest(v.at, v.asked); now.Sub(at) > within || v.at.IsZero() {
		return m.closed("the publisher has not answered %s, so nothing is known about replication slot %s: does it run?", silence(v.at, now.Sub(at)), v.slot)
	}
	if !v.through.IsZero() {
		m.Lag = max(0, g.sourceNow().Sub(v.through))
	}
	switch limit := time.Duration(g.policy.MaxLag); {
	case v.reason != "":
		return m.closed("%s", v.reason)
	case m.Lag < 0:
		return m.closed("the publisher does not know yet how far replication slot %s is", v.slot)
	case m.Lag > limit:
		return m.late("replication slot %s is %s behind, more than gate.max_lag %s: is the connector running, and does it confirm what it has read?", v.slot, round(m.Lag), limit)
	}
	return m
}

// silence is how long there was no answer, in words, the last of which came at the given time if there ever was one.
func silence(last time.Time, d time.Duration) string {
	if last.IsZero() && d < within {
		return "yet"
	}
	return "for " + round(d).String()
}

// byGroup judges what was read about the group. It needs the lock.
func (g *Gate) byGroup() Measure {
	m, v, now := Measure{By: ByGroup, Lag: -1}, g.group, g.parts.Now()
	if v.name != g.policy.Group || v.asked.IsZero() {
		return m.closed("consumer group %s has not been looked at yet", g.policy.Group)
	}
	if at := latest(v.at, v.asked); now.Sub(at) > within || v.at.IsZero() {
		return m.closed("Kafka has not answered %s, so nothing is known about consumer group %s", silence(v.at, now.Sub(at)), v.name)
	}
	if v.err != nil {
		return m.closed("consumer group %s: %v", v.name, v.err)
	}
	m.Lag = g.groupLag(now)
	where, left := oldestLeft(v.group)
	switch limit := time.Duration(g.policy.MaxLag); {
	case v.group.Members == 0 && left:
		return m.closed("consumer group %s has no members, and records to go in %s[%d]: is the sink running?", v.name, where.Topic, where.ID)
	case v.group.Members == 0:
		return m.closed("consumer group %s has no members: is the sink running?", v.name)
	case m.Lag > limit:
		return m.late("consumer group %s is %s behind, more than gate.max_lag %s, in %s[%d]", v.name, round(m.Lag), limit, where.Topic, where.ID)
	}
	return m
}

// groupLag is how long ago the topics ended where the group is now. Until that was seen, the oldest record that is left tells, by the clock of whoever wrote it.
func (g *Gate) groupLag(now time.Time) time.Duration {
	if !g.marks.passed.at.IsZero() {
		return now.Sub(g.marks.passed.at)
	}
	var lag time.Duration
	if len(g.marks.list) > 0 {
		lag = now.Sub(g.marks.list[0].at)
	}
	for _, p := range g.group.group.Partitions {
		if !p.Since.IsZero() {
			lag = max(lag, now.Sub(p.Since))
		}
	}
	return lag
}

// oldestLeft names the partition that has waited longest; false: nothing is left in any.
func oldestLeft(v Group) (where Partition, left bool) {
	var since time.Time
	for p, at := range v.Partitions {
		if at.Done < at.End && (!left || at.Since.Before(since)) {
			where, since, left = p, at.Since, true
		}
	}
	return where, left
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }
