package scheduler

import (
	"testing"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/policy"
)

// A plan holds until its table has outgrown it, and in the middle of a cycle always.
func TestOutgrown(t *testing.T) {
	t.Parallel()
	through := [4]uint64{4, 4, 4, 4}
	even := func(rows uint64) [4]uint64 { return [4]uint64{rows, rows, rows, rows} }
	for name, c := range map[string]struct {
		shares int
		cycles [4]uint64 // that are over in each span
		rows   [4]uint64
		want   bool
	}{
		"as it was":                         {12, through, even(25_000), false},
		"more shares":                       {24, through, even(25_000), true},
		"more shares, in the first cycle":   {24, [4]uint64{4, 3, 4, 4}, even(25_000), false},
		"more shares, in a later cycle":     {24, [4]uint64{5, 5, 5, 4}, even(25_000), false},
		"somewhat larger":                   {12, through, even(35_000), false},
		"large enough for twice the spans":  {12, through, even(45_000), true},
		"larger on one side":                {12, through, [4]uint64{10_000, 10_000, 10_000, 110_000}, true},
		"lopsided, and no larger than then": {12, through, [4]uint64{1000, 1000, 1000, 110_000}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := cursor.Plan{Table: "public.a", Version: 7, Shares: 12, Rows: 100_000, Cycle: 3, Spans: make([]cursor.Span, 4)}
			s := &Scheduler{policy: &policy.Policy{RangeRows: 5000}, shares: cursor.Shares{Of: c.shares}}
			for n := range p.Spans {
				s.board.Take(cursor.Report{Table: p.Table, Plan: p.Version, Span: n, Cycle: c.cycles[n], Rows: c.rows[n]})
			}
			if got := s.outgrown(p); got != c.want {
				t.Errorf("got %t", got)
			}
		})
	}
}
