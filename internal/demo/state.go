package demo

import (
	"time"

	"github.com/trickle-verify/trickle/ledger"
)

// The thresholds of the demo's policy.
const (
	window       = time.Minute
	partialLimit = 20
	fullLimit    = 300
)

// State is all that a screen shows.
type State struct {
	Phase       string
	Step, Steps int
	Elapsed     time.Duration
	Duration    time.Duration // how long the demo was asked to take

	Page            string // where the live page is; empty: nowhere
	Ready           bool   // the consumer runs, so that what follows means something
	Writes          int64
	WritesPerSecond float64
	Gate            ledger.GateReport
	Tables          []Table
	Drift           verdict
	Partial, Full   Level
	Resync          *ledger.ResyncReport // the newest, a running one first
	Resyncs         Resyncs
	Unconfirmed     int

	Events []Event
}

// Table is how far the cycle has come in one table.
type Table struct {
	Name   string
	Cycle  int64
	Done   int // ranges verified in this cycle
	Ranges int
	Rows   int64 // verified so far, in all cycles
}

// Level is a window's count against its threshold.
type Level struct {
	Count, Limit int
	Where        string
}

// Event is something that happened, with the demo's own time.
type Event struct {
	At   time.Duration
	Text string
}

// verified tells whether every table has been verified as a whole after the cycles given.
func (s State) verified(since map[string]int64) bool {
	for _, t := range s.Tables {
		began, known := since[t.Name]
		if !known || t.Cycle < began || t.Cycle == began && t.Done < t.Ranges {
			return false
		}
	}
	return len(s.Tables) > 0
}

// cycles are those under way.
func (s State) cycles() map[string]int64 {
	out := make(map[string]int64, len(s.Tables))
	for _, t := range s.Tables {
		out[t.Name] = t.Cycle
	}
	return out
}

// healed tells whether every row that was made wrong has been corrected, and that has been confirmed.
func (s State) healed() bool {
	return s.Drift.Corrected == s.Drift.Injected && s.Unconfirmed == 0
}

// resyncing tells whether a resync is under way.
func (s State) resyncing() bool {
	return s.Resync != nil && (s.Resync.State == "running" || s.Resync.State == "waiting")
}
