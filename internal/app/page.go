package app

import (
	"cmp"
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/status/page"
	"github.com/trickle-verify/trickle/telemetry"
)

// stripCells are as many cells as a publisher's page has for a table.
const stripCells = 240

// Beside lets two sides that run in one process, each by itself, show on one status port: the detector's. Its zero value is ready.
type Beside struct {
	publisher atomic.Pointer[neighbour]
}

// neighbour is a publisher, and what it tells.
type neighbour struct {
	publisher *publisher
	telemetry *telemetry.Telemetry
}

// scanning is the publisher of this process; nil: there is none, or not yet.
func (s Settings) scanning(of sides) *publisher {
	if of.publisher == nil && s.Beside != nil {
		if n := s.Beside.publisher.Load(); n != nil {
			return n.publisher
		}
	}
	return of.publisher
}

// metrics shows those of the sides of this process.
func (s Settings) metrics(mine *telemetry.Telemetry) http.Handler {
	if s.Beside == nil {
		return mine.Handler()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var others []*telemetry.Telemetry
		if n := s.Beside.publisher.Load(); n != nil {
			others = append(others, n.telemetry)
		}
		mine.Handler(others...).ServeHTTP(w, r)
	})
}

// sides are those that this process runs.
type sides struct {
	consumer  *consumer
	publisher *publisher
}

// live is their page.
func (s Settings) live(of sides) *page.Hub {
	return page.New(func(ctx context.Context) (page.State, error) {
		out := page.State{At: time.Now(), Flags: ""}
		if s.PolicyFile != "" {
			out.Flags = " --policy " + s.PolicyFile
		}
		if p := s.scanning(of); p != nil {
			out.Policy, out.InForce, out.Scan = p.scanner.Policy(), p.reload.State(), p.scan()
		}
		c := of.consumer
		if c != nil {
			out.Policy, out.InForce = c.policy.Load(), c.reload.State()
		}
		out.Pipeline = out.Policy.Pipeline
		if c == nil {
			return out, nil
		}
		v, err := c.ledger.View(ctx)
		if err != nil {
			return out, postgres.Explain(err, replicaOptions())
		}
		out.Replica, out.At = &v, v.At
		return out, nil
	}, s.Log)
}

// scan is how the publisher stands, for a page.
func (p *publisher) scan() *page.Scan {
	st := p.status()
	out := &page.Scan{
		Source: p.identity.String(), Standby: st.Source.Standby, Waiting: st.Waiting, Until: st.Until,
		RowsPerSecond: st.RowsPerSecond, Speed: st.Speed, Shares: st.Shares, Mine: len(st.Mine),
	}
	stretches := p.scheduler.Stretches(max(24, min(stripCells, 25*stripCells/max(1, len(st.Tables)))))
	for _, t := range st.Tables {
		table := page.ScanTable{Table: t.Table, Cycle: t.Cycle, Started: t.Started, Done: t.Done, Ranges: t.Ranges, Paused: t.Paused, Retry: t.Retry}
		for _, r := range stretches[t.Table] {
			table.Strip = append(table.Strip, ledger.Cell{Range: r.Bounds, Ranges: r.Ranges, Verified: r.Verified, Rows: int64(r.Rows), Oldest: r.Oldest, Newest: r.Newest})
		}
		out.Tables = append(out.Tables, table)
	}
	if b := st.Baseline; b != nil {
		out.Baseline = &page.Baseline{Set: b.Set, Valid: b.Valid, Reason: cmp.Or(b.Reason, b.Trouble)}
	}
	return out
}
