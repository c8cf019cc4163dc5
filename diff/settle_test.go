package diff_test

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/diff"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

// live is a pair under load: a writer on the source, and an applier that brings every statement to the replica in order, some time later.
type live struct {
	pair
	running sync.WaitGroup
	queue   chan change
	written int

	mu     sync.Mutex
	oldest time.Time // when what is being applied was written
	worst  time.Duration
}

// change is one statement, when it was begun at the source, and when the replica may have it.
type change struct {
	sql     string
	written time.Time
	due     time.Time
}

// apply runs a change in the replica and notes how late it is.
func (l *live) apply(c change, run func(sql string) bool) bool {
	l.mu.Lock()
	l.oldest = c.written
	l.mu.Unlock()
	ok := run(c.sql)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.oldest, l.worst = time.Time{}, max(l.worst, time.Since(c.written))
	return ok
}

// lag is the longest that a change took, or has taken so far, since it was asked for the last time.
func (l *live) lag() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	worst := l.worst
	if !l.oldest.IsZero() {
		worst = max(worst, time.Since(l.oldest))
	}
	l.worst = 0
	return worst
}

// start writes statements at the source, one after the other, and applies them in the replica after a lag until stop is called.
func (l *live) start(t *testing.T, lag time.Duration, statement func(n int) string) (stop func()) {
	t.Helper()
	writing, applying := open(t, l.source.Config().ConnString()), open(t, l.replica.Config().ConnString())
	ctx, cancel := context.WithCancel(t.Context())
	// So many may be on their way; the writer waits for the applier then, or it would leave it further and further behind.
	l.queue = make(chan change, 200)
	one := func(pool *pgxpool.Pool, sql string) bool {
		_, err := pool.Exec(context.WithoutCancel(ctx), sql)
		if err != nil {
			t.Errorf("%s: %v", sql, err)
		}
		return err == nil
	}
	l.running.Go(func() {
		defer close(l.queue)
		for n := 1; ctx.Err() == nil; n++ {
			c := change{sql: statement(n), written: time.Now()}
			if !one(writing, c.sql) {
				return
			}
			c.due = time.Now().Add(lag)
			l.queue <- c
			l.written = n
		}
	})
	l.running.Go(func() {
		for c := range l.queue {
			timer := time.NewTimer(time.Until(c.due))
			select {
			case <-timer.C:
			case <-ctx.Done(): // the rest at once
			}
			timer.Stop()
			if !l.apply(c, func(sql string) bool { return one(applying, sql) }) {
				cancel()
			}
		}
	})
	return func() {
		cancel()
		l.running.Wait()
	}
}

const liveRows = 9000

// writes change hot rows over and over, and bring, change and take others.
func writes(n int) string {
	switch n % 6 {
	case 0:
		return fmt.Sprintf("INSERT INTO t VALUES (%d, 0)", liveRows+n)
	case 1:
		return fmt.Sprintf("DELETE FROM t WHERE id = %d", liveRows+n-61)
	case 2:
		return fmt.Sprintf("UPDATE t SET v = %d WHERE id = %d", n, 100+n%liveRows)
	case 3:
		return fmt.Sprintf("DELETE FROM t WHERE id = 7; INSERT INTO t VALUES (7, %d)", n) // there and gone again and again
	default:
		return fmt.Sprintf("UPDATE t SET v = %d WHERE id BETWEEN 1 AND 5", n)
	}
}

func newLive(t *testing.T) *live {
	t.Helper()
	l := &live{pair: newPair(t)}
	l.both(t, fmt.Sprintf("CREATE TABLE t (id bigint PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, %d) AS i", liveRows))
	return l
}

func TestALivePairHasNoFalseAlarms(t *testing.T) {
	t.Parallel()
	const settle = time.Second
	for _, drifted := range []bool{false, true} {
		l := newLive(t)
		want := []string{}
		if drifted { // in rows that nobody writes
			exec(t, l.replica, "DELETE FROM t WHERE id = 21; UPDATE t SET v = -1 WHERE id IN (22, 23); INSERT INTO t VALUES (-5, 0)")
			want = []string{entry(drift.Extra, "-5"), entry(drift.Mismatched, "22"), entry(drift.Mismatched, "23"), entry(drift.Missing, "21")}
		}
		stop := l.start(t, 300*time.Millisecond, writes)
		suspected := int64(0)
		deadline := time.Now().Add(patience)
		for round := 0; round < 3; {
			if time.Now().After(deadline) {
				stop()
				t.Fatalf("%d of 3 rounds in which the applier was never more than %s behind", round, settle)
			}
			began := l.now(t)
			l.lag()
			// What is on its way would be reported without a settling time, else this proves nothing.
			plain, _ := l.compare(t, table("public.t"), diff.Options{Jobs: 2})
			suspected += plain.Differences()
			r, found := l.compare(t, table("public.t"), diff.Options{Jobs: 2, Settle: settle})
			if l.lag() > settle {
				continue // the machine was too busy for what is promised to hold
			}
			round++
			if !slices.Equal(found.ids(), want) || r.Differences() != int64(len(want)) {
				t.Errorf("drifted: %v, round %d: %v, %+v; written since %d", drifted, round, found.ids(), of(r), l.now(t)-began)
			}
			if r.Unsettled > 200 {
				t.Errorf("round %d: %d rows unsettled", round, r.Unsettled)
			}
		}
		stop()
		if suspected < 5 {
			t.Errorf("only %d rows were ever on their way", suspected)
		}
		r, found := l.compare(t, table("public.t"), diff.Options{})
		if !slices.Equal(found.ids(), want) {
			t.Errorf("the applier lost something: %+v, %v", of(r), found.ids())
		}
	}
}

