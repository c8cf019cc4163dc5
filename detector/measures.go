package detector

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/measure"
)

// Measures count what a detector does, since the process began: of several instances each tells of its own work, and the sum is everybody's. They count
// where it is written down: hand the detector what Ledger and Replica return.
type Measures struct {
	rows, ranges, resolved, failed, corrections, closed, refused measure.Adder

	tables measure.Tables

	mu    sync.Mutex
	begun map[string]bool
	delay time.Duration // of the newest range; negative: there was none
}

// NewMeasures registers them with a meter.
func NewMeasures(meter metric.Meter) (*Measures, error) {
	set := measure.On(meter)
	m := &Measures{
		rows:        set.Counter("trickle.rows.verified", "{row}", "Rows that were compared with the source.", "table"),
		ranges:      set.Counter("trickle.ranges.verified", "{range}", "Ranges that were compared with the source, by what came of it: `equal` or `different`.", "table", "result"),
		resolved:    set.Counter("trickle.suspects.resolved", "{row}", "Suspects that came out equal: changes in flight, mostly.", "table"),
		corrections: set.Counter("trickle.corrections", "{row}", "Rows that were corrected, by what was wrong: `missing`, `mismatched` or `extra`; rows copied in bulk are among the missing.", "table", "kind"),
		failed:      set.Counter("trickle.corrections.failed", "{row}", "Corrections that the replica refused and that were given up until the next cycle.", "table"),
		closed:      set.Counter("trickle.corrections.closed", "{row}", "Corrections that were closed: `confirmed` by a later read of the source, or `superseded` by CDC.", "outcome"),
		refused:     set.Counter("trickle.messages.refused", "{message}", "Messages that could not be read or believed: unreadable, unsigned or forged, of another source."),
		begun:       map[string]bool{}, delay: -1,
	}
	delay := set.Gauge("trickle.verification.delay", "s", "From reading the newest compared range at the source until it was compared, by both clocks; absent until one was.")
	if err := set.Observe(func(_ context.Context, tell measure.Tell) {
		m.mu.Lock()
		d := m.delay
		m.mu.Unlock()
		if d >= 0 {
			tell(delay, d.Seconds())
		}
	}); err != nil {
		return nil, err
	}
	m.refused.Add(context.Background(), 0)
	for _, outcome := range []string{entry.Confirmed, entry.Superseded} {
		m.closed.Add(context.Background(), 0, outcome)
	}
	return m, nil
}

// Begin has the counters of tables stand at nothing, so that the first event is seen as an increase.
func (m *Measures) Begin(ctx context.Context, tables ...string) {
	for _, table := range tables {
		label := m.tables.Label(table)
		m.mu.Lock()
		known := m.begun[label]
		m.begun[label] = true
		m.mu.Unlock()
		if known {
			continue
		}
		for _, counter := range []measure.Adder{m.rows, m.resolved, m.failed} {
			counter.Add(ctx, 0, label)
		}
		for _, result := range []string{equal, different} {
			m.ranges.Add(ctx, 0, label, result)
		}
		for _, kind := range []drift.Kind{drift.Missing, drift.Mismatched, drift.Extra} {
			m.corrections.Add(ctx, 0, label, string(kind))
		}
	}
}

const (
	equal     = "equal"
	different = "different"
)

// Copied counts rows that a resync copied in bulk.
func (m *Measures) Copied(ctx context.Context, table string, rows uint64) {
	m.corrections.Add(ctx, float64(rows), m.tables.Label(table), string(drift.Missing))
}

// Ledger counts what is recorded in one.
func (m *Measures) Ledger(l Ledger) Ledger { return countedLedger{l, m} }

type countedLedger struct {
	Ledger
	m *Measures
}

func (c countedLedger) Table(ctx context.Context, table, replica string) error {
	c.m.Begin(ctx, table)
	return c.Ledger.Table(ctx, table, replica)
}

func (c countedLedger) Record(ctx context.Context, v entry.Verified, suspects []drift.Suspect, due time.Duration) error {
	err := c.Ledger.Record(ctx, v, suspects, due)
	if err != nil {
		return err
	}
	label, result := c.m.tables.Label(v.Table), different
	if v.Equal {
		result = equal
	}
	c.m.rows.Add(ctx, float64(v.Rows), label)
	c.m.ranges.Add(ctx, 1, label, result)
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.m.delay = max(0, time.Since(v.ReadAt))
	return nil
}

func (c countedLedger) Settle(ctx context.Context, table string, s entry.Settled) error {
	err := c.Ledger.Settle(ctx, table, s)
	if err != nil {
		return err
	}
	label := c.m.tables.Label(table)
	c.m.resolved.Add(ctx, float64(s.Resolved), label)
	c.m.failed.Add(ctx, float64(s.Failed), label)
	return nil
}

func (c countedLedger) Refused(ctx context.Context, reason string) error {
	err := c.Ledger.Refused(ctx, reason)
	if err != nil {
		return err
	}
	c.m.refused.Add(ctx, 1)
	return nil
}

func (c countedLedger) Close(ctx context.Context, outcome string, ids []int64) ([]int64, error) {
	closed, err := c.Ledger.Close(ctx, outcome, ids)
	c.m.closed.Add(ctx, float64(len(closed)), outcome)
	return closed, err
}

// Replica counts what is corrected in one.
func (m *Measures) Replica(r Replica) Replica { return countedReplica{r, m} }

type countedReplica struct {
	Replica
	m *Measures
}

func (c countedReplica) Write(ctx context.Context, table string, changes []drift.Change, kind digest.Kind) ([]drift.Outcome, error) {
	outcomes, err := c.Replica.Write(ctx, table, changes, kind)
	label := c.m.tables.Label(table)
	for i, o := range outcomes {
		if o.Result != drift.Written {
			continue
		}
		c.m.corrections.Add(ctx, 1, label, string(changes[i].Kind()))
		if changes[i].Rewrites != 0 { // which the replica closes with it
			c.m.closed.Add(ctx, 1, entry.Superseded)
		}
	}
	return outcomes, err
}
