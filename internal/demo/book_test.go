package demo

import (
	"testing"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/internal/testbed/workload"
	"github.com/trickle-verify/trickle/ledger"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	const table = "public.orders"
	done := func(key, kind string) journalled { return journalled{table, key, kind, entry.Confirmed} }
	for name, c := range map[string]struct {
		journal, suspects []journalled
		found, corrected  ledger.Kinds
		false             int
	}{
		"nothing found yet":              {},
		"a suspect is found":             {suspects: []journalled{{Table: table, Key: "7"}}, found: ledger.Kinds{Missing: 1}},
		"the load's suspects are not":    {suspects: []journalled{{Table: table, Key: "8"}}},
		"written and not confirmed":      {journal: []journalled{{table, "7", "missing", ""}}, found: ledger.Kinds{Missing: 1}},
		"confirmed":                      {journal: []journalled{done("7", "missing"), done("17", "extra")}, found: ledger.Kinds{Missing: 1, Extra: 1}, corrected: ledger.Kinds{Missing: 1, Extra: 1}},
		"found and corrected count once": {journal: []journalled{done("7", "missing")}, suspects: []journalled{{Table: table, Key: "7"}}, found: ledger.Kinds{Missing: 1}, corrected: ledger.Kinds{Missing: 1}},
		"a row nobody made wrong":        {journal: []journalled{done("8", "missing")}, false: 1},
		"the same key of another table":  {journal: []journalled{{"public.customers", "7", "missing", entry.Confirmed}}, false: 1},
		"another kind":                   {journal: []journalled{done("7", "extra")}, false: 1},
		"corrected twice":                {journal: []journalled{done("7", "missing"), done("7", "missing")}, found: ledger.Kinds{Missing: 1}, corrected: ledger.Kinds{Missing: 1}, false: 1},
		"rewritten before it was closed": {journal: []journalled{{table, "7", "missing", entry.Superseded}, done("7", "missing")}, found: ledger.Kinds{Missing: 1}, corrected: ledger.Kinds{Missing: 1}},
		"superseded is not corrected":    {journal: []journalled{{table, "7", "missing", entry.Superseded}}, found: ledger.Kinds{Missing: 1}},
	} {
		b := newBook()
		b.add([]workload.Injected{{Table: table, Key: "7", Kind: workload.Missing}, {Table: table, Key: "17", Kind: workload.Extra}})
		v := b.judge(c.journal, c.suspects)
		if v.Found != c.found || v.Corrected != c.corrected || len(v.False) != c.false || v.Injected != (ledger.Kinds{Missing: 1, Extra: 1}) {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

func TestResyncsThatCount(t *testing.T) {
	t.Parallel()
	shown, done := pick([]ledger.ResyncReport{
		{ID: "e", Scope: entry.Partial, State: "done"},
		{ID: "d", Scope: entry.Full, State: "running"},
		{ID: "c", Scope: entry.Full, State: "done"},
		{ID: "b", Scope: entry.Partial, State: "done", Failure: "taken over by c"},
		{ID: "a", Scope: entry.Partial, State: "failed", Failure: "gone"},
	})
	if shown == nil || shown.ID != "d" || done != (Resyncs{Partial: 1, Full: 1}) {
		t.Errorf("shown %+v, done %+v", shown, done)
	}
	if shown, done := pick(nil); shown != nil || done != (Resyncs{}) {
		t.Errorf("of none: shown %+v, done %+v", shown, done)
	}
}

func TestVerified(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tables []Table
		want   bool
	}{
		"no table":                   {nil, false},
		"under way":                  {[]Table{{"a", 3, 2, 4, 0}, {"b", 3, 4, 4, 0}}, false},
		"all ranges of that cycle":   {[]Table{{"a", 3, 4, 4, 0}, {"b", 3, 4, 4, 0}}, true},
		"the next cycle has begun":   {[]Table{{"a", 4, 0, 4, 0}, {"b", 3, 4, 4, 0}}, true},
		"a table that came later":    {[]Table{{"a", 3, 4, 4, 0}, {"c", 3, 4, 4, 0}}, false},
		"an older cycle than before": {[]Table{{"a", 2, 4, 4, 0}, {"b", 3, 4, 4, 0}}, false},
	} {
		if got := (State{Tables: c.tables}).verified(map[string]int64{"a": 3, "b": 3}); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
