package app

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/trickle-verify/trickle/cursor"
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
}

// Progress reads the stored position of the scan: from Kafka where there are brokers, else from the cursor file.
func Progress(ctx context.Context, s Settings) (Scan, error) {
	state, owners, err := stored(ctx, s)
	if err != nil {
		return Scan{}, err
	}
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
	return out, nil
}

func stored(ctx context.Context, s Settings) (cursor.State, []cursor.Owner, error) {
	if len(s.Brokers) == 0 {
		state, err := cursor.ReadFile(s.CursorFile)
		return state, []cursor.Owner{}, err
	}
	p, err := s.LoadPolicy()
	if err != nil {
		return cursor.State{}, nil, err
	}
	var st stack
	defer st.close()
	bus, err := s.openBus(ctx, &st)
	if err != nil {
		return cursor.State{}, nil, err
	}
	return cursor.ReadTopic(ctx, bus, s.cursors(p.Pipeline))
}
