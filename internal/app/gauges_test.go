package app

import (
	"testing"

	"github.com/trickle-verify/trickle/ledger"
)

// A table counts as paused once, whichever side says so.
func TestPausedByEitherSide(t *testing.T) {
	t.Parallel()
	told := &ledger.UnscannedReport{Reason: "it has no key"}
	var st vitals
	st.Tables = []ledger.TableReport{
		{Table: "public.fine", Coverage: 1}, {Table: "public.here", Paused: "the schema differs"}, {Table: "public.there", Unscanned: told}, {Table: "public.both", Paused: "no such table", Unscanned: told},
	}
	got := new(gauges).byLabel(st, nil)
	for table, want := range map[string]float64{"public.fine": 0, "public.here": 1, "public.there": 1, "public.both": 1} {
		if got[table] == nil || got[table].paused != want {
			t.Errorf("%s: %+v, want %v", table, got[table], want)
		}
	}
}
