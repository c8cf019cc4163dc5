package app

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/keeper"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/transport"
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

// MarshalJSON has null for a time that never came.
func (p TableProgress) MarshalJSON() ([]byte, error) {
	type plain TableProgress
	orNull := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	return json.Marshal(struct {
		plain
		Started *time.Time `json:"started"`
		Oldest  *time.Time `json:"oldest"`
	}{plain(p), orNull(p.Started), orNull(p.Oldest)})
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
	v, err := WatchScan(s)
	if err != nil {
		return Scan{}, err
	}
	defer v.Close()
	return v.Read(ctx)
}

// viewFor is how long it counts how the base-line view stands: it takes a look into its store.
const viewFor = 30 * time.Second

// ScanView looks at the scan's stored position as often as it is asked to. It is for one caller at a time.
type ScanView struct {
	settings Settings
	policy   *policy.Policy // nil where there are no brokers
	bus      *transport.Kafka
	st       stack
	age      baseline.Age
	aged     time.Time
}

// WatchScan reads the settings, and connects to nothing yet. Close it after use.
func WatchScan(s Settings) (*ScanView, error) {
	v := &ScanView{settings: s}
	if len(s.Brokers) > 0 {
		var err error
		if v.policy, _, err = s.lookingPolicy(); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// Close disconnects.
func (v *ScanView) Close() {
	v.st.close()
	v.st, v.bus = stack{}, nil
}

// Read takes a look. After an error the next one connects anew.
func (v *ScanView) Read(ctx context.Context) (Scan, error) {
	if v.policy == nil {
		state, err := cursor.ReadFile(v.settings.CursorFile)
		if err != nil {
			return Scan{}, err
		}
		return scanOf(state, []cursor.Owner{}), nil
	}
	out, err := v.read(ctx)
	if err != nil {
		v.Close()
	}
	return out, err
}

func (v *ScanView) read(ctx context.Context) (Scan, error) {
	if v.bus == nil {
		bus, err := v.settings.openBus(ctx, &v.st)
		if err != nil {
			return Scan{}, err
		}
		v.bus = bus
	}
	state, owners, err := cursor.ReadTopic(ctx, v.bus, v.settings.cursors(v.policy.Pipeline))
	if err != nil {
		return Scan{}, err
	}
	out := scanOf(state, owners)
	if v.policy.Baseline.URL == "" {
		return out, nil
	}
	if time.Since(v.aged) > viewFor {
		if v.age, err = v.settings.viewStatus(ctx, v.policy, v.bus); err != nil { // how far the scan is can be told all the same
			v.age = baseline.Age{Reason: "it can't be judged from here: " + err.Error()}
		}
		v.aged = time.Now()
	}
	report := keeper.ReportOf(v.age, state.Board.Build, time.Now())
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
