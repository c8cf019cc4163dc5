package scheduler

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/trickle-verify/trickle/measure"
)

// What a scan waits for.
const (
	ByWindow   = "window"           // schedule.windows
	ByCycle    = "cycle"            // schedule.cycle: the work is spread over it
	ByRows     = "rows_per_second"  // rate.rows_per_second
	ByBytes    = "bytes_per_second" // rate.bytes_per_second
	ByShare    = "source_share"     // rate.source_share
	ByCeilings = "rate"             // any of these, half of which the scan is to give up
	ByBusy     = "source_busy"      // backoff
	BySource   = "source"           // a range takes that long to read
	ByIdle     = "idle"             // nothing is due, or nothing is ours
	ByPaused   = "paused"           // all that is due is paused
	ByOthers   = "other_publishers"
	ByFailure  = "failure" // of the source, or of the store of cursors
)

// spending is what was done about a table.
type spending struct {
	ranges, rows, bytes float64
	source              time.Duration
}

func (s *Scheduler) spend(table string, n Scanned) {
	label := s.labels.Label(table)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spent == nil {
		s.spent = map[string]*spending{}
	}
	sum := s.spent[label]
	if sum == nil {
		sum = new(spending)
		s.spent[label] = sum
	}
	if n.Bytes > 0 {
		sum.ranges++
	}
	sum.rows, sum.bytes, sum.source = sum.rows+float64(n.Rows), sum.bytes+float64(n.Bytes), sum.source+n.SourceTime
}

func (s *Scheduler) rested(by string, took time.Duration) {
	if by == "" || took <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waited == nil {
		s.waited = map[string]time.Duration{}
	}
	s.waited[by] += took
}

// standing is how far the tables of one label are.
type standing struct {
	cycle, ranges, verified, paused float64
	elapsed                         float64 // of the cycle that is furthest beyond its time
	oldest                          time.Time
}

// Observe registers what the scan does, and how far it is, with a meter. Of a table that is divided among publishers each tells of its own part.
func (s *Scheduler) Observe(meter metric.Meter) error {
	set := measure.On(meter)
	ranges := set.Total("trickle.scan.published.ranges", "{range}", "Ranges about which a verification message was sent.", "table")
	rows := set.Total("trickle.scan.rows", "{row}", "Rows read from the source to verify them.", "table")
	bytes := set.Total("trickle.scan.published", "By", "Verification messages sent, in bytes.", "table")
	source := set.Total("trickle.scan.source.time", "s", "Time for which a query of the scan was running on the source.", "table")
	cycle := set.Gauge("trickle.scan.cycle", "", "Number of the cycle under way.", "table")
	all := set.Gauge("trickle.scan.cycle.ranges", "{range}", "Ranges of the table.", "table")
	verified := set.Gauge("trickle.scan.cycle.ranges.verified", "{range}", "Ranges that were verified in this cycle.", "table")
	elapsed := set.Gauge("trickle.scan.cycle.elapsed", "1", "Share of the cycle's time that is gone, counting only what schedule.windows leave open; above 1 the cycle is late.", "table")
	oldest := set.Gauge("trickle.scan.age", "s", "Since the range that was not read for longest was read; absent until every range was.", "table")
	paused := set.Gauge("trickle.scan.paused", "", "1 while the table can't be scanned, else 0; `trickle status` says why. For `other`: how many.", "table")
	speed := set.Gauge("trickle.scan.speed", "1", "Share of the time that may be spent scanning; below 1 while backoff slows it down.")
	waiting := set.Gauge("trickle.scan.waiting", "", "1 for what the scan waits for just now; absent while it scans.", "by")
	waited := set.Total("trickle.scan.waited", "s", "Time that the scan spent waiting, by what it was for.", "by")
	shares := set.Gauge("trickle.scan.shares", "", "Shares that the work is divided into among publishers.")
	held := set.Gauge("trickle.scan.shares.held", "", "Shares of the work that this publisher has.")
	var times elapsing
	return set.Observe(func(_ context.Context, tell measure.Tell) {
		st := s.Status()
		s.mu.Lock()
		spent, resting := make(map[string]spending, len(s.spent)), make(map[string]time.Duration, len(s.waited))
		for label, n := range s.spent {
			spent[label] = *n
		}
		for by, d := range s.waited {
			resting[by] = d
		}
		windows, length := s.windows, time.Duration(s.policy.Schedule.Cycle)
		s.mu.Unlock()
		for label, n := range spent {
			tell(ranges, n.ranges, label)
			tell(rows, n.rows, label)
			tell(bytes, n.bytes, label)
			tell(source, n.source.Seconds(), label)
		}
		for by, d := range resting {
			tell(waited, d.Seconds(), by)
		}
		if st.WaitingBy != "" {
			tell(waiting, 1, st.WaitingBy)
		}
		if st.Speed > 0 { // it is looked at before the first range
			tell(speed, st.Speed)
		}
		tell(shares, float64(st.Shares))
		tell(held, float64(len(st.Mine)))
		now := time.Now()
		times.renew(now)
		for label, n := range s.standings(st, func(from time.Time) float64 { return times.share(windows, from, now, length) }) {
			tell(paused, n.paused, label)
			if n.ranges == 0 {
				continue
			}
			tell(cycle, n.cycle, label)
			tell(all, n.ranges, label)
			tell(verified, n.verified, label)
			tell(elapsed, n.elapsed, label)
			if !n.oldest.IsZero() {
				tell(oldest, max(0, now.Sub(n.oldest)).Seconds(), label)
			}
		}
	})
}

// standings adds tables up by their labels.
func (s *Scheduler) standings(st Status, elapsed func(from time.Time) float64) map[string]*standing {
	out := map[string]*standing{}
	unread := map[string]bool{}
	for _, t := range st.Tables {
		label := s.labels.Label(t.Table)
		n := out[label]
		if n == nil {
			n = new(standing)
			out[label] = n
		}
		n.paused += measure.Is(t.Paused)
		if t.Ranges == 0 {
			continue
		}
		if !t.Started.IsZero() {
			n.elapsed = max(n.elapsed, elapsed(t.Started))
		}
		n.cycle, n.ranges, n.verified = max(n.cycle, float64(t.Cycle)), n.ranges+float64(t.Ranges), n.verified+float64(t.Done)
		switch {
		case t.Oldest.IsZero():
			unread[label] = true
		case n.oldest.IsZero() || t.Oldest.Before(n.oldest):
			n.oldest = t.Oldest
		}
	}
	for label := range unread {
		out[label].oldest = time.Time{}
	}
	return out
}

// elapsing remembers for a while what takes long to compute where windows are short and cycles long.
type elapsing struct {
	mu    sync.Mutex
	at    time.Time
	known map[time.Time]float64
}

const elapsingFor = 30 * time.Second

func (e *elapsing) renew(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now.Sub(e.at) >= elapsingFor {
		e.at, e.known = now, map[time.Time]float64{}
	}
}

// share is how much of a cycle's open time has gone by.
func (e *elapsing) share(w Windows, from, now time.Time, length time.Duration) float64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if share, ok := e.known[from]; ok {
		return share
	}
	share := 0.0
	if whole := w.Between(from, from.Add(length)); whole > 0 {
		share = w.Between(from, now).Seconds() / whole.Seconds()
	}
	e.known[from] = share
	return share
}
