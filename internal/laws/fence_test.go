package laws

import (
	"context"
	"testing"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/message/tricklepb"
)

// Law 1, delivered before it is visible: a commit waits for its synchronous standby, which is paused. CDC has delivered it; the source does not
// show it. Whoever believed the source would revert the replica, and the confirmation would agree.
func TestCommitThatHangsInSyncRepIsNotReverted(t *testing.T) {
	t.Parallel()
	primary := pgtest.Server(t, testbed.Options{})
	standby := pgtest.Standby(t, primary, testbed.StandbyOptions{Name: "paused", Synchronous: true})
	p := newPairOn(t, lawPolicy, 20, pgtest.DatabaseOn(t, primary), pgtest.Database(t))
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 9`) // real drift, elsewhere
	p.caughtUp()

	if err := standby.Pause(); err != nil {
		t.Fatal(err)
	}
	committed := p.hang(`UPDATE t SET v = 'newer' WHERE id = 7`)
	p.exec(p.dst, `UPDATE t SET v = 'newer' WHERE id = 7`) // CDC delivers what hangs
	if got := p.value(p.src, `SELECT v FROM t WHERE id = 7`); got != "value 7" {
		t.Fatalf("the hanging commit is visible: %s", got)
	}

	// The range differs, and every question about it is refused as unstable.
	p.refused(p.handle(), tricklepb.ErrorCode_ERROR_CODE_UNSTABLE)
	p.want(`SELECT v FROM t WHERE id = 7`, "newer")
	p.want(`SELECT count(*) FROM trickle.corrections`, "0")

	// The standby comes back: the commit shows, and only the real drift is corrected.
	if err := standby.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	p.caughtUp()
	if err := p.detector.Handle(t.Context(), "test/0@0", p.sent[0]); err != nil {
		t.Fatal(err)
	}
	p.settle()
	p.identical()
	p.want(`SELECT string_agg(key->>'id', ',') FROM trickle.corrections`, "9")
}

// Law 1: a suspect that is refetched while a commit hangs stays a suspect.
func TestSuspectWaitsForAHangingCommit(t *testing.T) {
	t.Parallel()
	primary := pgtest.Server(t, testbed.Options{})
	standby := pgtest.Standby(t, primary, testbed.StandbyOptions{Name: "paused", Synchronous: true})
	p := newPairOn(t, lawPolicy, 20, pgtest.DatabaseOn(t, primary), pgtest.Database(t))
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 7`)
	p.caughtUp()
	p.scan()
	p.want(`SELECT count(*) FROM trickle.suspects`, "1")
	if err := standby.Pause(); err != nil {
		t.Fatal(err)
	}
	committed := p.hang(`UPDATE t SET v = 'newer' WHERE id = 7`)
	p.exec(p.dst, `UPDATE t SET v = 'newer' WHERE id = 7`) // CDC
	p.settle()
	p.want(`SELECT paused LIKE '%UNSTABLE%' FROM trickle.tables`, "true")
	p.want(`SELECT v FROM t WHERE id = 7`, "newer")
	p.want(`SELECT count(*) FROM trickle.suspects`, "1")
	if err := standby.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	p.caughtUp()
	p.settle()
	p.identical()
	p.want(`SELECT count(*) FROM trickle.corrections`, "0")
}

// hang runs a statement whose commit waits for the paused standby, and returns once it does.
func (p *pair) hang(sql string) <-chan error {
	p.t.Helper()
	committed := make(chan error, 1)
	go func() {
		_, err := p.src.Exec(context.WithoutCancel(p.t.Context()), sql)
		committed <- err
	}()
	p.eventually(p.src, `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`, "1")
	return committed
}
