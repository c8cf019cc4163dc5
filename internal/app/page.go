package app

import (
	"cmp"
	"context"
	"sync/atomic"
	"time"

	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/status/page"
)

// stripCells are as many cells as a publisher's page has for a table.
const stripCells = 240

// Beside lets both sides of one process show on one page. Its zero value is ready.
type Beside struct {
	scan atomic.Pointer[func() *page.Scan]
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
		if p := of.publisher; p != nil {
			out.Policy, out.InForce, out.Scan = p.scanner.Policy(), p.reload.State(), p.scan()
		} else if s.Beside != nil {
			if scan := s.Beside.scan.Load(); scan != nil {
				out.Scan = (*scan)()
			}
		}
		if c := of.consumer; c != nil {
			out.Policy, out.InForce = c.policy.Load(), c.reload.State()
			v, err := c.ledger.View(ctx)
			if err != nil {
				return out, err
			}
			out.Replica, out.At = &v, v.At
		}
		if out.Policy != nil {
			out.Pipeline = out.Policy.Pipeline
		}
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
