package laws

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
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
	p.sent = nil
	p.reading(cursor.Range{})
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
	p.eventually(p.reads, `SELECT pg_get_wal_replay_pause_state()`, state)
}

// Law 1, stale refetch: CDC has delivered from the primary what the standby has not replayed. Whoever believed the standby would revert the replica, and the
// confirmation would agree.
func TestStandbyThatIsBehindRevertsNothing(t *testing.T) {
	t.Parallel()
	p, _, _ := newStandbyPair(t, byPrimary)
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id IN (7, 9)`)
	p.caughtUp()
	p.scan()
	p.want(`SELECT count(*) FROM trickle.suspects`, "2")
	p.replays(`SELECT pg_wal_replay_pause()`, "paused")
	p.exec(p.src, `UPDATE t SET v = 'newer' WHERE id = 7`)
	p.exec(p.dst, `UPDATE t SET v = 'newer' WHERE id = 7`) // CDC
	p.caughtUp()
	p.settle()
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
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id IN (7, 9)`)
	p.caughtUp()
	p.scan()
	p.want(`SELECT count(*) FROM trickle.suspects`, "2")
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
	p.settle()
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
	p.eventually(p.src, `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`, "1")
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

// newFailoverPair is a pair whose source is a name for whichever of two servers takes writes.
func newFailoverPair(t *testing.T) (p *pair, primary, standby *testbed.Postgres) {
	t.Helper()
	p, primary, standby = newStandbyPair(t, byNobody)
	p.reads = open(t, fmt.Sprintf("postgres://postgres@%s,%s/shop?sslmode=disable&target_session_attrs=read-write", primary.Address(), standby.Address()))
	p.wire()
	return p, primary, standby
}

// failover ends the primary and promotes the standby. The publisher's connections are left to find out.
func (p *pair) failover(primary, standby *testbed.Postgres) {
	p.t.Helper()
	if err := primary.Kill(); err != nil {
		p.t.Fatal(err)
	}
	if err := standby.Promote(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	p.src = open(p.t, standby.DSN("shop"))
}

// Trap, failover: the promoted server lacks what CDC had delivered. That is drift from now on, in rows that nobody has written there, and it is corrected, but
// only once a heartbeat has come through from the new server.
func TestFailoverToAServerThatLacksWhatWasDelivered(t *testing.T) {
	t.Parallel()
	p, primary, standby := newFailoverPair(t)
	if err := standby.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, pool := range []*pgxpool.Pool{p.src, p.dst} { // CDC delivers what will be lost
		p.exec(pool, `UPDATE t SET v = 'lost' WHERE id = 7`)
		p.exec(pool, `INSERT INTO t VALUES (30, 'lost')`)
		p.exec(pool, `DELETE FROM t WHERE id = 8`)
		p.exec(pool, `INSERT INTO t VALUES (31, 'lost')`)
	}
	p.caughtUp()
	last := p.reading(cursor.Range{})
	if again := p.reading(last); again.Xmin != last.Xmin {
		t.Fatalf("a range that nobody has written is read anew: %+v after %+v", again, last)
	}
	p.failover(primary, standby)

	// The range has as many rows as at its last reading, and none whose transaction number is newer.
	p.exec(p.src, `INSERT INTO t VALUES (32, 'new')`)
	p.exec(p.dst, `INSERT INTO t VALUES (32, 'new')`) // CDC
	if now := p.reading(last); now.Timeline != 2 || now.Sum == last.Sum {
		t.Errorf("what the old primary said stands for the new one: %+v after %+v", now, last)
	}
	if err := p.detector.Handle(t.Context(), "test/0@0", p.sent[len(p.sent)-1]); err != nil {
		t.Fatal(err)
	}
	p.beat.set(time.Now().Add(time.Hour)) // the last of the old primary's to come through; its clock was ahead
	p.settle()
	p.want(`SELECT count(*) FROM trickle.corrections`, "0")
	p.want(`SELECT v FROM t WHERE id = 7`, "lost")
	p.beat.onto(2)
	p.caughtUp()
	p.settle()
	p.identical()
	p.want(`SELECT string_agg(key->>'id', ',' ORDER BY (key->>'id')::int) FROM trickle.corrections`, "7,8,30,31")
}

// reading scans the whole table, given its last reading.
func (p *pair) reading(last cursor.Range) cursor.Range {
	p.t.Helper()
	out, err := p.scanner.Scan(p.t.Context(), scanner.Job{Table: "public.t", Cycle: 1, Ranges: 1, Range: last})
	if err != nil {
		p.t.Fatal(err)
	}
	return out.Ranges[0]
}

// Law 2 beyond a failover: the new primary gives out transaction numbers that the old one had given to others. A change that is on its way is not taken for one
// that the old primary had seen end.
func TestSamplesOfTheOldPrimaryProveNothing(t *testing.T) {
	t.Parallel()
	p, primary, standby := newFailoverPair(t)
	if err := standby.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 20 { // numbers that the standby doesn't know of
		p.exec(p.src, `SELECT pg_current_xact_id()`)
	}
	p.caughtUp()
	p.failover(primary, standby)
	p.beat.onto(2)
	var beat time.Time
	if err := p.src.QueryRow(t.Context(), `SELECT clock_timestamp()`).Scan(&beat); err != nil {
		t.Fatal(err)
	}
	p.exec(p.src, `UPDATE t SET v = 'on its way' WHERE id = 7`)
	p.beat.set(beat) // written on the new primary before the update, and come through
	p.scanAs(scanner.Job{Complete: true})
	p.settle()
	p.want(`SELECT count(*) FROM trickle.suspects`, "1")
	p.want(`SELECT count(*) FROM trickle.corrections`, "0")
	p.exec(p.dst, `UPDATE t SET v = 'on its way' WHERE id = 7`) // CDC
	p.caughtUp()
	p.settle()
	p.identical()
	p.want(`SELECT count(*) FROM trickle.corrections`, "0")
	p.want(`SELECT count(*) FROM trickle.suspects`, "0")
}
