package slot_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/cdc"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/slot"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// fake is a source that says what it is told; its log grows by a byte a second.
type fake struct {
	began   time.Time
	slot    postgres.Slot
	missing bool
	standby bool
	still   bool // the log does not grow
	err     error
}

func (f *fake) Tip(context.Context) (postgres.Tip, error) {
	end := uint64(time.Since(f.began) / time.Second)
	if f.still {
		end = 0
	}
	return postgres.Tip{At: time.Now(), LSN: end, Timeline: 1, Standby: f.standby}, f.err
}

func (f *fake) Slot(context.Context, string) (postgres.Slot, bool, error) {
	return f.slot, !f.missing, nil
}

func TestLook(t *testing.T) {
	t.Parallel()
	good := postgres.Slot{Logical: true, Active: true, Database: "shop", Here: "shop", Confirmed: 95}
	with := func(change func(*postgres.Slot)) postgres.Slot {
		s := good
		change(&s)
		return s
	}
	for name, c := range map[string]struct {
		fake   fake
		lag    time.Duration // once the log is 100 s long, the last 60 of which were watched
		reason string
	}{
		"it is read":                {fake{slot: good}, 5 * time.Second, ""},
		"in step":                   {fake{slot: with(func(s *postgres.Slot) { s.Confirmed = 100 })}, 0, ""},
		"nobody reads it":           {fake{slot: with(func(s *postgres.Slot) { s.Active = false })}, 5 * time.Second, "nobody reads replication slot cdc"},
		"behind what is known":      {fake{slot: with(func(s *postgres.Slot) { s.Confirmed = 30 })}, -1, "70 B behind, from before the publisher began to look 1m0s ago"},
		"missing":                   {fake{missing: true}, -1, "no replication slot cdc"},
		"physical":                  {fake{slot: with(func(s *postgres.Slot) { s.Logical = false })}, -1, "physical"},
		"of another database":       {fake{slot: with(func(s *postgres.Slot) { s.Database = "other" })}, -1, "of database other, not of shop"},
		"lost":                      {fake{slot: with(func(s *postgres.Slot) { s.Lost = "wal_removed" })}, -1, "lost (wal_removed)"},
		"on a standby":              {fake{slot: good, standby: true}, -1, "TRICKLE_PRIMARY_DSN"},
		"beyond the end of the log": {fake{slot: with(func(s *postgres.Slot) { s.Confirmed = 101 })}, -1, "another timeline"},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := c.fake
			f.began = time.Now()
			w := slot.New(&f)
			time.Sleep(40 * time.Second)
			stop := run(t, w)
			time.Sleep(60 * time.Second)
			stop()
			s, err := w.Look(t.Context(), "cdc")
			if err != nil || s.Lag() != c.lag || (s.Reason == "") != (c.reason == "") || !strings.Contains(s.Reason, c.reason) || s.Timeline != 1 || !s.Clock.Equal(time.Now()) {
				t.Errorf("%s: %+v, lag %s, %v", name, s, s.Lag(), err)
			}
			if s, err := w.Look(t.Context(), ""); err != nil || s.Reason != "" || !s.Through.IsZero() || s.Timeline != 1 {
				t.Errorf("%s: without a slot: %+v, %v", name, s, err)
			}
			f.err = errors.New("gone")
			if s, err := w.Look(t.Context(), "cdc"); err == nil {
				t.Errorf("%s: the source can't be asked, and it says %+v", name, s)
			}
		})
	}
}

// run watches until it is stopped.
func run(t *testing.T, w *slot.Watch) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.Run(ctx, func() bool { return true }, slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}

func open(t *testing.T, dsn string) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), dsn, postgres.Options{Role: "source", Setting: "--source"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// eventually looks until it likes what it sees.
func eventually(t *testing.T, w *slot.Watch, name string, until func(slot.State) bool) slot.State {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		s, err := w.Look(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if until(s) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("it stays at %+v, lag %s", s, s.Lag())
		}
	}
}

