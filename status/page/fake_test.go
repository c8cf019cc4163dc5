package page

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/status"
)

// now is when fake states are read.
func now() time.Time { return time.Now().Truncate(time.Second) }

func rules(t testing.TB, more string) *policy.Policy {
	t.Helper()
	p, _, err := policy.Parse("policy.yaml", []byte("pipeline: orders\ntables: [{table: public.*}]\ngate: {assume_lag: 1s}\n"+more))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// cellsOf are n cells, the last few of which were never verified.
func cellsOf(n, never int) (out []ledger.Cell) {
	for i := range n {
		c := ledger.Cell{Ranges: 2, Range: message.Range{Lo: message.Key{strconv.Itoa(1000 * i)}, Hi: message.Key{strconv.Itoa(1000 * (i + 1))}}}
		if i == 0 {
			c.Range.Lo = nil
		}
		if i == n-1 {
			c.Range.Hi = nil
		}
		if i < n-never {
			c.Verified, c.Rows = 2, 1000
			c.Oldest = now().Add(-time.Duration((i*7)%(3*n)) * 60 * time.Hour / time.Duration(3*n))
			c.Newest = c.Oldest.Add(time.Second)
		}
		out = append(out, c)
	}
	return out
}

// quiet is a replica with which all is well.
func quiet(t testing.TB) State {
	at, lag := now(), 0.4
	oldest := at.Add(-20 * time.Hour)
	v := &ledger.View{At: at, Cycle: 24 * time.Hour, Tallies: map[string]entry.Tally{}}
	v.Report = ledger.Report{
		Pipeline: "orders", Gate: ledger.GateReport{Open: true, LagSeconds: &lag, At: at, Sources: []ledger.GateSource{{Source: "heartbeat", LagSeconds: &lag}}},
		Window: ledger.WindowReport{Seconds: 600, RowsVerified: 52_000}, Resyncs: []ledger.ResyncReport{},
	}
	for _, name := range []string{"public.order_items", "public.orders", "public.shoppers"} {
		v.Tables = append(v.Tables, ledger.TableReport{
			Table: name, Replica: name, Coverage: 1, OldestVerification: &oldest, RowsVerified: 12_345_678,
			Estimate: &ledger.EstimateReport{AtMost: 2, Confidence: 0.95, Rows: 2_000_000, Looked: 2_000_000, Unseen: 1_000_000},
		})
		v.Strips = append(v.Strips, ledger.Strip{Table: name, Cells: cellsOf(240, 0)})
	}
	v.Timeline = ledger.Timeline{Step: 24 * time.Minute, From: at.Add(-24 * time.Hour), Steps: make([]ledger.Kinds, 60)}
	return State{Pipeline: "orders", At: at, Policy: rules(t, ""), InForce: policy.State{Since: at.Add(-time.Hour)}, Replica: v, Flags: " --policy policy.yaml"}
}

// trouble is one with which little is.
func trouble(t testing.TB) State {
	s := quiet(t)
	s.Policy = rules(t, "privacy: {keys: show}\ntracing: {link: \"https://traces.example/trace/{trace_id}\"}\n")
	r := s.Replica
	at := s.At
	ago := at.Add(-90 * time.Second)
	s.InForce.Refused, s.InForce.RefusedAt = "policy.yaml:3:1: unknown key \"qiuet\": did you mean quiet?", &ago
	r.Gate.Open, r.Gate.Reason = false, "the replica is 45 s behind and gate.max_lag is 30s"
	r.Brake = ledger.BrakeReport{On: true, Reason: "1000 rows would have been deleted within 10m0s (detect.brake.deletes)"}
	r.Braking = ledger.Allowance{Deletes: 1000, Corrections: 412}
	r.Resyncs = []ledger.ResyncReport{
		{ID: "a1b2c3", Scope: "full", Table: "public.orders", State: "running", Rows: 61_000, Corrected: 120, Ranges: 90, RangesDone: 31, Why: "312 discrepancies within 10m0s (resync.full)", Requested: ago},
		{ID: "d4e5f6", Scope: "partial", Table: "public.order_items", State: "waiting", Ranges: 0, Why: "24 discrepancies in one neighbourhood within 10m0s (resync.partial)", Requested: ago},
		{ID: "070809", Scope: "partial", Table: "public.shoppers", State: "failed", Rows: 900, Ranges: 3, RangesDone: 2, Failure: "2 rows were refused by the replica; the last reason stands with the table", Requested: ago, Ended: &at},
	}
	r.Tables[0].Paused = "the message is from source 77/shop, but this replica is pinned to 4711/shop: if the source was replaced on purpose, run trickle-consumer pin --source 77/shop"
	r.Tables[1].Suspects, r.Tables[1].Failed, r.Tables[1].LastFailure = 7, 2, "key 88: violates foreign key constraint \"fk_<script>alert(1)</script>\""
	r.Tables[1].Corrected = ledger.Kinds{Missing: 120, Mismatched: 31, Extra: 9}
	r.Tables[1].Coverage, r.Tables[1].Estimate.AtMost, r.Tables[1].Estimate.Known = 0.93, 412, 7
	r.Tallies["public.orders"] = entry.Tally{Discrepancies: 312, Rows: 52_000, WorstCount: 31}
	r.Window.Discrepancies, r.Unconfirmed = 312, 3
	cells := cellsOf(240, 17)
	for i := 60; i < 80; i++ {
		cells[i].Drift.Missing = i % 3
	}
	cells[120].Drift.Mismatched, cells[150].Drift.Extra, cells[30].Suspects, cells[200].Differed = 2, 1, 4, 1
	r.Strips[1].Cells = cells
	for i := range r.Timeline.Steps {
		r.Timeline.Steps[i] = ledger.Kinds{Missing: i % 5, Mismatched: (i * 7) % 11, Extra: i % 2}
	}
	for i := range 12 {
		c := ledger.Correction{
			ID: int64(100 - i), At: ago.Add(-time.Duration(i) * time.Minute), Table: "public.orders", Key: message.Key{"k77" + strconv.Itoa(10+i)}, Kind: "mismatched", Columns: []string{"amount", "state"},
			Before: []string{"1.00", `"new"`}, After: []string{"2.00", `"paid"`}, TraceID: "4bf92f3577b34da6a3ce929d0e0e4736", Outcome: "confirmed",
		}
		switch i % 3 {
		case 1:
			c.Kind, c.Columns = "missing", nil
		case 2:
			c.Kind, c.Columns, c.Outcome = "extra", nil, ""
		}
		r.Recent = append(r.Recent, c)
	}
	r.Recent = append(r.Recent, ledger.Correction{At: ago, Table: "public.orders", ResyncID: "a1b2c3", TraceID: "4bf92f3577b34da6a3ce929d0e0e4736", Batch: &ledger.Batch{Kinds: ledger.Kinds{Missing: 12_545, Mismatched: 300}, Open: 26}})
	s.Scan = scanning(s)
	return s
}

func scanning(s State) *Scan {
	out := &Scan{Source: "4711/shop", RowsPerSecond: 4321, Speed: 1, Shares: 2, Mine: 1, Baseline: &Baseline{Set: "20261126-0700", Valid: true}}
	for i, name := range []string{"public.order_items", "public.orders", "public.shoppers"} {
		out.Tables = append(out.Tables, ScanTable{Table: name, Cycle: 12, Started: s.At.Add(-time.Hour), Done: 10 * i, Ranges: 40, Strip: cellsOf(120, 9)})
	}
	return out
}

// stage serves a state that tests set, and counts how often it was read.
type stage struct {
	hub   *Hub
	reads atomic.Int64
	mu    sync.Mutex
	state State
	fails error
}

func (s *stage) set(state State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.fails = state, nil
}

func (s *stage) fail(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = errors.New(why)
}

func newStage(state State) *stage {
	s := &stage{state: state}
	s.hub = New(func(context.Context) (State, error) {
		s.reads.Add(1)
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.state, s.fails
	}, slog.New(slog.DiscardHandler))
	return s
}

// serve runs the hub behind an address until stop is called.
func (s *stage) serve(t testing.TB, address string) (url string, stop func()) {
	t.Helper()
	port, err := status.Listen(t.Context(), address, status.Probes{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		if err := port.Serve(ctx, status.Page{Live: s.hub, Log: slog.New(slog.DiscardHandler)}); err != nil {
			t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(stop)
	return "http://" + port.Address(), stop
}
