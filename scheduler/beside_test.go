package scheduler

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/cursor"
)

// builder works beside the scan, as fast as it is let, and notes when.
type builder struct {
	rows int
	took time.Duration

	mu     sync.Mutex
	pieces []time.Time
}

// work goes on until the context ends.
func (b *builder) work(ctx context.Context, beside *Beside) {
	defer beside.Close()
	for beside.Wait(ctx) == nil {
		start := time.Now()
		time.Sleep(b.took)
		beside.Spent(Cost{Start: start, End: time.Now(), Rows: b.rows, Bytes: int64(b.rows), Source: b.took})
		b.mu.Lock()
		b.pieces = append(b.pieces, start)
		b.mu.Unlock()
	}
}

func (b *builder) done() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.pieces)
}

// Scan and build together stay within each ceiling, each gets its half, and the scan has all of it again afterwards.
func TestBesideTheScan(t *testing.T) {
	t.Parallel()
	const (
		scanRows, buildRows = 5000, 20_000
		took, long          = 100 * time.Millisecond, time.Second
	)
	for _, c := range []struct {
		lines       string
		scan, build float64 // cost of a piece, in units of the ceiling
	}{
		{"rate: {rows_per_second: 1000}", scanRows / 1000., buildRows / 1000.},
		{"rate: {bytes_per_second: 1000B}", 5000 / 1000., buildRows / 1000.},
		{"rate: {source_share: 2%}", took.Seconds() / 0.02, long.Seconds() / 0.02},
	} {
		t.Run(c.lines, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFake(map[string]int{"public.a": 100_000})
				f.took, f.bytes = took, 5000
				s, _ := running(t, Config{Policy: parsed(t, "schedule: {cycle: 1s}\nbaseline: {url: 'mem://'}\n"+c.lines), Scanner: f})
				const alone, together = 10 * time.Minute, time.Hour
				used := func(scans, pieces int, over time.Duration) (scan, build float64) {
					return float64(scans) * c.scan / over.Seconds(), float64(pieces) * c.build / over.Seconds()
				}
				after(alone)
				first := f.count("")
				if scan, _ := used(first, 0, alone); scan > 1.02 || scan < 0.97 {
					t.Errorf("alone, the scan had %.3f of the ceiling", scan)
				}
				if !s.Leads() {
					t.Error("the only publisher does not lead")
				}
				ctx, cancel := context.WithCancel(t.Context())
				b := &builder{rows: buildRows, took: long}
				var ended sync.WaitGroup
				ended.Go(func() { b.work(ctx, s.Beside()) })
				after(together + 5*time.Second)
				second, built := f.count(""), b.done()
				scan, build := used(second-first, built, together)
				if scan+build > 1.02 || scan < 0.47 || build < 0.47 {
					t.Errorf("beside each other, the scan had %.3f of the ceiling and the build %.3f", scan, build)
				}
				if s.Waiting() == "" {
					t.Error("nothing tells what the build waits for")
				}
				cancel()
				ended.Wait()
				after(alone)
				if scan, _ := used(f.count("")-second, 0, alone); scan > 1.02 || scan < 0.85 {
					t.Errorf("afterwards the scan had %.3f of the ceiling", scan)
				}
			})
		})
	}
}

// A build that fails at once and is begun again gets no more than one that goes on.
func TestBesideAgainAndAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.a": 100_000})
		s, _ := running(t, Config{Policy: parsed(t, "schedule: {cycle: 1s}\nrate: {rows_per_second: 1000}\nbaseline: {url: 'mem://'}"), Scanner: f})
		after(time.Minute)
		before, pieces, began := f.count(""), 0, time.Now()
		for time.Since(began) < 10*time.Minute {
			beside := s.Beside()
			if err := beside.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			beside.Spent(Cost{Start: start, End: start, Rows: 10_000})
			pieces++
			beside.Close()
		}
		over := time.Since(began).Seconds()
		if rate := (float64(f.count("")-before)*5000 + float64(pieces)*10_000) / over; rate > 1050 {
			t.Errorf("%.0f rows a second in %d pieces", rate, pieces)
		}
	})
}

