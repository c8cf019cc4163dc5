package laws

import (
	"fmt"
	"testing"

	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/replica"
)

// Every correction can be undone from the journal: those of all kinds, and those of rows that were corrected again and again. What is undone is
// drift, which the detector finds anew; what CDC has written since is not touched.
func TestEveryCorrectionCanBeUndone(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 300)
	const rows = `SELECT string_agg(id || '=' || coalesce(v, 'NULL'), ',' ORDER BY id) FROM t`
	correct := func(n int) {
		p.caughtUp()
		for range 3 { // a row that was written just now is not quiet yet
			p.caughtUp()
			p.scan()
			p.caughtUp()
			p.settle()
		}
		p.identical()
		p.want(`SELECT count(*) FROM trickle.corrections WHERE undone_at IS NULL`, fmt.Sprint(n))
	}
	undoer := replica.NewUndoer(p.dst, p.ledger, replica.Options{Map: p.mapping, Write: func() replica.Writing { return replica.Writing{} }})
	undo := func() (refused int) {
		list, err := p.ledger.Corrections(t.Context(), ledger.Filter{NotUndone: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			if _, err := undoer.Undo(t.Context(), c); err != nil {
				t.Log(err)
				refused++
			}
		}
		return refused
	}
	p.exec(p.dst, `DELETE FROM t WHERE id = 17`)
	p.exec(p.dst, `UPDATE t SET v = NULL WHERE id = 118`)
	p.exec(p.dst, `INSERT INTO t VALUES (1000, 'extra')`)
	drifted := p.value(p.dst, rows)
	correct(3)
	p.exec(p.src, `UPDATE t SET v = 'new' WHERE id IN (17, 118)`) // which CDC loses
	p.exec(p.src, `INSERT INTO t VALUES (1000, 'came')`)
	correct(6) // the same rows once more
	if n := undo(); n != 0 {
		t.Errorf("%d of 6 were not undone", n)
	}
	if now := p.value(p.dst, rows); now != drifted {
		t.Errorf("undone:\n%s\nbefore:\n%s", now, drifted)
	}
	correct(3)                                         // which is drift again
	p.exec(p.dst, `UPDATE t SET v = v WHERE id = 118`) // as CDC does that delivers an event again
	if n := undo(); n != 1 {
		t.Errorf("%d were not undone, want the one that was written since", n)
	}
	p.want(`SELECT v FROM t WHERE id = 118`, "new")
	p.want(`SELECT count(*) FROM t WHERE id IN (17, 1000)`, "1")
}
