package scheduler

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Status is a snapshot for people and pages.
type Status struct {
	Waiting       string     `json:"waiting"`         // why nothing is being scanned; empty while something is
	WaitingBy     string     `json:"waiting_by"`      // what kind of reason that is, one of By…
	Until         time.Time  `json:"until"`           // when that may end; the zero time while scanning
	RowsPerSecond float64    `json:"rows_per_second"` // of late
	Speed         float64    `json:"speed"`           // below 1 while the source is busy: the share of the time that may be spent scanning
	Shares        int        `json:"shares"`          // of the work, with those of other publishers
	Mine          []int      `json:"mine"`            // the shares that are this publisher's
	Tables        []Progress `json:"tables"`          // by name; what is this publisher's of them
}

// Progress is how far one table has come.
type Progress struct {
	Table   string    `json:"table"`
	Cycle   uint64    `json:"cycle"`
	Started time.Time `json:"started"` // when the cycle began
	Done    int       `json:"done"`    // ranges verified in this cycle
	Ranges  int       `json:"ranges"`
	Rows    uint64    `json:"rows"`   // read in this cycle since the process began
	Oldest  time.Time `json:"oldest"` // the oldest verification of any range; the zero time when one was never verified
	Paused  string    `json:"paused"` // why it isn't scanned
	Retry   time.Time `json:"retry"`  // when a failed table is tried again
}

// Status returns how the scan stands.
func (s *Scheduler) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := Status{
		Waiting: s.waiting.Reason, WaitingBy: s.waiting.By, Until: s.waiting.Until, RowsPerSecond: s.rate, Speed: s.backoff.speed,
		Shares: s.shares.Of, Mine: slices.AppendSeq([]int{}, maps.Keys(s.held)), Tables: []Progress{},
	}
	slices.Sort(out.Mine)
	spans := map[string][]*span{}
	for _, id := range slices.SortedFunc(maps.Keys(s.spans), spanID.compare) {
		spans[id.table] = append(spans[id.table], s.spans[id])
	}
	for _, name := range slices.Sorted(maps.Keys(s.tables)) {
		out.Tables = append(out.Tables, s.tables[name].progress(spans[name]))
	}
	return out
}

// progress adds up what is ours of a table. Its cycle is that of the span that is furthest: a cycle begins once all have ended the one before, so nothing is verified yet
// of those that have yet to begin it.
func (t *table) progress(spans []*span) Progress {
	p := Progress{Table: t.name, Paused: cmp.Or(t.paused, t.failure), Retry: t.retry}
	for _, sp := range spans {
		p.Cycle = max(p.Cycle, sp.state.Cycle)
	}
	for i, sp := range spans {
		p.Ranges += len(sp.chain)
		if sp.state.Cycle == p.Cycle {
			p.Done, p.Rows = p.Done+sp.done, p.Rows+sp.rows
			if at := sp.state.Started; p.Started.IsZero() || !at.IsZero() && at.Before(p.Started) {
				p.Started = at
			}
		}
		if p.Paused == "" {
			p.Paused, p.Retry = sp.failure, sp.retry
		}
		for j, r := range sp.chain {
			if i+j == 0 || r.VerifiedAt.Before(p.Oldest) {
				p.Oldest = r.VerifiedAt
			}
		}
	}
	return p
}
