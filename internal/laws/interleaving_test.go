package laws

import (
	"testing"

	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/scanner"
)

// Law 3: every kind of drift is corrected, and journalled with both images.
func TestEveryKindIsCorrected(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 250)
	p.exec(p.dst, `DELETE FROM t WHERE id = 7`)
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 120`)
	p.exec(p.dst, `INSERT INTO t VALUES (1000, 'beyond the last key'), (-3, 'before the first')`)
	p.caughtUp()
	p.scan()
	p.settle() // names extras' first sighting
	p.caughtUp()
	p.settle()
	p.identical()
	p.want(`SELECT string_agg(kind || ' ' || (key->>'id') || ' ' || outcome, ', ' ORDER BY (key->>'id')::int) FROM trickle.corrections`,
		"extra -3 confirmed, missing 7 confirmed, mismatched 120 confirmed, extra 1000 confirmed")
	p.want(`SELECT before->>'v' || ' > ' || (after->>'v') FROM trickle.corrections WHERE kind = 'mismatched'`, "edited > value 120")
	p.want(`SELECT count(*) FROM trickle.corrections WHERE kind = 'missing' AND before IS NULL AND after->>'v' = 'value 7'`, "1")
	p.want(`SELECT count(*) FROM trickle.corrections WHERE kind = 'extra' AND after IS NULL AND before IS NOT NULL`, "2")
}

// Law 1, the resurrection: the row that was refetched is deleted at the source, and the delete meets nothing in the replica, before the insert
// lands. Only the confirming refetch notices.
func TestResurrection(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 20)
	p.exec(p.dst, `DELETE FROM t WHERE id = 7`)
	p.caughtUp()
	p.scan()
	p.on(refetch, func() {
		p.exec(p.src, `DELETE FROM t WHERE id = 7`)
		p.exec(p.dst, `DELETE FROM t WHERE id = 7`) // CDC: nothing there
	})
	p.settle()
	p.want(`SELECT count(*) FROM t WHERE id = 7`, "0")
	p.identical()
	p.want(`SELECT string_agg(kind || ' ' || outcome, ', ' ORDER BY id) FROM trickle.corrections`, "missing superseded, extra confirmed")
}

// Law 1, ABA: while a correction is under way CDC writes the row twice and ends at the value that was observed. Only the version tells.
func TestABA(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 20)
	p.exec(p.dst, `UPDATE t SET v = 'h' WHERE id = 7`)
	p.caughtUp()
	p.scan()
	p.on(refetch, func() {
		for _, v := range []string{"x", "h"} {
			p.exec(p.src, `UPDATE t SET v = $1 WHERE id = 7`, v)
			p.exec(p.dst, `UPDATE t SET v = $1 WHERE id = 7`, v) // CDC
		}
	})
	p.settle()
	p.want(`SELECT v FROM t WHERE id = 7`, "h")
	p.identical()
	p.want(`SELECT count(*) FROM trickle.corrections`, "0")
}

// Law 1: CDC brings a newer version between the refetch and the write.
func TestNewerVersionIsNotReverted(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 20)
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 7`)
	p.caughtUp()
	p.scan()
	p.on(refetch, func() {
		p.exec(p.src, `UPDATE t SET v = 'newer' WHERE id = 7`)
		p.exec(p.dst, `UPDATE t SET v = 'newer' WHERE id = 7`)
	})
	p.settle()
	p.want(`SELECT v FROM t WHERE id = 7`, "newer")
	p.want(`SELECT count(*) FROM trickle.corrections`, "0")
}

// Law 1: the source changes right after the write was read for; the confirm goes round until both agree.
func TestConfirmGoesRound(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 20)
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 7`)
	p.caughtUp()
	p.scan()
	p.on(refetch, func() { p.exec(p.src, `UPDATE t SET v = 'newer' WHERE id = 7`) }) // CDC will bring it later
	p.settle()
	p.want(`SELECT v FROM t WHERE id = 7`, "newer")
	p.want(`SELECT string_agg(outcome, ', ' ORDER BY id) FROM trickle.corrections`, "superseded, confirmed")
}

// Law 8: whoever wrote a correction dies before its confirmation. Another goes on from the journal.
func TestAbandonedCorrectionIsConfirmed(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 20)
	p.exec(p.dst, `DELETE FROM t WHERE id IN (7, 8, 9)`)
	p.caughtUp()
	p.scan()
	n := 0
	p.before = func(req *tricklepb.Envelope) {
		if refetch(req) {
			if n++; n == 2 { // the confirmation: the source deletes, then the detector is killed
				p.exec(p.src, `DELETE FROM t WHERE id = 7`)
				p.exec(p.src, `UPDATE t SET v = 'newer' WHERE id = 8`)
				p.exec(p.dst, `UPDATE t SET v = 'newer' WHERE id = 8`) // CDC; its delete of 7 came too early
				panic("kill -9")
			}
		}
	}
	func() {
		defer func() { _ = recover() }()
		p.settle()
	}()
	p.before = nil
	p.want(`SELECT count(*) FROM trickle.corrections WHERE closed_at IS NULL`, "3")
	p.wire() // a new process
	p.exec(p.dst, `UPDATE trickle.corrections SET checked_at = checked_at - interval '1 hour'`)
	if _, err := p.detector.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.identical()
	p.want(`SELECT count(*) FROM trickle.corrections WHERE closed_at IS NULL`, "0")
	p.want(`SELECT string_agg(kind || ' ' || (key->>'id') || ' ' || outcome, ', ' ORDER BY id) FROM trickle.corrections`,
		"missing 7 superseded, missing 8 superseded, missing 9 confirmed, extra 7 confirmed")
}

// Law 2: what is in flight is never corrected, however long it takes.
func TestInFlightIsLeftAlone(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 50)
	p.caughtUp()
	// The source goes on; CDC is stuck.
	p.exec(p.src, `UPDATE t SET v = 'new' WHERE id = 1`)
	p.exec(p.src, `DELETE FROM t WHERE id = 2`)
	p.exec(p.src, `INSERT INTO t VALUES (100, 'new')`)
	p.scanAs(scanner.Job{Complete: true})
	p.settle()
	p.want(`SELECT count(*) FROM trickle.corrections`, "0")
	p.want(`SELECT count(*) FROM trickle.discrepancies`, "0")
	// CDC delivers: all of it resolves.
	p.exec(p.dst, `UPDATE t SET v = 'new' WHERE id = 1`)
	p.exec(p.dst, `DELETE FROM t WHERE id = 2`)
	p.exec(p.dst, `INSERT INTO t VALUES (100, 'new')`)
	p.caughtUp()
	p.settle()
	p.want(`SELECT count(*) FROM trickle.suspects`, "0")
	p.want(`SELECT count(*) FROM trickle.corrections`, "0")
	p.want(`SELECT resolved FROM trickle.tables`, "3")
}
