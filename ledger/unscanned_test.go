package ledger_test

import (
	"testing"
	"time"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/ledger"
)

// What the publisher says of a table stands in the report, of one that was never compared too, until it or a later reading says otherwise, in whatever order they come.
func TestUnscanned(t *testing.T) {
	t.Parallel()
	l, _ := fresh(t)
	const never = "public.never"
	began := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	say := func(minute int, name, reason string) {
		t.Helper()
		must(t, l.Unscanned(t.Context(), entry.Unscanned{Table: name, Replica: "cache.x", Reason: reason, At: began.Add(time.Duration(minute) * time.Minute)}))
	}
	read := func(minute int) {
		t.Helper()
		v := verified(1, rng("", ""), 10)
		v.ReadAt = began.Add(time.Duration(minute) * time.Minute)
		must(t, l.Record(t.Context(), v, nil, 0))
	}
	wants := func(name, reason string, since int) {
		t.Helper()
		for _, of := range []func() (ledger.Report, error){
			func() (ledger.Report, error) { return l.Report(t.Context()) }, func() (ledger.Report, error) { return l.Standing(t.Context()) },
		} {
			r, err := of()
			must(t, err)
			var got string
			var from time.Time
			for i, one := range r.Tables {
				if i > 0 && one.Table <= r.Tables[i-1].Table {
					t.Errorf("%s comes after %s", one.Table, r.Tables[i-1].Table)
				}
				if one.Table == name && one.Unscanned != nil {
					got, from = one.Unscanned.Reason, one.Unscanned.Since
				}
			}
			if got != reason || reason != "" && !from.Equal(began.Add(time.Duration(since)*time.Minute)) {
				t.Errorf("%s is not scanned because of %q since %s, want %q since minute %d", name, got, from, reason, since)
			}
		}
	}

	read(0)
	say(1, never, "it has no key")
	say(1, table, "no right to it")
	wants(never, "it has no key", 1)
	wants(table, "no right to it", 1)
	must(t, l.Pause(t.Context(), table, "the detector's own reason"))
	say(3, table, "no key either")
	wants(table, "no key either", 1)
	if r, err := l.Report(t.Context()); err != nil || len(r.Tables) != 2 || r.Tables[1].Paused != "the detector's own reason" || r.Tables[0].Replica != "cache.x" {
		t.Errorf("%+v, %v", r.Tables, err)
	}
	if v, err := l.View(t.Context()); err != nil || len(v.Strips) != 2 || v.Strips[0].Table != never {
		t.Errorf("%+v, %v", v.Strips, err)
	}

	say(2, table, "an older one")
	wants(table, "no key either", 1)
	read(2) // a message from before
	wants(table, "no key either", 1)
	read(4)
	wants(table, "", 0)
	say(3, table, "no key either") // the same message again
	wants(table, "", 0)

	say(5, table, "no key again")
	wants(table, "no key again", 5)
	say(7, table, "")
	say(6, table, "late")
	wants(table, "", 0)
	say(2, never, "")
	wants(never, "", 0)
}
