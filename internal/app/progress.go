package app

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/keeper"
)

// TableProgress is how far the scan of one table has come.
type TableProgress struct {
	Table   string    `json:"table"`
	Cycle   uint64    `json:"cycle"`
	Started time.Time `json:"started"`
	Done    int       `json:"done"` // ranges verified in this cycle
	Ranges  int       `json:"ranges"`
	Rows    uint64    `json:"rows"`   // of all ranges, when each was last read
	Oldest  time.Time `json:"oldest"` // the zero time where a range was never verified
	Paused  string    `json:"paused"` // why it is not scanned; empty when it is
}

// Scan is how far the scan has come, and over Kafka which publisher has which share of it.
type Scan struct {
	Tables []TableProgress `json:"tables"`
	Shares []cursor.Owner  `json:"shares"`
	// Baseline is how the base-line view stands; left out where the policy has none.
	Baseline *keeper.Report `json:"baseline,omitempty"`
}

// Progress reads the stored position of the scan: from Kafka where there are brokers, else from the cursor file.
func Progress(ctx context.Context, s Settings) (Scan, error) {
	if len(s.Brokers) == 0 {
		state, err := cursor.ReadFile(s.CursorFile)
		if err != nil {
			return Scan{}, err
		}
		return scanOf(state, []cursor.Owner{}), nil
	}
	p, err := s.LoadPolicy()
	if err != nil {
		return Scan{}, err
	}
	var st stack
	defer st.close()
	bus, err := s.openBus(ctx, &st)
	if err != nil {
		return Scan{}, err
	}
	state, owners, err := cursor.ReadTopic(ctx, bus, s.cursors(p.Pipeline))
	if err != nil {
		return Scan{}, err
	}
	out := scanOf(state, owners)
	if p.Baseline.URL == "" {
		return out, nil
	}
	age, err := s.viewStatus(ctx, p, bus)
	if err != nil { // how far the scan is can be told all the same
		age = baseline.Age{Reason: "it can't be judged from here: " + err.Error()}
	}
	report := keeper.ReportOf(age, state.Board.Build, time.Now())
	out.Baseline = &report
	return out, nil
}

// scanOf reads what is stored.
func scanOf(state cursor.State, owners []cursor.Owner) Scan {
	out := Scan{Tables: []TableProgress{}, Shares: owners}
	for _, name := range slices.Sorted(maps.Keys(state.Tables)) {
		t := state.Tables[name]
		p := TableProgress{Table: name, Cycle: t.Cycle, Started: t.Started, Paused: t.Paused}
		for i, r := range state.Ranges[name] {
			p.Ranges++
			p.Rows += r.Rows
			if r.Cycle >= t.Cycle {
				p.Done++
			}
			if i == 0 || r.VerifiedAt.Before(p.Oldest) {
				p.Oldest = r.VerifiedAt
			}
		}
		out.Tables = append(out.Tables, p)
	}
	return out
}
