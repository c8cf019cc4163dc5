package detector_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/detector"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/internal/testbed/meter"
	"github.com/trickle-verify/trickle/policy"
)

// noted takes everything, or nothing.
type noted struct {
	detector.Ledger
	err error
}

func (n *noted) Table(context.Context, string, string) error { return n.err }
func (n *noted) Record(context.Context, entry.Verified, []drift.Suspect, time.Duration) error {
	return n.err
}
func (n *noted) Settle(context.Context, string, entry.Settled) error { return n.err }
func (n *noted) Refused(context.Context, string) error               { return n.err }
func (n *noted) Close(_ context.Context, _ string, ids []int64) ([]int64, error) {
	if n.err != nil {
		return nil, n.err
	}
	return ids[:2], nil // somebody else closed the others
}

type written struct{ detector.Replica }

func (written) Write(_ context.Context, _ string, changes []drift.Change, _ digest.Kind) ([]drift.Outcome, error) {
	out := make([]drift.Outcome, len(changes))
	for i := range out {
		out[i].Result = drift.Written
	}
	out[len(out)-1].Result = drift.Held
	return out, errors.New("the last was held")
}

// What is written down is counted, and what is not is not.
func TestMeasures(t *testing.T) {
	t.Parallel()
	m := meter.New(t)
	counted, err := detector.NewMeasures(m)
	if err != nil {
		t.Fatal(err)
	}
	m.Wants(t, "at the start", map[string]any{"trickle.messages.refused": 0, "trickle.corrections.closed{outcome=confirmed}": 0, "trickle.verification.delay": "absent"})
	ledger := new(noted)
	ctx, l := t.Context(), counted.Ledger(ledger)
	do := func() {
		_ = l.Table(ctx, "public.t", "public.t")
		_ = l.Record(ctx, entry.Verified{Table: "public.t", Rows: 100, Equal: true, ReadAt: time.Now().Add(-time.Hour)}, nil, 0)
		_ = l.Record(ctx, entry.Verified{Table: "public.t", Rows: 50, ReadAt: time.Now().Add(time.Hour)}, nil, 0)
		_ = l.Settle(ctx, "public.t", entry.Settled{Resolved: 2, Failed: 1})
		_ = l.Refused(ctx, "forged")
		_, _ = l.Close(ctx, entry.Confirmed, []int64{1, 2, 3})
	}
	ledger.err = errors.New("the replica is away")
	do()
	m.Wants(t, "nothing was written down", map[string]any{
		"trickle.rows.verified{table=public.t}": 0, "trickle.ranges.verified{result=equal,table=public.t}": 0, "trickle.corrections{kind=extra,table=public.t}": 0, "trickle.messages.refused": 0,
	})
	ledger.err = nil
	do()
	there, gone := drift.Observed{Present: true}, drift.Fetched{}
	_, _ = counted.Replica(written{}).Write(ctx, "public.t", []drift.Change{
		{Replica: there, Source: gone}, {Replica: there, Source: drift.Fetched{Present: true}, Rewrites: 7}, {Replica: there, Source: gone},
	}, digest.Record)
	counted.Copied(ctx, "public.t", 40)
	m.Wants(t, "all of it", map[string]any{
		"trickle.rows.verified{table=public.t}": 150, "trickle.ranges.verified{result=equal,table=public.t}": 1, "trickle.ranges.verified{result=different,table=public.t}": 1,
		"trickle.suspects.resolved{table=public.t}": 2, "trickle.corrections.failed{table=public.t}": 1, "trickle.messages.refused": 1,
		"trickle.corrections.closed{outcome=confirmed}": 2, "trickle.corrections.closed{outcome=superseded}": 1, "trickle.corrections{kind=extra,table=public.t}": 1,
		"trickle.corrections{kind=mismatched,table=public.t}": 1, "trickle.corrections{kind=missing,table=public.t}": 40, "trickle.verification.delay": 0,
	})
}

// A threshold is full when it is passed.
func TestFillAgreesWithPassed(t *testing.T) {
	t.Parallel()
	for _, threshold := range []policy.Threshold{{Discrepancies: 20}, {Ratio: 0.01, MinRows: 1000}, {Discrepancies: 500, Ratio: 0.01, MinRows: 1}, {}} {
		for _, n := range [][2]int{{0, 0}, {19, 5000}, {20, 0}, {20, 10000}, {10, 999}, {10, 1000}, {499, 100_000}, {500, 0}} {
			fill, passed := detector.Fill(threshold, n[0], n[1]), detector.Passed(threshold, n[0], n[1])
			if fill >= 1 != (passed != "") {
				t.Errorf("%+v with %d of %d: filled to %v, and passed: %q", threshold, n[0], n[1], fill, passed)
			}
		}
	}
}