// A real slot with a real reader: in step while it runs, and ever further behind once it has stopped, by as much as the source's clock says.
func TestLagOfARealSlot(t *testing.T) {
	t.Parallel()
	broker, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	dsn := pgtest.Database(t)
	pool := open(t, dsn)
	exec := func(sql string) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec(`CREATE TABLE t (id bigint PRIMARY KEY)`)
	cfg := cdc.Config{Source: dsn, Kafka: []kgo.Opt{kgo.SeedBrokers(broker.ListenAddrs()...)}, Topic: "changes", Slot: "slot_lag"}
	if err := cdc.Prepare(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	// Whoever may connect may look.
	exec(`DROP ROLE IF EXISTS slot_looker`)
	exec(`CREATE ROLE slot_looker LOGIN`)
	as := open(t, strings.Replace(dsn, "postgres://postgres@", "postgres://slot_looker@", 1))
	w := slot.New(postgres.NewSource(as))

	s := eventually(t, w, "slot_lag", func(s slot.State) bool { return s.Reason != "" })
	if !strings.Contains(s.Reason, "nobody reads") && !strings.Contains(s.Reason, "began to look") {
		t.Errorf("before anybody read it: %s", s.Reason)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var reader sync.WaitGroup
	reader.Go(func() { cdc.NewSource(cfg).Run(ctx) })
	var committed time.Time
	exec(`INSERT INTO t VALUES (1)`)
	if err := pool.QueryRow(t.Context(), `SELECT clock_timestamp()`).Scan(&committed); err != nil {
		t.Fatal(err)
	}
	s = eventually(t, w, "slot_lag", func(s slot.State) bool { return s.Reason == "" && s.Through.After(committed) })
	if s.Timeline != 1 {
		t.Errorf("timeline %d", s.Timeline)
	}
	cancel()
	reader.Wait()
	stopped := eventually(t, w, "slot_lag", func(s slot.State) bool { return strings.Contains(s.Reason, "nobody reads") })
	exec(`INSERT INTO t VALUES (2)`)
	later := eventually(t, w, "slot_lag", func(s slot.State) bool { return s.Clock.Sub(stopped.Clock) > 3*time.Second })
	if later.Lag() < 2*time.Second || later.Through.After(stopped.Clock) {
		t.Errorf("3 s after the reader stopped: %+v, lag %s", later, later.Lag())
	}
	if v, there, err := postgres.NewSource(as).Slot(t.Context(), "slot_lag"); err != nil || !there || v.Plugin != "pgoutput" || v.Behind == 0 || v.Scarce {
		t.Errorf("%+v, %t, %v", v, there, err)
	}
	if s, err := w.Look(t.Context(), "nosuch"); err != nil || !strings.Contains(s.Reason, "no replication slot nosuch") {
		t.Errorf("%+v, %v", s, err)
	}
	if err := cdc.Drop(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	as.Close()
	exec(`DROP ROLE slot_looker`)
}

// A commit that nobody waited for is visible before it is in any file; the tip is beyond it all the same.
func TestTheTipCoversWhatIsVisible(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	pool := open(t, dsn)
	source := postgres.NewSource(pool)
	if _, err := pool.Exec(t.Context(), `CREATE TABLE t (id bigint)`); err != nil {
		t.Fatal(err)
	}
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Exec(t.Context(), `SET synchronous_commit = off`); err != nil {
		t.Fatal(err)
	}
	ahead := 0
	for range 100 {
		if _, err := conn.Exec(t.Context(), `INSERT INTO t VALUES (1)`); err != nil {
			t.Fatal(err)
		}
		// The transaction is over; its record ends at the insert position, which nothing but later records can move.
		var end uint64
		if err := conn.QueryRow(t.Context(), `SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint, CASE WHEN pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn() THEN 1 ELSE 0 END + $1`, ahead).Scan(&end, &ahead); err != nil {
			t.Fatal(err)
		}
		tip, err := source.Tip(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if tip.LSN < end {
			t.Fatalf("the tip %d is before a commit that ended at %d", tip.LSN, end)
		}
	}
	if ahead == 0 {
		t.Error("every commit was flushed at once, so this showed nothing")
	}
}

// The server gives up a slot that falls too far behind, and says so in words of its version.
func TestALostSlot(t *testing.T) {
	t.Parallel()
	server, err := testbed.StartPostgres(t.Context(), testbed.Options{Settings: map[string]string{"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	pool := open(t, server.SocketDSN("postgres"))
	w := slot.New(postgres.NewSource(pool))
	if _, err := pool.Exec(t.Context(), `SELECT pg_create_logical_replication_slot('cdc', 'pgoutput')`); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		for _, sql := range []string{`CREATE TABLE IF NOT EXISTS t (id bigint)`, `INSERT INTO t VALUES (1)`, `SELECT pg_switch_wal()`, `CHECKPOINT`} {
			if _, err := pool.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
	}
	s, err := w.Look(t.Context(), "cdc")
	if err != nil || !strings.Contains(s.Reason, "replication slot cdc is lost") || s.Lag() >= 0 {
		t.Errorf("%+v, %v", s, err)
	}
}