func TestBesideGoesByWindowsAndBackoff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // begins at midnight UTC
		load := new(busy)
		f := newFake(map[string]int{"public.a": 2})
		s, _ := running(t, Config{
			Policy:  parsed(t, "schedule: {cycle: 100h, windows: [{start: '0 22 * * *', for: 1h}]}\nbackoff: {source_latency: 50ms}\nbaseline: {url: 'mem://'}"),
			Scanner: f, Load: load,
		})
		b := &builder{rows: 1, took: time.Second}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var ended sync.WaitGroup
		ended.Go(func() { b.work(ctx, s.Beside()) })
		after(22*time.Hour - time.Second)
		if n := b.done(); n != 0 {
			t.Errorf("%d pieces while the window was closed", n)
		}
		after(31 * time.Second)
		quiet := b.done()
		if quiet < 25 {
			t.Errorf("%d pieces in half a minute of an open window", quiet)
		}
		load.latency.Store(int64(80 * time.Millisecond))
		after(time.Minute)
		settled := b.done()
		after(4 * time.Minute)
		if n := b.done() - settled; n < 1 || n > 3 { // at 1/64 of half of the time a second's work is done every two minutes
			t.Errorf("%d pieces in four minutes beside a busy source", n)
		}
		after(time.Hour)
		cancel()
		ended.Wait()
		if err := s.Beside().Wait(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// Whoever builds, the ceilings are those of all publishers together.
func TestBesideInACrew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.a": 1000, "public.b": 1000})
		c := newCrew(t, f, "schedule: {cycle: 1s}\nrate: {rows_per_second: 100000}\nbaseline: {url: 'mem://'}")
		members := []*member{c.hire(), c.hire(), c.hire()}
		after(2 * time.Minute)
		rate := func(over time.Duration) float64 {
			before := f.count("")
			after(over)
			return float64(f.count("")-before) * 5000 / over.Seconds()
		}
		if r := rate(5 * time.Minute); r > 102_000 || r < 80_000 {
			t.Errorf("without a build, %.0f rows a second", r)
		}
		var leader *member
		for _, m := range members {
			if m.scheduler.Leads() {
				if leader != nil {
					t.Error("two publishers lead")
				}
				leader = m
			}
		}
		if leader == nil {
			t.Fatal("nobody leads")
		}
		ctx, cancel := context.WithCancel(t.Context())
		b := &builder{rows: 50_000, took: 100 * time.Millisecond}
		var ended sync.WaitGroup
		tell := func(set string) {
			if err := leader.scheduler.Tell(t.Context(), cursor.Build{Set: set, Told: time.Now()}); err != nil {
				t.Error(err)
			}
		}
		ended.Go(func() {
			tick := time.NewTicker(TellEvery)
			defer tick.Stop()
			for ctx.Err() == nil {
				tell("s1")
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
			tell("")
		})
		synctest.Wait()
		ended.Go(func() { b.work(ctx, leader.scheduler.Beside()) })
		after(10 * time.Second)
		before := b.done()
		r := rate(5 * time.Minute)
		built := float64(b.done()-before) * 50_000 / 300
		if r+built > 102_000 || built < 45_000 || r < 30_000 {
			t.Errorf("beside a build of %.0f rows a second, %.0f are scanned", built, r)
		}
		cancel()
		ended.Wait()
		after(forgotten)
		if r := rate(5 * time.Minute); r > 102_000 || r < 80_000 {
			t.Errorf("after the build, %.0f rows a second", r)
		}
		leader.stop()
		leader.leave()
		after(5 * time.Second)
		leads := 0
		for _, m := range members {
			if m != leader && m.scheduler.Leads() {
				leads++
			}
		}
		if leads != 1 {
			t.Errorf("after the leader left, %d lead", leads)
		}
	})
}
