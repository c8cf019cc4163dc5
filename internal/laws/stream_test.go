package laws

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/resync"
)

// streamPolicy has ranges that are streamed when the replica has none of their rows.
var streamPolicy = strings.Replace(resyncPolicy, "range_rows: 100", "range_rows: 5000", 1)

const streamed = 5000 // rows, all in one range

// copying is the request for the first range, which has all rows; the second has none.
func copying(req *tricklepb.Envelope) bool { return req.GetCopyRequest().GetRange().GetHi() != nil }

func confirming(req *tricklepb.Envelope) bool {
	return req.GetKeyDigestsRequest().GetExpected().GetXmin() != 0
}

// emptied has a source with rows, a replica with none, and a full resync asked for.
func emptied(t *testing.T) *pair {
	t.Helper()
	p := newPair(t, streamPolicy, streamed)
	p.exec(p.dst, `TRUNCATE t`)
	p.caughtUp()
	p.request(entry.Wish{ID: "full", Scope: entry.Full, Table: "public.t", Reason: "test"})
	return p
}

const (
	copies = `SELECT count(*) || ' of ' || coalesce(sum(rows), 0) || ' rows, open ' || count(*) FILTER (WHERE closed_at IS NULL) FROM trickle.copies`
	kinds  = `SELECT coalesce(string_agg(kind || ' ' || (key->>'id'), ', ' ORDER BY id), 'none') FROM trickle.corrections`
)

// A large range that the replica has none of comes as one stream, with one line in the journal, which is enough to take it back.
func TestLargeEmptyRangeIsStreamed(t *testing.T) {
	t.Parallel()
	p := emptied(t)
	requests := map[string]int{}
	p.count(requests)
	p.walk()
	p.identical()
	p.want(copies, "1 of 5000 rows, open 0")
	p.want(kinds, "none")
	p.want(`SELECT state || ' ' || rows || ' ' || corrected FROM trickle.resyncs`, "done 5000 5000")
	p.want(`SELECT count(*) FROM t, trickle.copies c WHERE t.xmin::text = c.version::text`, "5000")
	if n := requests["*tricklepb.Envelope_KeyDigestsRequest"]; n != 1 {
		t.Errorf("the source was asked for digests %d times, want once, to confirm", n)
	}
	report, err := p.ledger.Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r := report.Resyncs[0]; r.Corrected != streamed || report.Unconfirmed != 0 {
		t.Errorf("the report says %d corrected, %d unconfirmed", r.Corrected, report.Unconfirmed)
	}
	p.exec(p.dst, `UPDATE t SET v = 'moved on' WHERE id = 7`) // CDC
	p.exec(p.dst, p.value(p.dst, `SELECT undo FROM trickle.copies`))
	p.want(`SELECT string_agg(id || ' ' || v, ',') FROM t`, "7 moved on")
}

// Law 1: whatever CDC does between the reading of a copy and its writing, the replica ends as the source is, and no row goes backwards.
func TestCopyIsOvertaken(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		source, replica []string
		copies, kinds   string
	}{
		"by a new row": {
			source:  []string{`INSERT INTO t VALUES (-9, 'new')`},
			replica: []string{`INSERT INTO t VALUES (-9, 'new')`},
			copies:  "1 of 5000 rows, open 0", kinds: "none",
		},
		"by a newer version of one of its rows": {
			source:  []string{`UPDATE t SET v = 'newer' WHERE id = 7`},
			replica: []string{`INSERT INTO t VALUES (7, 'newer')`},
			copies:  "0 of 0 rows, open 0",
		},
		"by a delete that meets nothing": {
			source: []string{`DELETE FROM t WHERE id = 7`},
			copies: "1 of 5000 rows, open 0", kinds: "extra 7",
		},
		"by a row that comes and goes": {
			source:  []string{`UPDATE t SET v = 'newer' WHERE id = 7`, `DELETE FROM t WHERE id = 7`},
			replica: []string{`INSERT INTO t VALUES (7, 'newer')`, `DELETE FROM t WHERE id = 7`},
			copies:  "1 of 5000 rows, open 0", kinds: "extra 7",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := emptied(t)
			p.on(copying, func() {
				for _, sql := range c.source {
					p.exec(p.src, sql)
				}
				for _, sql := range c.replica {
					p.exec(p.dst, sql)
				}
			})
			p.walk()
			p.identical()
			p.want(copies, c.copies)
			if c.kinds != "" {
				p.want(kinds, c.kinds)
				return
			}
			// Every row but that one was written by itself.
			p.want(`SELECT count(*) || ' ' || count(*) FILTER (WHERE key->>'id' = '7') FROM trickle.corrections`, "4999 0")
			p.want(`SELECT v FROM t WHERE id = 7`, "newer")
		})
	}
}

// Law 2: what is in flight when the range is read, or changes before it is confirmed, comes by CDC.
func TestCopyLeavesWhatIsInFlight(t *testing.T) {
	t.Parallel()
	p := emptied(t)
	p.exec(p.src, `UPDATE t SET v = 'new' WHERE id = 7`)
	p.on(copying, func() { p.exec(p.src, `UPDATE t SET v = 'newer' WHERE id = 8`) })
	stop := p.run()
	p.eventuallyIn(`SELECT planned AND NOT EXISTS (SELECT FROM trickle.resync_ranges WHERE NOT done) FROM trickle.resyncs`, "true")
	p.want(copies, "1 of 4999 rows, open 0")
	p.want(`SELECT string_agg(key[1], ',' ORDER BY key) FROM trickle.suspects`, "7,8")
	p.settle()
	p.want(kinds, "none")
	p.exec(p.dst, `INSERT INTO t VALUES (7, 'new')`)
	p.exec(p.dst, `UPDATE t SET v = 'newer' WHERE id = 8`)
	p.caughtUp()
	p.settle()
	p.eventuallyIn(`SELECT state FROM trickle.resyncs`, "done")
	stop()
	p.identical()
	p.want(kinds, "none")
}

