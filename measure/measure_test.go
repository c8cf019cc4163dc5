package measure_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/trickle-verify/trickle/internal/testbed/meter"
	"github.com/trickle-verify/trickle/measure"
)

func TestInstruments(t *testing.T) {
	t.Parallel()
	m := meter.New(t)
	set := measure.On(m)
	lag := set.Gauge("trickle.lag", "s", "Lag.", "by", "way")
	seen := set.Total("trickle.seen", "{row}", "Rows.")
	told := set.Counter("trickle.told", "", "Things.", "table")
	took := set.Seconds("trickle.took", "How long.")
	if err := set.Observe(func(_ context.Context, tell measure.Tell) {
		tell(lag, 1.5, "slot") // a label without a value is empty, and there
		tell(seen, 3)
	}); err != nil {
		t.Fatal(err)
	}
	told.Add(t.Context(), 0, "public.t")
	told.Add(t.Context(), 2, "public.u")
	took.Record(t.Context(), .2)
	m.Wants(t, "all kinds", map[string]any{
		"trickle.lag{by=slot,way=}": 1.5, "trickle.seen": 3, "trickle.told{table=public.t}": 0, "trickle.told{table=public.u}": 2, "trickle.took": 1,
	})
	if got := fmt.Sprint(m.Declared()); got != "[{trickle.lag gauge s Lag. [by way]} {trickle.seen counter {row} Rows. []} {trickle.told counter  Things. [table]} {trickle.took histogram s How long. []}]" {
		t.Errorf("declared %s", got)
	}
}

// Whoever has no meter measures nothing, and a meter that refuses a name is told.
func TestNoMeterAndARefusal(t *testing.T) {
	t.Parallel()
	set := measure.On(nil)
	told := set.Counter("trickle.told", "", "Things.")
	if err := set.Observe(func(context.Context, measure.Tell) {}); err != nil {
		t.Error(err)
	}
	told.Add(t.Context(), 1)
	var none measure.Adder
	none.Add(t.Context(), 1)
	refused := measure.On(meter.New(t))
	refused.Gauge("no name", "", "")
	if err := refused.Observe(nil); err == nil {
		t.Error("a name with a blank was taken")
	}
}

// Hundreds of tables do not become hundreds of series.
func TestTablesAreBounded(t *testing.T) {
	t.Parallel()
	var tables measure.Tables
	for range 2 { // who had a name keeps it
		for i := range measure.MostTables + 50 {
			want := fmt.Sprint("t", i)
			label := tables.Label(want)
			if i >= measure.MostTables {
				want = measure.Other
			}
			if label != want {
				t.Fatalf("table %d is told as %s, want %s", i, label, want)
			}
		}
	}
}
