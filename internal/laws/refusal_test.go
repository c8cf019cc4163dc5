package laws

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/scanner"
)

// Law 4: a message from another source corrects nothing, is counted and shown, and pauses the table.
func TestAnotherSourceCorrectsNothing(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 50)
	p.caughtUp()
	p.scan() // pins
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 7`)
	for _, env := range p.sent {
		foreign := proto.CloneOf(env)
		foreign.Source = "4711/other"
		if err := p.detector.Handle(t.Context(), "laws.verify/0@1", foreign); err != nil {
			t.Fatal(err)
		}
	}
	p.settle()
	p.want(`SELECT count(*) FROM trickle.corrections`, "0")
	p.want(`SELECT count(*) FROM trickle.suspects`, "0")
	p.want(`SELECT refused > 0 FROM trickle.pipelines`, "true")
	paused := p.value(p.dst, `SELECT paused FROM trickle.tables`)
	for _, word := range []string{"4711/other", "pinned", "trickle-consumer pin --source 4711/other"} {
		if !strings.Contains(paused, word) {
			t.Errorf("the reason %q does not say %q", paused, word)
		}
	}
	// The right source resumes it.
	p.caughtUp()
	p.scan()
	p.settle()
	p.want(`SELECT paused FROM trickle.tables`, "")
	p.identical()
}

// Law 4: an answer from another source is not believed either.
func TestForeignAnswerIsNotBelieved(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 50)
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 7`)
	p.caughtUp()
	p.scan()
	p.after = func(_, reply *tricklepb.Envelope) { reply.Source = "4711/other" }
	p.settle()
	p.want(`SELECT paused LIKE '%4711/other%' FROM trickle.tables`, "true")
	p.want(`SELECT v FROM t WHERE id = 7`, "edited")
	p.want(`SELECT count(*) FROM trickle.corrections`, "0")
}

// Law 4: the replica's own database is never its own source.
func TestOwnDatabaseIsNoSource(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 50)
	p.caughtUp()
	p.scan()
	p2 := newPair(t, lawPolicy, 50)
	p2.src = p2.dst
	p2.wire()
	p2.scan()
	p2.settle()
	p2.want(`SELECT count(*) FROM trickle.ranges`, "0")
	if paused := p2.value(p2.dst, `SELECT paused FROM trickle.tables`); !strings.Contains(paused, "same one") {
		t.Errorf("paused because %q", paused)
	}
}

// Law 4: unreadable and forged messages are refused by the codec and counted.
func TestForgedMessageIsRefused(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 10)
	p.caughtUp()
	p.scan()
	ours, theirs := message.Codec{Secret: []byte("ours")}, message.Codec{Secret: []byte("theirs")}
	for name, codec := range map[string]message.Codec{"another key": theirs, "no key": {}} {
		b, err := codec.Encode("laws.verify", p.sent[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ours.Decode("laws.verify", b); !errors.Is(err, message.ErrForged) {
			t.Errorf("%s: got %v, want ErrForged", name, err)
		}
	}
	if _, err := ours.Decode("laws.verify", []byte("rubbish")); !errors.Is(err, message.ErrMalformed) {
		t.Errorf("rubbish: got %v", err)
	}
}

// Law 4: what is said of a table in another source's name, or without a time, changes nothing; what its own publisher says is shown in one line and hides no reason of the replica's own.
func TestOnlyTheSourceSaysThatATableIsNotScanned(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 10)
	p.caughtUp()
	p.scan() // pins
	p.sent = nil
	if err := p.scanner.Announce(t.Context(), []scanner.Found{{Name: "public.t", Paused: "no key\x1b[2J\n  at all"}}); err != nil {
		t.Fatal(err)
	}
	told := p.sent[0]
	if told.GetPaused().GetReason() != "no key [2J at all" {
		t.Errorf("the publisher told %q", told.GetPaused().GetReason())
	}
	handle := func(change func(*tricklepb.Envelope)) {
		t.Helper()
		env := proto.CloneOf(told)
		change(env)
		if err := p.detector.Handle(t.Context(), "laws.verify/0@1", env); err != nil {
			t.Fatal(err)
		}
	}
	why := `SELECT coalesce(max(reason), '') FROM trickle.unscanned`
	handle(func(env *tricklepb.Envelope) { env.Source = "4711/other" })
	handle(func(env *tricklepb.Envelope) { env.GetPaused().At = nil })
	handle(func(env *tricklepb.Envelope) { env.Table = "" })
	p.want(`SELECT refused FROM trickle.pipelines`, "3")
	handle(func(env *tricklepb.Envelope) { env.Table = "public.unknown" }) // the replica's policy does not name it
	p.want(why, "")
	p.want(`SELECT paused FROM trickle.tables`, "")

	handle(func(env *tricklepb.Envelope) { env.GetPaused().Reason = "no key\x1b[2J\n" + strings.Repeat("x", 5000) }) // as it comes, whatever the publisher made of it
	p.want(`SELECT reason LIKE 'no key [2J xxx%' AND length(reason) < 1010 FROM trickle.unscanned`, "true")
	handle(func(*tricklepb.Envelope) {})
	p.want(why, "no key [2J at all")
	if err := p.ledger.Pause(t.Context(), "public.t", "the schema differs"); err != nil {
		t.Fatal(err)
	}
	p.want(`SELECT paused FROM trickle.tables`, "the schema differs")
	handle(func(env *tricklepb.Envelope) { env.Source, env.GetPaused().Reason = "4711/other", "" })
	p.want(why, "no key [2J at all")
	p.caughtUp()
	p.scan()
	p.want(why, "")
	handle(func(*tricklepb.Envelope) {}) // the same message once more
	p.want(why, "")
}

