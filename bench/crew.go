package main

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/testbed/proxy"
	"github.com/trickle-verify/trickle/message"
)

// crew is so many publishers of one pipeline.
type crew struct {
	*stand
	pipeline   string
	publishers int
	delay      time.Duration
	kill       bool

	link    *proxy.Proxy
	running []*program
}

// measured is what a crew took.
type measured struct {
	first, second, third       time.Duration // cycles
	source, publishers, broker time.Duration // CPU, over the first two

	takenOver            time.Duration
	ranges, twice, never int
}

// sent is a range that was sent.
type sent struct {
	at    time.Time // of its reading
	cycle uint64
	rng   message.Range
}

// measure runs the crew for two cycles, and for a third in which one of it is killed. They are all there before the window opens, so that
// none gets a start.
func (c *crew) measure(ctx context.Context) (m measured, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	topic := message.Topics{Pipeline: c.pipeline}
	if err := c.bus.Ensure(ctx, app.PublisherNeeds(c.pipeline).Topics...); err != nil {
		return m, err
	}
	tail, err := c.bus.Tail(ctx, topic.Verify())
	if err != nil {
		return m, err
	}
	opens := time.Now().Add(20 * time.Second).Truncate(time.Minute).Add(time.Minute)
	defer func() { err = errors.Join(err, c.dismiss(), tail.Close()) }()
	if err := c.hire(opens); err != nil {
		return m, err
	}
	if err := c.settled(ctx); err != nil {
		return m, err
	}
	if time.Now().After(opens) {
		return m, errors.New("the window opened before all publishers had their part: the machine is too busy")
	}
	progress("%d publishers have their part of %s; the window opens at %s", c.publishers, c.pipeline, opens.Format(time.TimeOnly))
	before := c.cpu()
	var all []sent
	var killed time.Time
	var watching sync.WaitGroup
	var lost error
	defer watching.Wait()
	last := uint64(2)
	if c.kill {
		last = 3
	}
	for {
		records, err := tail.Fetch(ctx)
		if err != nil {
			return m, err
		}
		for _, r := range records {
			env, err := message.Codec{}.Decode(r.Topic, r.Value)
			if err != nil {
				return m, err
			}
			print := env.GetThumbprint()
			all = append(all, sent{env.GetReadAt().AsTime(), print.GetCycle(), message.RangeOf(print.GetRange())})
		}
		_, _, second := span(all, 2)
		if after := c.cpu(); m.source == 0 && !second.IsZero() && begun(all, 3) {
			m.source, m.broker, m.publishers = after[0]-before[0], after[1]-before[1], after[2]-before[2]
		}
		if n, _, _ := span(all, 3); c.kill && killed.IsZero() && n > len(all)/9 { // a third of a cycle
			killed = time.Now()
			victim := c.running[len(c.running)-1]
			if err := victim.Kill(); err != nil {
				return m, err
			}
			progress("one publisher is killed")
			watching.Go(func() { m.takenOver, lost = c.inherited(ctx, victim.PID()) })
		}
		if begun(all, last+1) {
			break
		}
	}
	var first, end time.Time
	_, _, end = span(all, 1)
	m.first = end.Sub(opens)
	m.ranges, first, end = span(all, 2)
	m.second = end.Sub(first)
	if c.kill {
		_, first, end = span(all, 3)
		m.third = end.Sub(first)
		m.twice, m.never = takeover(all)
		watching.Wait()
	}
	return m, lost
}

// inherited waits until nobody's part is the one of a process any more, and returns how long that was.
func (c *crew) inherited(ctx context.Context, pid int) (time.Duration, error) {
	began := time.Now()
	for {
		owners, err := c.owners(ctx)
		if err != nil {
			return 0, err
		}
		still := false
		for _, o := range owners {
			still = still || strings.HasSuffix(o.Owner, "/"+strconv.Itoa(pid))
		}
		if !still {
			return time.Since(began), nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c *crew) owners(ctx context.Context) ([]cursor.Owner, error) {
	topic := message.Topics{Pipeline: c.pipeline}.Cursors()
	_, owners, err := cursor.ReadTopic(ctx, c.bus, cursor.TopicOptions{Name: topic, Log: slog.New(slog.DiscardHandler)})
	return owners, err
}

// settled waits until every publisher has about its part.
func (c *crew) settled(ctx context.Context) error {
	all, err := c.bus.Partitions(ctx, message.Topics{Pipeline: c.pipeline}.Cursors())
	if err != nil {
		return err
	}
	for {
		owners, err := c.owners(ctx)
		if err != nil {
			return err
		}
		shares := map[string]int{}
		for _, o := range owners {
			shares[o.Owner]++
		}
		least := len(owners)
		for _, n := range shares {
			least = min(least, n)
		}
		if len(shares) == c.publishers && len(owners) == all && least >= all/c.publishers {
			return nil
		}
		for _, p := range c.running {
			if err := p.early(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// cpu is what source, broker and publishers have used so far.
func (c *crew) cpu() [3]time.Duration {
	out := [3]time.Duration{serverCPU(c.source.PID()), threadsCPU(c.broker.PID())}
	for _, p := range c.running {
		out[2] += threadsCPU(p.PID())
	}
	return out
}

func begun(all []sent, cycle uint64) bool {
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].cycle == cycle {
			return true
		}
	}
	return false
}

// span counts the ranges of a cycle, and says when the first and the last of them were read.
func span(all []sent, cycle uint64) (ranges int, first, last time.Time) {
	seen := map[string]bool{}
	for _, s := range all {
		if s.cycle != cycle {
			continue
		}
		seen[s.rng.String()] = true
		if first.IsZero() || s.at.Before(first) {
			first = s.at
		}
		if s.at.After(last) {
			last = s.at
		}
	}
	return len(seen), first, last
}

// takeover looks at the cycle in which a publisher was killed: which ranges were sent again or never.
func takeover(all []sent) (twice, never int) {
	times := map[string]int{}
	for _, s := range all {
		if s.cycle == 3 {
			times[s.rng.String()]++
		}
	}
	for _, s := range all {
		if s.cycle == 2 && times[s.rng.String()] == 0 {
			never++
		}
	}
	for _, n := range times {
		twice += n - 1
	}
	return twice, never
}
