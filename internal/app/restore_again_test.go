package app

import (
	"testing"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
)

// What a resync has looked at before the replica became what it is proves nothing of it.
func TestRestoreIsNotProvenByWhatWasSeenBefore(t *testing.T) {
	t.Parallel()
	r := newRestoreRig(t)
	r.publish()
	r.build()
	r.exec(r.dst, `CREATE TABLE t (id bigint PRIMARY KEY, v text)`)
	book := ledger.New(r.dst, "shop")
	if err := book.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := func(id string, waiting bool) {
		t.Helper()
		made, err := book.Request(t.Context(), entry.Wish{ID: id, Scope: entry.Full, Table: "public.t", Waiting: waiting})
		if err == nil && !waiting {
			if err = book.Plan(t.Context(), id, []message.Range{{}}); err == nil {
				err = book.Finish(t.Context(), id, entry.Piece{}, 1000)
			}
		}
		if err != nil || !made {
			t.Fatal(made, err)
		}
	}
	r.exec(r.src, `UPDATE t SET v = 'unheard of' WHERE id = 9`)
	for _, id := range []string{"running", "later", "waiting"} {
		before(id, id == "waiting")
		report, err := r.restore(RestoreOptions{PlayForward: true, Jobs: 1})
		if err != nil {
			t.Fatal(err)
		}
		r.identical()
		if report.Loaded != (id == "running") || !report.Sound() || report.Proof.Rows < 1000 || report.Proof.Corrected != 1 {
			t.Errorf("%s: %+v\n%+v", id, report, report.Proof)
		}
		if got := r.value(r.dst, `SELECT state FROM trickle.resyncs WHERE id = '`+id+`'`); got != "done" {
			t.Errorf("%s is %s", id, got)
		}
		r.exec(r.dst, `UPDATE t SET v = 'drifted' WHERE id = 11`)
	}
}
