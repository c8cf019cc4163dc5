package scheduler

import (
	"maps"
	"slices"
	"time"
)

// Status is a snapshot for people and pages.
type Status struct {
	Waiting       string     `json:"waiting"`         // why nothing is being scanned; empty while something is
	Until         time.Time  `json:"until"`           // when that may end; the zero time while scanning
	RowsPerSecond float64    `json:"rows_per_second"` // of late
	Speed         float64    `json:"speed"`           // below 1 while the source is busy: the share of the time that may be spent scanning
	Tables        []Progress `json:"tables"`          // by name
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
	out := Status{Waiting: s.waiting.Reason, Until: s.waiting.Until, RowsPerSecond: s.rate, Speed: s.backoff.speed, Tables: []Progress{}}
	for _, name := range slices.Sorted(maps.Keys(s.tables)) {
		t := s.tables[name]
		p := Progress{
			Table: name, Cycle: t.state.Cycle, Started: t.state.Started, Done: t.done, Ranges: len(t.chain), Rows: t.rows,
			Paused: t.paused, Retry: t.retry,
		}
		if p.Paused == "" {
			p.Paused = t.failure
		}
		for i, r := range t.chain {
			if i == 0 || r.VerifiedAt.Before(p.Oldest) {
				p.Oldest = r.VerifiedAt
			}
		}
		out.Tables = append(out.Tables, p)
	}
	return out
}
