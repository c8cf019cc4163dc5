package ledger_test

import (
	"testing"

	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
)

// What a trace is made of stays with the suspect, whoever takes it, and then with the correction until that is closed; also in a ledger from before there were traces.
func TestWhatATraceIsMadeOf(t *testing.T) {
	t.Parallel()
	l, pool := fresh(t)
	exec(t, pool, `ALTER TABLE trickle.suspects DROP COLUMN trace`)
	exec(t, pool, `ALTER TABLE trickle.corrections DROP COLUMN trace`)
	must(t, l.Migrate(t.Context()))

	found := suspect("1", drift.Sighting{})
	found.Trace = "how it was found"
	must(t, l.Record(t.Context(), verified(1, rng("", "10"), 100), []drift.Suspect{found, suspect("2", drift.Sighting{})}, 0))
	for range 2 {
		_, due, err := l.Due(t.Context(), 10, 0)
		must(t, err)
		kept := make(map[string]string)
		for _, s := range due {
			kept[s.Key.ID()] = s.Trace
		}
		if len(due) != 2 || kept[message.Key{"1"}.ID()] != "how it was found" || kept[message.Key{"2"}.ID()] != "" {
			t.Fatalf("suspects remember %q", kept)
		}
		must(t, l.Settle(t.Context(), table, entry.Settled{Again: due}))
	}

	row := `{"id": 1}`
	ids := journal(t, pool, l, ledger.Entry{Key: message.Key{"1"}, KeyJSON: row, Kind: drift.Missing, After: &row, TraceID: "abc", Trace: "how it was corrected"},
		ledger.Entry{Key: message.Key{"2"}, KeyJSON: row, Kind: drift.Missing, After: &row, TraceID: "def"})
	_, open, err := l.Open(t.Context(), 0, 10)
	must(t, err)
	if len(open) != 2 || open[0].TraceID != "abc" || open[0].Trace != "how it was corrected" || open[0].At.IsZero() || open[1].TraceID != "def" || open[1].Trace != "" {
		t.Errorf("open are %+v", open)
	}
	journal(t, pool, l, ledger.Entry{Key: message.Key{"2"}, KeyJSON: row, Kind: drift.Missing, After: &row, Trace: "again", Rewrites: ids[1]})
	for _, want := range []int{1, 0} { // nobody closes what is closed
		if closed, err := l.Close(t.Context(), entry.Confirmed, ids); err != nil || len(closed) != want || want == 1 && closed[0] != ids[0] {
			t.Errorf("closed %v of %v, %v", closed, ids, err)
		}
	}
	if got := one[string](t, pool, `SELECT string_agg(coalesce(trace_id, '-') || ':' || coalesce(trace, '-'), ' ' ORDER BY id) FROM trickle.corrections`); got != "abc:- def:- -:again" {
		t.Errorf("the journal keeps %s", got)
	}
}

func closeAll(t *testing.T, l *ledger.Ledger, outcome string, ids ...int64) {
	t.Helper()
	_, err := l.Close(t.Context(), outcome, ids)
	must(t, err)
}