// killedBeforeItsConfirm has a copy written whose row 7 the source has deleted since it was read, and whoever wrote it killed.
func killedBeforeItsConfirm(t *testing.T) *pair {
	t.Helper()
	p := emptied(t)
	ctx, kill := context.WithCancel(t.Context())
	p.on(copying, func() { p.exec(p.src, `DELETE FROM t WHERE id = 7`) }) // CDC's delete meets nothing
	p.before = func(req *tricklepb.Envelope) {
		if confirming(req) {
			kill()
		}
	}
	if err := p.resync.Run(ctx); err != nil {
		t.Fatal(err)
	}
	p.want(copies, "1 of 5000 rows, open 1")
	p.want(`SELECT count(*) FROM t WHERE id = 7`, "1")
	p.wire() // a new process
	p.before = nil
	return p
}

// Law 8: whoever wrote a copy dies before its confirmation. The next one to walk the range confirms it.
func TestUnconfirmedCopyIsConfirmed(t *testing.T) {
	t.Parallel()
	p := killedBeforeItsConfirm(t)
	p.exec(p.dst, `UPDATE trickle.resync_ranges SET leased_until = '-infinity'`)
	p.walk()
	p.identical()
	p.want(copies, "1 of 5000 rows, open 0")
	p.want(kinds, "extra 7")
}

// Law 8: the same where nobody will walk the range again, since the resync was ended by hand.
func TestUnconfirmedCopyOfAnEndedResyncIsConfirmed(t *testing.T) {
	t.Parallel()
	p := killedBeforeItsConfirm(t)
	if err := p.ledger.Cancel(t.Context(), "full"); err != nil {
		t.Fatal(err)
	}
	p.exec(p.dst, `UPDATE trickle.copies SET checked_at = checked_at - interval '1 hour'`)
	if _, err := p.detector.Source().Table(t.Context(), "public.t", 0); err != nil { // as with the next message: the gate hears of the source
		t.Fatal(err)
	}
	stop := p.run()
	p.eventuallyIn(`SELECT count(*) FROM trickle.copies WHERE closed_at IS NULL`, "0")
	stop()
	p.want(`SELECT string_agg(key[1], ',') FROM trickle.suspects`, "7")
	p.caughtUp()
	p.settle()
	p.identical()
	p.want(kinds, "extra 7")
}

// Whoever loses its lease over a range finds it taken, and its copy is not written.
func TestTwoCopiesOfOneRange(t *testing.T) {
	t.Parallel()
	p := emptied(t)
	other := resync.New(p.resync.Parts)
	p.on(copying, func() {
		p.exec(p.dst, `UPDATE trickle.resync_ranges SET leased_until = '-infinity'`)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- other.Run(ctx) }()
		p.eventuallyIn(`SELECT count(*) FROM trickle.resync_ranges WHERE done AND hi IS NOT NULL`, "1")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	p.walk()
	p.identical()
	p.want(copies, "1 of 5000 rows, open 0")
	p.want(kinds, "none")
}

// A replica that stores something else than it is given, be it in one row, takes no copy; the row is found, and its neighbours are written.
func TestCopyThatIsStoredOtherwise(t *testing.T) {
	t.Parallel()
	for name, ddl := range map[string]string{
		"changed": `BEGIN IF NEW.id = 7 THEN NEW.v := 'other'; END IF; RETURN NEW; END`,
		"refused": `BEGIN IF NEW.id = 7 THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := emptied(t)
			p.exec(p.dst, `CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$`+ddl+`$$`)
			p.exec(p.dst, `CREATE TRIGGER odd BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION odd()`)
			p.walk()
			p.want(copies, "0 of 0 rows, open 0")
			p.want(`SELECT count(*) FROM t`, "4999")
			p.want(`SELECT state || ' ' || corrected FROM trickle.resyncs`, "failed 4999")
		})
	}
}

// Law 5: while the brake is on nothing is copied.
func TestTheBrakeHoldsACopy(t *testing.T) {
	t.Parallel()
	p := emptied(t)
	p.on(copying, func() {
		if err := p.ledger.Brake(t.Context(), "test"); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := p.resync.Run(ctx); err != nil {
		t.Fatal(err)
	}
	p.want(`SELECT brake_reason FROM trickle.pipelines`, "test")
	p.want(copies, "0 of 0 rows, open 0")
	p.want(`SELECT count(*) FROM t`, "0")
	if _, err := p.ledger.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.walk()
	p.identical()
}

// The gate closes while the source is asked, as it does when the answer tells of a failover: nothing is copied until it is open again.
func TestTheGateHoldsACopy(t *testing.T) {
	t.Parallel()
	p := emptied(t)
	p.policy.Resync.InFlight = 1 // nobody else finds it closed
	closed := make(chan struct{})
	p.on(copying, func() {
		p.beat.set(time.Time{})
		close(closed)
	})
	stop := p.run()
	<-closed
	p.eventuallyIn(`SELECT NOT done AND leased_until = '-infinity' FROM trickle.resync_ranges WHERE hi IS NOT NULL`, "true") // it was given back
	p.want(copies, "0 of 0 rows, open 0")
	p.want(`SELECT count(*) FROM t`, "0")
	p.caughtUp()
	p.eventuallyIn(`SELECT state FROM trickle.resyncs`, "done")
	stop()
	p.identical()
	p.want(kinds, "none")
}
