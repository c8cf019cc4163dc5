package cursor

import (
	"testing"
	"time"
)

// A report that comes late, from an owner of earlier, takes nothing back.
func TestLateReports(t *testing.T) {
	t.Parallel()
	var b Board
	p := Plan{Table: "public.a", Version: 7}
	for _, r := range []Report{{Plan: 7, Cycle: 4, Ranges: 10}, {Plan: 7, Cycle: 3, Ranges: 99}, {Plan: 6, Cycle: 9, Ranges: 99}} {
		r.Table = p.Table
		b.Take(r)
		if got, ok := b.Report(p, 0); !ok || got.Cycle != 4 || got.Ranges != 10 {
			t.Errorf("after %+v: %+v, %t", r, got, ok)
		}
	}
	b.Take(Report{Table: p.Table, Plan: 8, Cycle: 1})
	if got, ok := b.Report(p, 0); ok {
		t.Errorf("of the plan before the one in force: %+v", got)
	}
}

// What shares hold of a table adds up to one cycle of the plan in force; what is left of a plan before is no part of it.
func TestGather(t *testing.T) {
	t.Parallel()
	begun := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	share := func(table Table, ranges ...Range) State {
		table.Name = "public.a"
		return State{Tables: map[string]Table{table.Name: table}, Ranges: map[string][]Range{table.Name: ranges}}
	}
	first := share(Table{Plan: 2, Cycle: 5, Started: begun.Add(time.Minute)}, Range{ID: 1, Plan: 2}, Range{ID: 2, Plan: 1})
	first.Source = "source"
	first.Board.Put(Plan{Table: "public.a", Version: 2})
	got := gather([]State{
		first,
		share(Table{Plan: 2, Cycle: 5, Started: begun}, Range{ID: 3, Plan: 2}),
		share(Table{Plan: 2, Cycle: 4, Started: begun.Add(-time.Hour), Paused: "no permission"}),
		share(Table{Plan: 1, Cycle: 9, Started: begun.Add(-time.Hour)}, Range{ID: 4, Plan: 1}),
	})
	if table := got.Tables["public.a"]; table.Cycle != 5 || !table.Started.Equal(begun) || table.Paused != "no permission" {
		t.Errorf("the table is %+v", table)
	}
	if ranges := got.Ranges["public.a"]; len(ranges) != 2 || ranges[0].ID != 1 || ranges[1].ID != 3 {
		t.Errorf("its ranges are %+v", ranges)
	}
	if got.Source != "source" {
		t.Errorf("the source is %q", got.Source)
	}
}
