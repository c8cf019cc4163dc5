package app

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/trickle-verify/trickle/detector"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/measure"
	"github.com/trickle-verify/trickle/policy"
)

const (
	gaugesFor  = 5 * time.Second // how long what was read of the ledger serves whoever collects metrics
	gaugesMost = 5 * time.Second // how long they wait for it
	worstMost  = 20              // tables with discrepancies whose worst neighbourhood is looked for
)

// gauges reads the replica's ledger for metrics, once for all who collect them within a few seconds.
type gauges struct {
	ledger *ledger.Ledger
	policy func() *policy.Policy
	tables measure.Tables

	mu   sync.Mutex
	at   time.Time
	last vitals
	err  error
}

// vitals is how a replica stands, as far as it takes no counting of the journal.
type vitals struct {
	ledger.Report
	resyncs              []ledger.ResyncCount
	deletes, corrections int // that count for the brake
	worst                map[string]entry.Tally
}

func (s *gauges) read(ctx context.Context) (vitals, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.at) < gaugesFor {
		return s.last, s.err
	}
	ctx, cancel := context.WithTimeout(ctx, gaugesMost)
	defer cancel()
	s.last, s.err = s.look(ctx)
	s.at = time.Now()
	return s.last, s.err
}

func (s *gauges) look(ctx context.Context) (out vitals, err error) {
	window := time.Duration(s.policy().Detect.Window)
	if out.Report, err = s.ledger.Standing(ctx); err != nil {
		return out, err
	}
	if out.resyncs, err = s.ledger.ResyncCounts(ctx); err != nil {
		return out, err
	}
	if out.deletes, out.corrections, err = s.ledger.BrakeCounts(ctx, window); err != nil {
		return out, err
	}
	out.worst = map[string]entry.Tally{}
	for _, t := range out.Tables {
		if t.Discrepancies == 0 || len(out.worst) == worstMost {
			continue
		}
		if out.worst[t.Table], err = s.ledger.Tally(ctx, t.Table, window); err != nil {
			return out, err
		}
	}
	return out, nil
}

// tableVitals adds up the tables of one label.
type tableVitals struct {
	suspects, discrepancies, paused float64
	coverage                        float64 // the least
	oldest                          *time.Time
	never                           bool // some table was never verified
	full, partial                   float64
	reported                        ledger.Kinds
}