// now is the source's transaction counter.
func (l *live) now(t *testing.T) int64 {
	t.Helper()
	var n int64
	if err := l.source.QueryRow(t.Context(), "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Rows that are written so often that no look finds them at rest are not differences, and the result owns up to them.
func TestRowsThatNeverRest(t *testing.T) {
	t.Parallel()
	l := newLive(t)
	exec(t, l.replica, "UPDATE t SET v = -1 WHERE id = 21")
	stop := l.start(t, 300*time.Millisecond, func(n int) string { return fmt.Sprintf("UPDATE t SET v = %d WHERE id BETWEEN 1 AND 5", n) })
	defer stop()
	eventually(t, patience, func() error {
		var v int
		if err := l.replica.QueryRow(t.Context(), "SELECT v FROM t WHERE id = 1").Scan(&v); err != nil || v == 0 {
			return fmt.Errorf("nothing was applied yet: %w", err)
		}
		return nil
	})
	r, found := l.compare(t, table("public.t"), diff.Options{Jobs: 1, Settle: 500 * time.Millisecond})
	if !slices.Equal(found.ids(), []string{entry(drift.Mismatched, "21")}) || of(r) != (counts{rows: liveRows, mismatched: 1, unsettled: 5}) {
		t.Errorf("%v, %+v", found.ids(), of(r))
	}
}

// A replica's row that is written between two looks shows that CDC is at it, whatever the settling time says: nothing is proven.
func TestARowThatIsBeingApplied(t *testing.T) {
	t.Parallel()
	l := newLive(t)
	exec(t, l.source, "UPDATE t SET v = 1000000 WHERE id IN (1, 2); DELETE FROM t WHERE id IN (3, 4)")
	// The source stands still from here on, and an applier that is far behind works its way through old versions of rows 1 and 3.
	applying := open(t, l.replica.Config().ConnString())
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			if _, err := applying.Exec(context.WithoutCancel(ctx), "UPDATE t SET v = v + 1 WHERE id IN (1, 3)"); err != nil {
				t.Error(err)
				return
			}
		}
	})
	defer running.Wait()
	defer cancel()
	r, found := l.compare(t, table("public.t"), diff.Options{Jobs: 1, Settle: 100 * time.Millisecond})
	if !slices.Equal(found.ids(), []string{entry(drift.Extra, "4"), entry(drift.Mismatched, "2")}) || of(r) != (counts{rows: liveRows - 2, mismatched: 1, extra: 1, unsettled: 2}) {
		t.Errorf("%v, %+v", found.ids(), of(r))
	}
}

// More suspects than are held at once: the comparison waits for them, and loses none.
func TestManySuspects(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	const rows = 60_000 // more than a hundred batches of 500
	p.both(t, fmt.Sprintf("CREATE TABLE t (id bigint PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, %d) AS i", rows))
	exec(t, p.replica, "UPDATE t SET v = 1; DELETE FROM t WHERE id % 3 = 0")
	for _, jobs := range []int{1, 3} {
		r, err := diff.New(p.source, p.replica, diff.Options{Jobs: jobs, Settle: 50 * time.Millisecond}).Table(t.Context(), table("public.t"))
		if err != nil || of(r) != (counts{rows: rows, missing: rows / 3, mismatched: rows - rows/3}) {
			t.Errorf("%d jobs: %+v, %v", jobs, of(r), err)
		}
	}
}

// The clock of a standby says nothing of what reached it.
func TestAStandbyAsTheSourceIsNoted(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, testbed.Options{})
	dsn := pgtest.DatabaseOn(t, server)
	const ddl = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)"
	exec(t, open(t, dsn), ddl)
	at, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	standby := pgtest.Standby(t, server, testbed.StandbyOptions{})
	p := pair{open(t, standby.DSN(strings.TrimPrefix(at.Path, "/"))), open(t, pgtest.Database(t))}
	exec(t, p.replica, ddl)
	for settle, noted := range map[time.Duration]bool{0: false, time.Millisecond: true} {
		r, _ := p.compare(t, table("public.t"), diff.Options{Jobs: 1, Settle: settle})
		if of(r) != (counts{rows: 1}) || (strings.Contains(strings.Join(r.Notes, " "), "standby")) != noted {
			t.Errorf("settle %v: %+v, %q", settle, of(r), r.Notes)
		}
	}
}
