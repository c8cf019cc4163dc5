package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/transport"
)

// crew is several publishers of one pipeline.
type crew struct {
	t      *testing.T
	bus    *transport.Memory
	source *fake // that all of them read
	policy *policy.Policy
}

func newCrew(t *testing.T, f *fake, lines string) *crew {
	t.Helper()
	c := &crew{t: t, bus: transport.NewMemory(transport.MemoryOptions{}), source: f, policy: parsed(t, lines)}
	return c
}

func (c *crew) options() cursor.TopicOptions {
	return cursor.TopicOptions{Name: "test.cursors", Group: "test.cursors", Partitions: 12, Log: slog.New(slog.DiscardHandler)}
}

// member is one publisher.
type member struct {
	*fake     // what it scanned itself
	scheduler *Scheduler
	store     *watched
	// stop ends it, and leave lets the group know: at once, or when it would have been missed.
	stop, leave func()
}

// watched counts the readings that are saved into a share that is another publisher's.
type watched struct {
	*cursor.Topic
	vain atomic.Int32
}

func (w *watched) Save(ctx context.Context, share int, change cursor.Change) error {
	if shares, err := w.Shares(); err == nil && shares.Mine[share] == 0 && len(change.Ranges) > 0 {
		w.vain.Add(1)
	}
	return w.Topic.Save(ctx, share, change)
}

// hire starts a publisher. Its scans are noted for itself and for the whole crew.
func (c *crew) hire() *member { return c.hireAs(new(fake)) }

// hireAs starts one that is different from the others.
func (c *crew) hireAs(own *fake) *member {
	c.t.Helper()
	topic, err := cursor.OpenTopic(c.t.Context(), c.bus, c.options())
	if err != nil {
		c.t.Fatal(err)
	}
	own.began = c.source.began
	m := &member{fake: own, store: &watched{Topic: topic}}
	s, stop := running(c.t, Config{Policy: c.policy, Scanner: seen{c.source, m.fake}, Store: m.store})
	var once sync.Once
	m.scheduler, m.stop, m.leave = s, stop, func() {
		once.Do(func() {
			if err := topic.Close(); err != nil {
				c.t.Error(err)
			}
		})
	}
	c.t.Cleanup(func() { stop(); m.leave() })
	return m
}

// seen scans one source and notes it in another fake as well, which may also miss a table, or be unable to cut any.
type seen struct {
	*fake
	by *fake
}

func (s seen) Tables(ctx context.Context) ([]TableStatus, error) {
	found, err := s.fake.Tables(ctx)
	s.by.mu.Lock()
	defer s.by.mu.Unlock()
	return slices.DeleteFunc(found, func(t TableStatus) bool { return t.Name == s.by.missed }), err
}

func (s seen) Plan(ctx context.Context, table string, within message.Range) ([]cursor.Range, error) {
	if s.by.blunt {
		return nil, errors.New("out of memory")
	}
	return s.fake.Plan(ctx, table, within)
}

func (s seen) Scan(ctx context.Context, job Job) (Scanned, error) {
	s.by.mu.Lock()
	s.by.scans = append(s.by.scans, scan{time.Since(s.by.began), job})
	s.by.mu.Unlock()
	return s.fake.Scan(ctx, job)
}

// cycle gathers how often each range was scanned in a cycle, and when the first and the last were.
func (f *fake) cycle(table string, n uint64) (times map[string]int, first, last time.Duration) {
	times, first = map[string]int{}, time.Hour
	for _, s := range f.seen() {
		if s.job.Table == table && s.job.Cycle == n {
			times[s.job.Range.Bounds.String()]++
			first, last = min(first, s.at), max(last, s.at)
		}
	}
	return times, first, last
}

// stored is what all shares hold; every table's ranges must be a chain.
func (c *crew) stored() cursor.State {
	c.t.Helper()
	state, _, err := cursor.ReadTopic(c.t.Context(), c.bus, c.options())
	if err != nil {
		c.t.Fatal(err)
	}
	for table, ranges := range state.Ranges {
		if err := wholeChain(ranges); err != nil {
			c.t.Errorf("%s: %v", table, err)
		}
	}
	return state
}