// Law 4: a schema that changes on one side pauses the table, counts nothing, and resumes by itself when both agree again.
func TestSchemaChangePausesAndResumes(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 50)
	p.caughtUp()
	p.scan()
	p.exec(p.src, `ALTER TABLE t ADD COLUMN extra int DEFAULT 5`)
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 7`)
	if _, err := p.scanner.Plan(t.Context(), "public.t", message.Range{}); err == nil {
		t.Fatal("the scanner read a table that had changed")
	}
	p.caughtUp()
	p.scan()
	p.settle()
	p.want(`SELECT count(*) FROM trickle.corrections`, "0")
	p.want(`SELECT count(*) FROM trickle.discrepancies`, "0")
	if paused := p.value(p.dst, `SELECT paused FROM trickle.tables`); !strings.Contains(paused, `lacks column "extra"`) {
		t.Errorf("paused because %q", paused)
	}
	p.exec(p.dst, `ALTER TABLE t ADD COLUMN extra int DEFAULT 5`)
	p.caughtUp()
	p.scan()
	p.settle()
	p.want(`SELECT paused FROM trickle.tables`, "")
	p.identical()
	// The replica changes under way: found out before anything is written.
	p.exec(p.dst, `UPDATE t SET v = 'edited again' WHERE id = 8`)
	p.scan()
	p.exec(p.dst, `ALTER TABLE t DROP COLUMN extra`)
	p.settle()
	p.want(`SELECT paused LIKE '%lacks column "extra"%' FROM trickle.tables`, "true")
	p.want(`SELECT v FROM t WHERE id = 8`, "edited again")
}

// Law 5: a truncated source never empties a replica.
func TestTruncatedSourceMeetsTheBrake(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 300)
	p.caughtUp()
	p.exec(p.src, `TRUNCATE t`)
	p.caughtUp() // CDC drops truncates, say
	p.scan()
	p.settle()
	p.caughtUp()
	p.settle()
	p.want(`SELECT count(*) FROM t`, "295") // detect.brake.deletes: 5
	p.want(`SELECT brake_reason LIKE 'more than 5 deletes%' FROM trickle.pipelines`, "true")
	if _, err := p.ledger.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.settle()
	p.want(`SELECT count(*) FROM t`, "290") // five more, then it is on again
}

// Without a gate suspects are reported and nothing is corrected.
func TestNoGateCorrectsNothing(t *testing.T) {
	t.Parallel()
	p := newPair(t, `
