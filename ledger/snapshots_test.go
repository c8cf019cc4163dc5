package ledger_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
)

func ask(t *testing.T, l *ledger.Ledger, id string, r message.Range) {
	t.Helper()
	made, err := l.Request(t.Context(), entry.Wish{ID: id, Scope: entry.Partial, Table: table, Range: r, Reason: "test"})
	must(t, err)
	if !made {
		t.Fatalf("%s was not made", id)
	}
}

func snapshots(t *testing.T, l *ledger.Ledger) []entry.Snapshot {
	t.Helper()
	all, err := l.Snapshots(t.Context())
	must(t, err)
	return all
}

// What is stored comes back, and its resync shows it.
func TestSnapshotIsKept(t *testing.T) {
	t.Parallel()
	l, _ := fresh(t)
	ask(t, l, "a", message.Range{Hi: message.Key{"9"}})
	must(t, l.BeginSnapshot(t.Context(), "a"))
	must(t, l.BeginSnapshot(t.Context(), "a"))
	s := snapshots(t, l)[0]
	if s.State != entry.SnapshotDue || s.Table != table || s.ResyncID != "a" {
		t.Fatalf("%+v", s)
	}
	want := entry.Snapshot{ResyncID: "a", Table: table, State: entry.SnapshotApplying, Signal: "x", Attempts: 2, Idle: time.Hour, Scan: "EMPTY", Rows: 7, Through: time.Unix(99, 0).UTC(), Failure: "why", Version: 1}
	next := want
	next.Version = 0
	stored, err := l.StoreSnapshot(t.Context(), next)
	must(t, err)
	must(t, l.Remained(t.Context(), "a", 3))
	want.Remaining = 3
	got := snapshots(t, l)[0]
	if got.Idle < time.Hour || got.Idle > 2*time.Hour {
		t.Errorf("idle for %s", got.Idle)
	}
	if got.Idle = want.Idle; !stored || got != want {
		t.Errorf("%t, %+v, want %+v", stored, got, want)
	}
	running, err := l.Running(t.Context())
	must(t, err)
	if len(running) != 1 || !running[0].Snapshot {
		t.Errorf("%+v", running)
	}
	r, err := l.Report(t.Context())
	must(t, err)
	if s := r.Resyncs[0].Snapshot; s == nil || *s != (ledger.SnapshotReport{State: "applying", Signal: "x", Attempts: 2, Rows: 7, Remaining: 3, Failure: "why"}) {
		t.Errorf("reported as %+v", s)
	}
}

// Of instances that store at the same time one succeeds, and no two snapshots are under way: whoever comes second sends no signal.
func TestOneSignalAtATime(t *testing.T) {
	t.Parallel()
	l, _ := fresh(t)
	ask(t, l, "a", message.Range{Hi: message.Key{"9"}})
	ask(t, l, "b", message.Range{Lo: message.Key{"9"}})
	for _, id := range []string{"a", "b"} {
		must(t, l.BeginSnapshot(t.Context(), id))
	}
	all := snapshots(t, l)
	var stored atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			s := all[i%2]
			s.State = entry.SnapshotSignalled
			ok, err := l.StoreSnapshot(t.Context(), s)
			if err != nil {
				t.Error(err)
			}
			if ok {
				stored.Add(1)
			}
		})
	}
	wg.Wait()
	if stored.Load() != 1 {
		t.Errorf("%d signals would have been sent", stored.Load())
	}
}

// So it is while the first of two is being stored, which nobody else sees yet.
func TestNoSignalBesideOneThatIsBeingStored(t *testing.T) {
	t.Parallel()
	l, pool := fresh(t)
	ask(t, l, "a", message.Range{Hi: message.Key{"9"}})
	ask(t, l, "b", message.Range{Lo: message.Key{"9"}})
	for _, id := range []string{"a", "b"} {
		must(t, l.BeginSnapshot(t.Context(), id))
	}
	held, err := pool.Begin(t.Context())
	must(t, err)
	defer func() { _ = held.Rollback(t.Context()) }()
	_, err = held.Exec(t.Context(), `SELECT FROM trickle.snapshots WHERE resync_id = 'a' FOR UPDATE`)
	must(t, err)
	var stored, ended atomic.Int32
	var wg sync.WaitGroup
	for i, s := range snapshots(t, l) {
		wg.Go(func() {
			defer ended.Add(1)
			s.State = entry.SnapshotSignalled
			ok, err := l.StoreSnapshot(t.Context(), s)
			if err != nil {
				t.Error(err)
			}
			if ok {
				stored.Add(1)
			}
		})
		const waiting = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`
		for one[int](t, pool, waiting)+int(ended.Load()) < i+1 {
		}
	}
	must(t, held.Rollback(t.Context()))
	wg.Wait()
	if stored.Load() != 1 {
		t.Errorf("%d signals would have been sent", stored.Load())
	}
}

// A resync that has begun to be walked is not given to Debezium, nor is one that has ended, which holds no other up either.
func TestSnapshotOnlyOfWhatRuns(t *testing.T) {
	t.Parallel()
	l, pool := fresh(t)
	ask(t, l, "walked", message.Range{Hi: message.Key{"9"}})
	must(t, l.Plan(t.Context(), "walked", []message.Range{{}}))
	must(t, l.BeginSnapshot(t.Context(), "walked"))
	ask(t, l, "cancelled", message.Range{Lo: message.Key{"9"}})
	must(t, l.BeginSnapshot(t.Context(), "cancelled"))
	s := snapshots(t, l)
	if len(s) != 1 || s[0].ResyncID != "cancelled" {
		t.Fatalf("%+v", s)
	}
	s[0].State = entry.SnapshotSignalled
	if ok, err := l.StoreSnapshot(t.Context(), s[0]); err != nil || !ok {
		t.Fatal(ok, err)
	}
	must(t, l.Cancel(t.Context(), "cancelled"))
	s[0].State, s[0].Version = entry.SnapshotStarted, 1
	if ok, err := l.StoreSnapshot(t.Context(), s[0]); err != nil || ok {
		t.Errorf("a cancelled resync goes on: %t, %v", ok, err)
	}
	ask(t, l, "next", message.Range{Lo: message.Key{"10"}})
	must(t, l.BeginSnapshot(t.Context(), "next"))
	next := snapshots(t, l)[0]
	next.State = entry.SnapshotSignalled
	if ok, err := l.StoreSnapshot(t.Context(), next); err != nil || !ok {
		t.Errorf("held up by a cancelled one: %t, %v", ok, err)
	}
	exec(t, pool, `DELETE FROM trickle.resyncs`)
	if n := one[int](t, pool, `SELECT count(*) FROM trickle.snapshots`); n != 0 {
		t.Errorf("%d snapshots without their resync", n)
	}
}
