package laws

import (
	"errors"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/scanner"
	"github.com/trickle-verify/trickle/sidechannel"
)

// newStandbyPair is a pair whose publisher reads a standby, and asks the primary for the fence unless it is told not to.
func newStandbyPair(t *testing.T, fenced fencing) (p *pair, primary, standby *testbed.Postgres) {
	t.Helper()
	primary = pgtest.Server(t, testbed.Options{})
	src, err := primary.CreateDatabase(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	pol, _, err := policy.Parse("test.yaml", []byte(lawPolicy))
	if err != nil {
		t.Fatal(err)
	}
	p = &pair{t: t, policy: pol, beat: &beat{timeline: 1}, src: open(t, src), dst: open(t, pgtest.Database(t))}
	p.fill(20)
	standby = pgtest.Standby(t, primary, testbed.StandbyOptions{Name: "read"})
	p.reads = open(t, standby.DSN("shop"))
	if fenced == byPrimary {
		p.primary = p.src
	}
	p.wire()
	return p, primary, standby
}

type fencing int

const (
	byNobody fencing = iota
	byPrimary
)

// handle scans the table and has the detector deal with the message.
func (p *pair) handle() error {
	p.t.Helper()
	ranges, err := p.scanner.Plan(p.t.Context(), "public.t", message.Range{})
	if err != nil {
		p.t.Fatal(err)
	}
	p.sent = nil
	if _, err := p.scanner.Scan(p.t.Context(), scanner.Job{Table: "public.t", Cycle: 1, Ranges: 1, Range: ranges[0]}); err != nil {
		p.t.Fatal(err)
	}
	return p.detector.Handle(p.t.Context(), "test/0@0", p.sent[0])
}

// refused wants the publisher's refusal of this kind.
func (p *pair) refused(err error, code tricklepb.ErrorCode) {
	p.t.Helper()
	var refusal *sidechannel.Error
	if !errors.As(err, &refusal) || refusal.Code != code {
		p.t.Errorf("got %v, want %s", err, code)
	}
}

// replays pauses or resumes the standby's replay.
func (p *pair) replays(sql, state string) {
	p.t.Helper()
	p.exec(p.reads, sql)
	p.onStandby(`SELECT pg_get_wal_replay_pause_state()`, state)
}

// onStandby polls the standby.
func (p *pair) onStandby(sql, want string) {
	p.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); p.value(p.reads, sql) != want; {
		if time.Now().After(deadline) {
			p.t.Fatalf("%s never became %s", sql, want)
		}
	}
}

// Law 1, stale refetch: CDC has delivered from the primary what the standby has not replayed. Whoever believed the standby would revert the replica, and the
// confirmation would agree.
func TestStandbyThatIsBehindRevertsNothing(t *testing.T) {
	t.Parallel()
	p, _, _ := newStandbyPair(t, byPrimary)
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 9`) // real drift, elsewhere
	p.caughtUp()
	p.replays(`SELECT pg_wal_replay_pause()`, "paused")
	p.exec(p.src, `UPDATE t SET v = 'newer' WHERE id = 7`)
	p.exec(p.dst, `UPDATE t SET v = 'newer' WHERE id = 7`) // CDC
	p.caughtUp()
	p.refused(p.handle(), tricklepb.ErrorCode_ERROR_CODE_UNSTABLE)
	p.want(`SELECT v FROM t WHERE id = 7`, "newer")
	p.want(`SELECT count(*) FROM trickle.corrections`, "0")

	p.replays(`SELECT pg_wal_replay_resume()`, "not paused")
	if err := p.handle(); err != nil {
		t.Fatal(err)
	}
	p.settle()
	p.identical()
	p.want(`SELECT string_agg(key->>'id', ',') FROM trickle.corrections`, "9")
}

// Law 1, delivered before it is visible, with the publisher on a standby: the primary's commits hang for another, synchronous standby, which is paused.
func TestCommitThatHangsOnThePrimaryIsNotRevertedFromAStandby(t *testing.T) {
	t.Parallel()
	p, primary, _ := newStandbyPair(t, byPrimary)
	slow := pgtest.Standby(t, primary, testbed.StandbyOptions{Name: "slow", Synchronous: true})
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 9`) // real drift, elsewhere
	p.caughtUp()
	if err := slow.Pause(); err != nil {
		t.Fatal(err)
	}
	p.replays(`SELECT pg_wal_replay_pause()`, "paused")
	committed := p.hang(`UPDATE t SET v = 'newer' WHERE id = 7`)
	p.exec(p.dst, `UPDATE t SET v = 'newer' WHERE id = 7`) // CDC delivers what hangs
	if got := p.value(p.src, `SELECT v FROM t WHERE id = 7`); got != "value 7" {
		t.Fatalf("the hanging commit is visible: %s", got)
	}
	// Neither the primary nor the standby shows it: no answer.
	p.refused(p.handle(), tricklepb.ErrorCode_ERROR_CODE_UNSTABLE)
	p.want(`SELECT v FROM t WHERE id = 7`, "newer")

	// The standby replays it while it still hangs on the primary: there it shows, and what really drifted is corrected without waiting for the primary.
	p.replays(`SELECT pg_wal_replay_resume()`, "not paused")
	if err := p.handle(); err != nil {
		t.Fatal(err)
	}
	p.settle()
	p.want(`SELECT v FROM t WHERE id = 7`, "newer")
	p.want(`SELECT v FROM t WHERE id = 9`, "value 9")
	p.want(`SELECT string_agg(key->>'id', ',') FROM trickle.corrections`, "9")
	p.eventually(`SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`, "1")
	if err := slow.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	p.identical()
}

// With a standby alone ranges are verified and differences reported, and nothing is corrected.
func TestStandbyWithoutAPrimaryCorrectsNothing(t *testing.T) {
	t.Parallel()
	p, _, _ := newStandbyPair(t, byNobody)
	p.caughtUp()
	if err := p.handle(); err != nil {
		t.Fatal(err)
	}
	p.want(`SELECT ranges_verified FROM trickle.tables`, "1")
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 9`)
	p.refused(p.handle(), tricklepb.ErrorCode_ERROR_CODE_UNFENCED)
	p.settle()
	p.want(`SELECT v FROM t WHERE id = 9`, "edited")
	p.want(`SELECT count(*) FROM trickle.corrections`, "0")
}