// Observe registers how the replica stands, by its ledger, with a meter. Each instance of a detector tells the same.
func (s *gauges) Observe(meter metric.Meter) error {
	set := measure.On(meter)
	readable := set.Gauge("trickle.ledger.readable", "", "1 while the ledger in the replica can be read, else 0, and then what is read from it is absent.")
	coverage := set.Gauge("trickle.coverage", "1", "Share of the table's ranges that were compared in this cycle or the last. For `other`: the least.", "table")
	age := set.Gauge("trickle.verification.age", "s", "Since the oldest comparison of any range of the table; absent until there was one.", "table")
	suspects := set.Gauge("trickle.suspects", "{row}", "Rows that differed when last looked at, and are not yet proven or healed.", "table")
	paused := set.Gauge("trickle.table.paused", "", "1 while nothing is done about the table, by its detector or, as that was told, by its publisher, else 0; `trickle-consumer status` says why. For `other`: how many.", "table")
	reported := set.Gauge("trickle.reported", "{row}", "Rows that are proven to differ and are left as they are, since detect.action is report, by what is wrong: `missing`, `mismatched` or `extra`.", "table", "kind")
	window := set.Gauge("trickle.window.discrepancies", "{row}", "Proven discrepancies within detect.window.", "table")
	fill := set.Gauge("trickle.window.fill", "1", "How much of the threshold for a `full` or `partial` resync is reached; 1 asks for one. For `other`: the most.", "table", "threshold")
	brake := set.Gauge("trickle.brake.on", "", "1 while the brake holds corrections back until a person releases it, else 0.")
	brakeFill := set.Gauge("trickle.brake.fill", "1", "How much of a limit of detect.brake is used up within detect.window: `deletes` or `corrections`.", "limit")
	unconfirmed := set.Gauge("trickle.corrections.unconfirmed", "{row}", "Corrections that were written and are not confirmed yet.")
	journalAge := set.Gauge("trickle.journal.age", "s", "Since the oldest line of the journal was written; absent while it has none.")
	journalSize := set.Gauge("trickle.journal.size", "By", "What the journal takes in the replica's database, with those of other pipelines there.")
	running := set.Gauge("trickle.resyncs", "", "Resyncs that are `running`, or `waiting` for an approval.", "scope", "state")
	ended := set.Total("trickle.resyncs.ended", "", "Resyncs that ended since the ledger began, as `done` or `failed`.", "scope", "result")
	ranges := set.Gauge("trickle.resync.ranges", "{range}", "Ranges of the resyncs that run, of each table.", "table")
	done := set.Gauge("trickle.resync.ranges.done", "{range}", "Ranges of them that are done.", "table")
	return set.Observe(func(ctx context.Context, tell measure.Tell) {
		st, err := s.read(ctx)
		if err != nil {
			tell(readable, 0)
			return
		}
		tell(readable, 1)
		p := s.policy()
		for label, t := range s.byLabel(st, p) {
			tell(coverage, t.coverage, label)
			tell(suspects, t.suspects, label)
			tell(paused, t.paused, label)
			tell(window, t.discrepancies, label)
			tell(reported, float64(t.reported.Missing), label, string(drift.Missing))
			tell(reported, float64(t.reported.Mismatched), label, string(drift.Mismatched))
			tell(reported, float64(t.reported.Extra), label, string(drift.Extra))
			tell(fill, t.full, label, entry.Full)
			tell(fill, t.partial, label, entry.Partial)
			if t.oldest != nil && !t.never {
				tell(age, max(0, time.Since(*t.oldest)).Seconds(), label)
			}
		}
		tell(brake, 0)
		if st.Brake.On {
			tell(brake, 1)
		}
		tell(brakeFill, share(st.deletes, p.Detect.Brake.Deletes), "deletes")
		tell(brakeFill, share(st.corrections, p.Detect.Brake.Corrections), "corrections")
		tell(unconfirmed, float64(st.Unconfirmed))
		tell(journalSize, float64(st.Journal.Bytes))
		if at := st.Journal.Oldest; at != nil {
			tell(journalAge, max(0, time.Since(*at)).Seconds())
		}
		counts := map[[2]string]float64{}
		for _, c := range st.resyncs {
			counts[[2]string{c.Scope, c.State}] = float64(c.N)
		}
		for _, scope := range []string{entry.Full, entry.Partial} {
			for _, state := range []string{"waiting", "running"} {
				tell(running, counts[[2]string{scope, state}], scope, state)
			}
			for _, result := range []string{"done", "failed"} {
				tell(ended, counts[[2]string{scope, result}], scope, result)
			}
		}
		all, over := map[string]float64{}, map[string]float64{}
		for _, r := range st.Resyncs {
			if r.State == "running" {
				label := s.tables.Label(r.Table)
				all[label] += float64(r.Ranges)
				over[label] += float64(r.RangesDone)
			}
		}
		for label, n := range all {
			tell(ranges, n, label)
			tell(done, over[label], label)
		}
	})
}

func (s *gauges) byLabel(st vitals, p *policy.Policy) map[string]*tableVitals {
	out := map[string]*tableVitals{}
	for _, t := range st.Tables {
		label := s.tables.Label(t.Table)
		n := out[label]
		if n == nil {
			n = &tableVitals{coverage: t.Coverage}
			out[label] = n
		}
		n.suspects += float64(t.Suspects)
		n.discrepancies += float64(t.Discrepancies)
		n.reported.Missing += t.Reported.Missing
		n.reported.Mismatched += t.Reported.Mismatched
		n.reported.Extra += t.Reported.Extra
		if t.Paused != "" || t.Unscanned != nil {
			n.paused++
		}
		n.coverage = min(n.coverage, t.Coverage)
		switch at := t.OldestVerification; {
		case at == nil:
			n.never = true
		case n.oldest == nil || at.Before(*n.oldest):
			n.oldest = at
		}
		if tally, ok := st.worst[t.Table]; ok {
			n.full = max(n.full, detector.Fill(p.Resync.Full, tally.Discrepancies, tally.Rows))
			n.partial = max(n.partial, detector.Fill(p.Resync.Partial, tally.WorstCount, tally.WorstRows))
		}
	}
	return out
}

// share is how much of a limit is used up; a limit of nothing always is.
func share(n, of int) float64 {
	if of <= 0 {
		return 1
	}
	return float64(n) / float64(of)
}
