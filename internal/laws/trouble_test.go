package laws

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/detector"
	"github.com/trickle-verify/trickle/gate"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/policy"
)

// Law 5: a refetch that comes upon TRUNCATE and reload in one transaction waits for it, and does not take the table for empty.
func TestReloadIsNotTakenForDeletes(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 50)
	p.exec(p.src, `UPDATE t SET v = 'newer' WHERE id <= 3`)
	p.caughtUp()
	p.beat.set(time.Now().Add(-time.Hour)) // CDC is behind: suspects, and no proof
	p.scan()
	p.settle()
	p.caughtUp()
	reload, err := p.src.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reload.Exec(t.Context(), `CREATE TEMP TABLE k ON COMMIT DROP AS SELECT * FROM t`); err != nil {
		t.Fatal(err)
	}
	if _, err := reload.Exec(t.Context(), `TRUNCATE t`); err != nil {
		t.Fatal(err)
	}
	if _, err := reload.Exec(t.Context(), `INSERT INTO t SELECT * FROM k`); err != nil {
		t.Fatal(err)
	}
	settled := make(chan error, 1)
	go func() { settled <- p.settleOnce() }()
	p.eventually(p.src, `SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 't'::regclass`, "true")
	if err := reload.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-settled; err != nil {
		t.Fatal(err)
	}
	p.want(`SELECT count(*) FROM trickle.corrections WHERE kind = 'extra'`, "0")
	p.want(`SELECT count(*) FROM t`, "50")
}

// Law 4: a condition on one side only, as while a new policy spreads, pauses the table: it is no reason to delete what lies outside.
func TestConditionOnOneSidePauses(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 50)
	p.caughtUp()
	p.scan()
	next, _, err := policy.Parse("test.yaml", []byte(strings.Replace(lawPolicy, "{table: public.t}", "{table: public.t, where: id > 4}", 1)))
	if err != nil {
		t.Fatal(err)
	}
	p.scanner.SetPolicy(next)
	for range 3 {
		p.caughtUp()
		p.scan()
		p.settle()
	}
	p.want(`SELECT count(*) FROM t`, "50")
	p.want(`SELECT paused LIKE '%give both sides the same policy%' FROM trickle.tables`, "true")
}

// A key that the replica can't hold is given up; its neighbours are corrected.
func TestKeyThatDoesNotFit(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 50)
	p.exec(p.dst, `ALTER TABLE t ALTER id TYPE int`)
	p.exec(p.src, `INSERT INTO t VALUES (3000000000, 'too big for the replica')`)
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 7`)
	p.caughtUp()
	p.scan()
	p.settle()
	p.want(`SELECT v FROM t WHERE id = 7`, "value 7")
	p.want(`SELECT count(*) FROM trickle.suspects`, "0")
	p.want(`SELECT failed > 0 AND last_failure LIKE '%3000000000%' FROM trickle.tables`, "true")
}

// Laws 5 and 6: a delete that would cascade to rows nobody looked at is refused, until they are gone.
func TestDeleteNeverCascades(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 5)
	p.exec(p.dst, `INSERT INTO t VALUES (100, 'extra'), (101, 'extra without children')`)
	p.exec(p.dst, `CREATE TABLE child (id int PRIMARY KEY, t bigint REFERENCES t ON DELETE CASCADE)`)
	p.exec(p.dst, `INSERT INTO child SELECT i, 100 FROM generate_series(1, 50) i`)
	p.caughtUp()
	p.scan()
	p.settle()
	p.caughtUp()
	p.settle()
	p.want(`SELECT count(*) FROM child`, "50")
	p.want(`SELECT count(*) FROM t WHERE id = 101`, "0")
	p.want(`SELECT last_failure LIKE '%child_t_fkey%' FROM trickle.tables`, "true")
	p.exec(p.dst, `DELETE FROM child`)
	p.caughtUp()
	p.scan()
	p.caughtUp()
	p.settle()
	p.identical()
}

// A correction that can't be closed now is not asked about without pause, and keeps nobody else's waiting.
func TestOpenCorrectionIsNotSpunOn(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 5)
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 3`)
	p.caughtUp()
	p.scan()
	p.settle()
	p.exec(p.dst, `UPDATE trickle.corrections SET closed_at = NULL, outcome = NULL, checked_at = now() - interval '1 minute'`)
	p.exec(p.src, `UPDATE t SET v = 'newer' WHERE id = 3`)
	p.exec(p.dst, `UPDATE trickle.pipelines SET brake_reason = 'test'`)
	if n, err := p.detector.Resume(t.Context()); err != nil || n != 1 {
		t.Fatalf("the first look: %d %v", n, err)
	}
	if n, err := p.detector.Resume(t.Context()); err != nil || n != 0 {
		t.Errorf("it was looked at again at once: %d %v", n, err)
	}
	p.want(`SELECT count(*) FROM trickle.corrections WHERE closed_at IS NULL`, "1")
}

// Law 8: a publisher whose source is down for a while costs time, not ranges.
func TestOutageLosesNoRange(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 50)
	p.caughtUp()
	p.scan()
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 7`)
	var refusals int
	p.refuse = func(req *tricklepb.Envelope) *tricklepb.ErrorReply {
		if req.GetKeyDigestsRequest() == nil || refusals >= 5 {
			return nil
		}
		refusals++
		return &tricklepb.ErrorReply{Code: tricklepb.ErrorCode_ERROR_CODE_FAILED, Reason: "the source is down"}
	}
	b := &box{committed: make(chan struct{}), deliveries: []detector.Delivery{{Where: "laws.verify/0@0", Envelope: p.sent[0]}}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.detector.Run(ctx, b) }()
	p.eventuallyIn(`SELECT count(*) FROM trickle.corrections WHERE outcome = 'confirmed'`, "1")
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A source clock that was ahead, and was set back, does not keep the gate closed.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	p, _, err := policy.Parse("test.yaml", []byte(strings.Replace(lawPolicy, "max_lag: 1h", "max_lag: 30s", 1)))
	if err != nil {
		t.Fatal(err)
	}
	b, now := &beat{timeline: 1}, time.Now()
	g := gate.New(p.Gate, gate.Parts{Heartbeat: b, Now: func() time.Time { return now }})
	g.Saw(now.Add(time.Minute), 0) // the old primary's clock
	b.set(now.Add(time.Minute))
	now = now.Add(time.Hour)
	b.set(now) // the new primary's clock is right
	g.Saw(now, 0)
	if g.Check(t.Context()).Open {
		t.Error("the gate can't know yet that the clock was set back")
	}
	g.Heard(now, 0)
	if s := g.Check(t.Context()); !s.Open {
		t.Errorf("closed: %s", s.Reason)
	}
}