pipeline: laws
quiet: 1ms
tables: [{table: public.t}]
detect: {confirm: {delay: 1ms, attempts: 3}}
`, 50)
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 7`)
	p.caughtUp()
	p.scan()
	p.settle()
	p.want(`SELECT count(*) FROM trickle.corrections`, "0")
	p.want(`SELECT count(*) FROM trickle.suspects`, "1")
}

// detect.action: report finds and counts, and changes nothing, however much is wrong.
func TestReportChangesNothing(t *testing.T) {
	t.Parallel()
	p := newPair(t, strings.Replace(resyncPolicy, "detect: {", "detect: {action: report, ", 1), 500)
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id % 5 = 0`)
	p.caughtUp()
	p.scan()
	p.settle()
	p.want(`SELECT count(*) FROM trickle.discrepancies`, "100")
	p.want(`SELECT count(*) FROM trickle.corrections`, "0")
	p.want(`SELECT count(*) FROM trickle.resyncs`, "0")
	p.want(`SELECT count(*) FROM t WHERE v = 'edited'`, "100")
	known := func(want int) {
		t.Helper()
		report, err := p.ledger.Report(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := report.Tables[0]; got.Reported.All() != want || got.Reported.Mismatched != want || got.Estimate.Known != int64(want) || got.Estimate.AtMost < int64(want) {
			t.Errorf("%d rows differ, and the report says %+v, %+v", want, got.Reported, got.Estimate)
		}
	}
	known(100)
	p.exec(p.dst, `UPDATE trickle.discrepancies SET at = at - interval '1 day'`) // the window passes, and they are still wrong
	p.exec(p.dst, `UPDATE t SET v = s.v FROM (VALUES (5, 'value 5'), (10, 'value 10')) s (id, v) WHERE t.id = s.id`)
	p.scan()
	known(100 - 2)
	p.settle()
	known(100 - 2)
	p.request(entry.Wish{ID: "hand", Scope: entry.Full, Table: "public.t", Reason: "asked for by hand"})
	p.walk()
	known(0)
}

// Law 4: pinning to another source, by hand, stops a running detector at once.
func TestPinTakesEffectAtOnce(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 50)
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 7`)
	p.caughtUp()
	p.scan()
	if err := p.ledger.Repin(t.Context(), "4711/other"); err != nil {
		t.Fatal(err)
	}
	p.settle()
	p.want(`SELECT v FROM t WHERE id = 7`, "edited")
	p.want(`SELECT count(*) FROM trickle.corrections`, "0")
}

// A resync that somebody asks for by hand writes even where the policy only wants reports: rows that only the replica has too, which take a second look.
func TestAResyncByHandWritesUnderReport(t *testing.T) {
	t.Parallel()
	p := newPair(t, strings.Replace(resyncPolicy, "detect: {", "detect: {action: report, ", 1), 500)
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id % 100 = 0`)
	p.exec(p.dst, `INSERT INTO t VALUES (-1, 'extra'), (1000, 'extra')`)
	p.caughtUp()
	p.request(entry.Wish{ID: "hand", Scope: entry.Full, Table: "public.t", Reason: "asked for by hand"})
	p.walk()
	p.identical()
	p.want(`SELECT count(*) FROM trickle.corrections WHERE resync_id = 'hand'`, "7")
}

// While a resync walks the whole table, what it found is corrected beside suspects that are not its own and are left to it.
func TestAResyncIsNotHeldUpByOtherSuspects(t *testing.T) {
	t.Parallel()
	p := newPair(t, resyncPolicy, 500)
	p.exec(p.dst, `INSERT INTO t VALUES (1000, 'extra')`)
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 7`)
	p.caughtUp()
	p.scan()
	p.request(entry.Wish{ID: "full", Scope: entry.Full, Table: "public.t", Reason: "test"})
	p.exec(p.dst, `UPDATE trickle.suspects SET resync_id = 'full' WHERE key = '{1000}'`)
	p.caughtUp()
	p.settle()
	p.want(`SELECT count(*) FROM t WHERE id = 1000`, "0")
	p.want(`SELECT v FROM t WHERE id = 7`, "edited")
}
