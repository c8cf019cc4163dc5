package ledger_test

import (
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/entry"
)

func TestBaselines(t *testing.T) {
	t.Parallel()
	l, pool := fresh(t)
	exec(t, pool, `INSERT INTO trickle.baselines (pipeline, set_name, source, taken, manifest, position, tables) VALUES ('other', 'theirs', 's', now(), '', '[]', '[]')`)
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	set := func(n int) entry.Baseline {
		return entry.Baseline{
			Set: fmt.Sprint("s", n), Source: "7/shop", Manifest: []byte{1, 2, 3}, Taken: at.Add(time.Duration(n) * time.Hour),
			Position: []entry.LogPoint{{Topic: "shop.public.t", ID: "x", Offsets: []int64{1, math.MaxInt64}}, {Topic: "later"}},
			Tables: []entry.BaselineTable{
				{Table: table, Schema: math.MaxUint64, Rows: 5, Sum: math.MaxUint64 - 1, Digest: digest.Record, Probe: 9},
				{Table: "public.u", Rows: 7, Digest: digest.Portable},
			},
		}
	}
	for _, n := range []int{3, 1, 2, 3, 7, 4, 6} { // out of order, and one of them twice
		must(t, l.Baseline(t.Context(), set(n)))
	}
	sets, err := l.Baselines(t.Context())
	must(t, err)
	if len(sets) != 5 {
		t.Fatalf("%d sets", len(sets))
	}
	for i, n := range []int{7, 6, 4, 3, 2} {
		got, want := sets[i], set(n)
		want.Heard = got.Heard
		if got.Heard.IsZero() || !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
	r, err := l.Report(t.Context())
	must(t, err)
	if len(r.Baselines) != 5 || r.Baselines[0].Set != "s7" || r.Baselines[0].Tables != 2 || r.Baselines[0].Rows != 12 || !r.Baselines[0].Taken.Equal(at.Add(7*time.Hour)) {
		t.Errorf("report %+v", r.Baselines)
	}
	if n := one[int](t, pool, `SELECT count(*) FROM trickle.baselines WHERE pipeline = 'other'`); n != 1 {
		t.Error("another pipeline's set is gone")
	}
}
