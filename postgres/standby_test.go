package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// servers is a primary with a standby that streams from it, and pools of the database shop in both; reader is a role that may SELECT and no more.
type servers struct {
	primary, standby *testbed.Postgres
	there, here      *pgxpool.Pool
}

const reader = "reader"

// newServers starts them with the installed version (0) or with that of a major version, and runs the statements in the primary first.
func newServers(t *testing.T, major int, settings map[string]string, statements ...string) servers {
	t.Helper()
	o := testbed.Options{Settings: map[string]string{"max_prepared_transactions": "2"}}
	if major != 0 {
		var err error
		if o.Binaries, err = testbed.FindBinariesOf(t.Context(), major); err != nil {
			t.Fatal(err)
		}
	}
	s := servers{primary: pgtest.Server(t, o)}
	if _, err := s.primary.CreateDatabase(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	s.there = open(t, s.primary.DSN("shop"))
	exec(t, s.there, statements...)
	exec(t, s.there, `CREATE ROLE reader LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader`)
	settings = maps.Clone(settings)
	if settings == nil {
		settings = map[string]string{}
	}
	settings["max_prepared_transactions"] = "2" // no less than the primary's
	s.standby = pgtest.Standby(t, s.primary, testbed.StandbyOptions{Settings: settings})
	s.here = open(t, s.standby.DSN("shop"))
	return s
}

// onEach runs a test with the installed version and with 18, in which some of this has been written anew.
func onEach(t *testing.T, fn func(t *testing.T, major int)) {
	t.Helper()
	for name, major := range map[string]int{"installed": 0, "18": 18} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fn(t, major)
		})
	}
}

// as connects to a server as the reader.
func (s servers) as(t *testing.T, user string, server *testbed.Postgres) *pgxpool.Pool {
	t.Helper()
	return open(t, strings.Replace(server.DSN("shop"), "postgres://postgres@", "postgres://"+user+"@", 1))
}

// replayed waits until the standby has replayed all that the primary has flushed.
func (s servers) replayed(t *testing.T) {
	t.Helper()
	var lsn string
	if err := s.there.QueryRow(t.Context(), `SELECT pg_current_wal_flush_lsn()::text`).Scan(&lsn); err != nil {
		t.Fatal(err)
	}
	eventually(t, s.here, `SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn`, lsn)
}

// eventually polls a question of one boolean.
func eventually(t *testing.T, pool *pgxpool.Pool, question string, args ...any) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		var yes bool
		if err := pool.QueryRow(t.Context(), question, args...).Scan(&yes); err == nil && yes {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("%s: never (%v)", question, err)
		}
	}
}

// A read says which history it is of: on a primary, on a standby of it, and on that standby once it is promoted, before its first checkpoint.
func TestTimeline(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, major int) {
		s := newServers(t, major, nil, `CREATE TABLE t (id int PRIMARY KEY)`)
		l := describe(t, s.there, "public.t", postgres.Rules{})
		at := func(pool *pgxpool.Pool) (at postgres.At) {
			t.Helper()
			err := postgres.NewSource(pool).Read(t.Context(), l, func(_ *pgconn.PgConn, a postgres.At) error { at = a; return nil })
			if err != nil {
				t.Fatal(err)
			}
			return at
		}
		if at := at(s.there); at.Standby || at.Timeline != 1 {
			t.Errorf("the primary: %+v", at)
		}
		if at := at(s.here); !at.Standby || at.Timeline != 1 {
			t.Errorf("the standby: %+v", at)
		}
		plain := s.as(t, reader, s.standby)
		if at := at(plain); !at.Standby || at.Timeline != 0 {
			t.Errorf("the standby, to whoever may not see its receiver: %+v", at)
		}
		plain.Close()
		through := openThrough(t, s.standby.DSN("shop"))
		if err := s.primary.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.standby.Promote(t.Context()); err != nil {
			t.Fatal(err)
		}
		if at := at(s.as(t, reader, s.standby)); at.Standby || at.Timeline != 2 {
			t.Errorf("the promoted standby: %+v", at)
		}
		// Connections that are made now lead to a primary, which a pool has to be meant for.
		s.here.Reset()
		if err := s.here.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "restart once the failover is over") {
			t.Errorf("a pool that is not to follow: %v", err)
		}
		through.Reset()
		if at := at(through); at.Standby || at.Timeline != 2 {
			t.Errorf("a pool that follows: %+v", at)
		}
	})
}

// from refetches through a source that may ask a primary.
func from(t *testing.T, source *postgres.Source, l *postgres.Layout, bound time.Duration, id string) (rows []postgres.Row, at postgres.At, err error) {
	t.Helper()
	horizon, err := source.Fence(t.Context())
	if err != nil {
		return nil, at, err
	}
	err = source.Refetch(t.Context(), l, postgres.Fenced{Horizon: horizon, Bound: bound}, func(c *pgconn.PgConn, a postgres.At) error {
		at = a
		rows, err = l.Rows(t.Context(), c, []message.Key{{id}}, postgres.Want{Digest: digest.Record, Values: true})
		return err
	})
	return rows, at, err
}

const table = `CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'old' FROM generate_series(1, 100) AS i`

// Trap: CDC has delivered what the standby has not replayed.
func TestRefetchWaitsForTheStandbyToReplay(t *testing.T) {
	t.Parallel()
	onEach(t, refetchWaitsForTheStandbyToReplay)
}

func refetchWaitsForTheStandbyToReplay(t *testing.T, major int) {
	t.Helper()
	s := newServers(t, major, nil, table)
	l := describe(t, s.there, "public.t", postgres.Rules{})
	source := postgres.NewStandbySource(s.here, s.there)
	var before time.Time
	if err := s.there.QueryRow(t.Context(), `SELECT clock_timestamp()`).Scan(&before); err != nil {
		t.Fatal(err)
	}
	if rows, at, err := from(t, source, l, patience, "1"); err != nil || string(rows[0].Values[1]) != "old" || !at.Standby || at.Timeline != 1 || at.Time.Before(before) {
		t.Fatalf("in step: %+v at %+v, %v", rows, at, err)
	}
	exec(t, s.here, `SELECT pg_wal_replay_pause()`)
	eventually(t, s.here, `SELECT pg_get_wal_replay_pause_state() = 'paused'`)
	exec(t, s.there, `UPDATE t SET v = 'new' WHERE id = 1`)
	if rows, _, err := from(t, source, l, brief, "1"); !errors.Is(err, postgres.ErrUnstable) || !strings.Contains(err.Error(), "the standby has replayed 0/") {
		t.Errorf("behind: %+v, %v", rows, err)
	}
	// What began while it was behind is answered as soon as it has caught up. Its pool is its own, so that what it has asked of the primary stays to be seen there.
	asking := postgres.NewStandbySource(s.here, open(t, s.primary.DSN("shop")+"&application_name=asking"))
	caught := make(chan error, 1)
	go func() {
		rows, _, err := from(t, asking, l, patience, "1")
		if err == nil && string(rows[0].Values[1]) != "new" {
			err = fmt.Errorf("read %s", rows[0].Values[1])
		}
		caught <- err
	}()
	eventually(t, s.there, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'asking' AND query LIKE '%pg_current_wal_flush_lsn%')`)
	exec(t, s.here, `SELECT pg_wal_replay_resume()`)
	if err := <-caught; err != nil {
		t.Errorf("caught up: %v", err)
	}

	// A prepared transaction hides nothing from a standby that has replayed the log.
	exec(t, s.there, `BEGIN; UPDATE t SET v = 'prepared' WHERE id = 2; PREPARE TRANSACTION 'p'`)
	if rows, _, err := from(t, source, l, patience, "2"); err != nil || string(rows[0].Values[1]) != "old" {
		t.Errorf("prepared: %+v, %v", rows, err)
	}
	exec(t, s.there, `COMMIT PREPARED 'p'`)
	if rows, _, err := from(t, source, l, patience, "2"); err != nil || string(rows[0].Values[1]) != "prepared" {
		t.Errorf("committed: %+v, %v", rows, err)
	}

	// Who may not see the receiver doesn't know which history is replayed.
	if rows, _, err := from(t, postgres.NewStandbySource(s.as(t, reader, s.standby), s.there), l, brief, "1"); !errors.Is(err, postgres.ErrUnstable) || !strings.Contains(err.Error(), "pg_read_all_stats") {
		t.Errorf("without pg_read_all_stats: %+v, %v", rows, err)
	}
	// On the primary SELECT is more than enough: nothing but its position is asked for.
	if _, _, err := from(t, postgres.NewStandbySource(s.here, s.as(t, reader, s.primary)), l, patience, "1"); err != nil {
		t.Errorf("asking the primary without any right: %v", err)
	}
	var refusal *postgres.UnfencedError
	if _, err := postgres.NewSource(s.here).Fence(t.Context()); !errors.As(err, &refusal) {
		t.Errorf("a horizon taken on a standby: %v", err)
	}
	unfenced(t, "no primary", postgres.NewSource(s.here), l, "TRICKLE_PRIMARY_DSN")
	unfenced(t, "a standby for the primary", postgres.NewStandbySource(s.here, s.here), l, "is a standby")
}

func unfenced(t *testing.T, what string, source *postgres.Source, l *postgres.Layout, reason string) {
	t.Helper()
	rows, _, err := from(t, source, l, patience, "1")
	var refusal *postgres.UnfencedError
	if !errors.As(err, &refusal) || !strings.Contains(err.Error(), reason) {
		t.Errorf("%s: %+v, %v; want a refusal with %q", what, rows, err, reason)
	}
}

// A commit that hangs for its synchronous standby is visible on another standby that has replayed it, so there it needs no waiting for.
func TestStandbyShowsWhatHangsOnThePrimary(t *testing.T) {
	t.Parallel()
	s := newServers(t, 0, nil, table)
	l := describe(t, s.there, "public.t", postgres.Rules{})
	slow := pgtest.Standby(t, s.primary, testbed.StandbyOptions{Name: "slow", Synchronous: true, Settings: map[string]string{"max_prepared_transactions": "2"}})
	if err := slow.Pause(); err != nil {
		t.Fatal(err)
	}
	committed := make(chan error)
	go func() {
		_, err := s.there.Exec(context.WithoutCancel(t.Context()), `UPDATE t SET v = 'new' WHERE id = 1`)
		committed <- err
	}()
	eventually(t, s.there, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')`)
	if rows, _, err := from(t, postgres.NewStandbySource(s.here, s.there), l, patience, "1"); err != nil || string(rows[0].Values[1]) != "new" {
		t.Errorf("while it hangs: %+v, %v", rows, err)
	}
	if err := slow.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
}

// Two servers take writes after a failover that the old primary outlived. Whichever of them is asked for the horizon, and whichever is read, nothing passes
// unless both have one history.
func TestOldPrimaryFencesNothing(t *testing.T) {
	t.Parallel()
	s := newServers(t, 0, nil, `ALTER SYSTEM SET full_page_writes = on`, `SELECT pg_reload_conf()`, table)
	l := describe(t, s.there, "public.t", postgres.Rules{})
	second, err := s.standby.StartStandby(t.Context(), testbed.StandbyOptions{Settings: map[string]string{"max_prepared_transactions": "2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := second.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	behind := open(t, second.DSN("shop"))
	if _, _, err := from(t, postgres.NewStandbySource(behind, s.there), l, patience, "1"); err != nil {
		t.Errorf("a standby of a standby: %v", err)
	}
	// A horizon that was taken before the failover is none any more.
	early := postgres.NewStandbySource(behind, s.there)
	horizon, err := early.Fence(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, behind, `SELECT count(*) = 1 FROM pg_stat_wal_receiver WHERE status = 'streaming' AND received_tli = 2`)
	promoted := openThrough(t, s.standby.DSN("shop"))
	unfenced(t, "a standby of the new primary, fenced by the old one", postgres.NewStandbySource(behind, s.there), l, "timeline 2")
	unfenced(t, "the new primary, fenced by the old one", postgres.NewStandbySource(promoted, s.there), l, "timeline 2")
	unfenced(t, "the old primary, fenced by the new one", postgres.NewStandbySource(s.there, promoted), l, "left the source behind")
	err = early.Refetch(t.Context(), l, postgres.Fenced{Horizon: horizon, Bound: patience}, func(*pgconn.PgConn, postgres.At) error { return nil })
	var refusal *postgres.UnfencedError
	if !errors.As(err, &refusal) {
		t.Errorf("a horizon from before the failover: %v", err)
	}
	for what, source := range map[string]*postgres.Source{
		"the new primary": postgres.NewSource(promoted), "the new primary, named twice": postgres.NewStandbySource(promoted, promoted),
		"a standby of the new primary": postgres.NewStandbySource(behind, promoted),
	} {
		if rows, at, err := from(t, source, l, patience, "1"); err != nil || at.Timeline != 2 || !rows[0].Present {
			t.Errorf("%s: %+v at %+v, %v", what, rows, at, err)
		}
	}
}

// openThrough connects so that the pool outlives a failover.
func openThrough(t *testing.T, dsn string) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), dsn, postgres.Options{Role: "source", Setting: "--source", Failover: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// A read that is in the way of replay is cancelled there, and tried again.
func TestReadCancelledByReplayIsTriedAgain(t *testing.T) {
	t.Parallel()
	onEach(t, readCancelledByReplayIsTriedAgain)
}

func readCancelledByReplayIsTriedAgain(t *testing.T, major int) {
	t.Helper()
	s := newServers(t, major, map[string]string{"max_standby_streaming_delay": "0", "hot_standby_feedback": "off"}, table)
	l := describe(t, s.there, "public.t", postgres.Rules{})
	for name, read := range map[string]func(source *postgres.Source, fn func(*pgconn.PgConn, postgres.At) error) error{
		"read": func(source *postgres.Source, fn func(*pgconn.PgConn, postgres.At) error) error {
			return source.Read(t.Context(), l, fn)
		},
		"refetch": func(source *postgres.Source, fn func(*pgconn.PgConn, postgres.At) error) error {
			horizon, err := source.Fence(t.Context())
			if err != nil {
				return err
			}
			return source.Refetch(t.Context(), l, postgres.Fenced{Horizon: horizon, Bound: patience}, fn)
		},
	} {
		source, tries := postgres.NewStandbySource(s.here, s.there), 0
		err := read(source, func(c *pgconn.PgConn, _ postgres.At) error {
			if tries++; tries > 1 {
				return nil
			}
			// What the snapshot still shows is removed on the primary, and the read waits for whatever may come.
			exec(t, s.there, `UPDATE t SET v = v || '.'`, `VACUUM t`)
			_, err := c.Exec(t.Context(), `SELECT pg_sleep(600)`).ReadAll()
			if !postgres.Conflict(err) {
				t.Errorf("%s: not cancelled by replay: %v", name, err)
			}
			return err
		})
		if want := (postgres.Seen{Standby: true, Timeline: 1, Cancelled: 1}); err != nil || tries != 2 || source.Seen() != want {
			t.Errorf("%s: %d tries, %+v, %v", name, tries, source.Seen(), err)
		}
	}
	// Not for ever: then it is an error like any other.
	source, tries := postgres.NewSource(s.here), 0
	err := source.Read(t.Context(), l, func(*pgconn.PgConn, postgres.At) error {
		tries++
		return &pgconn.PgError{Code: "40001"}
	})
	if !postgres.Conflict(err) || tries < 3 || source.Seen().Cancelled != uint64(tries) {
		t.Errorf("%d tries, %d cancelled, %v", tries, source.Seen().Cancelled, err)
	}
}

// A standby's horizon is as good as a primary's: no transaction below it is yet to be seen, however many subtransactions it has.
func TestHorizonOfAStandby(t *testing.T) {
	t.Parallel()
	onEach(t, horizonOfAStandby)
}

func horizonOfAStandby(t *testing.T, major int) {
	t.Helper()
	s := newServers(t, major, nil, table)
	l := describe(t, s.there, "public.t", postgres.Rules{})
	tx, err := s.there.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var xid int64
	if err := tx.QueryRow(t.Context(), `SELECT pg_current_xact_id()::text::bigint`).Scan(&xid); err != nil {
		t.Fatal(err)
	}
	// More subtransactions than a standby keeps count of, and then than fit into its list of those that run.
	if _, err := tx.Exec(t.Context(), `DO $$ BEGIN FOR i IN 1..100 LOOP BEGIN UPDATE t SET v = 'sub' WHERE id = i; EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$`); err != nil {
		t.Fatal(err)
	}
	exec(t, s.there, `INSERT INTO t VALUES (101, 'committed since'); CHECKPOINT`)
	s.replayed(t)
	source := postgres.NewSource(s.here)
	sample, err := source.Sample(t.Context())
	if err != nil || sample.Xmin > uint64(xid) {
		t.Errorf("transaction %d runs, and the standby's horizon is %+v, %v", xid, sample, err)
	}
	scan := func(o postgres.ScanOptions) (scan postgres.Scan, at postgres.At) {
		t.Helper()
		o.Digest, o.Everything = digest.Record, true
		err := source.Read(t.Context(), l, func(c *pgconn.PgConn, a postgres.At) (err error) {
			at = a
			scan, err = l.Scan(t.Context(), c, message.Range{}, o)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return scan, at
	}
	first, at := scan(postgres.ScanOptions{})
	known := &postgres.Known{Print: first.Print, Xmin: at.Xmin}
	if first.Rows != 101 || at.Xmin > uint64(xid) {
		t.Errorf("%+v at %+v", first, at)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.replayed(t)
	if again, _ := scan(postgres.ScanOptions{Known: known}); again.Unchanged || again.Print == first.Print {
		t.Errorf("what was committed since is taken for what was there: %+v", again)
	}
	again, at := scan(postgres.ScanOptions{})
	if last, _ := scan(postgres.ScanOptions{Known: &postgres.Known{Print: again.Print, Xmin: at.Xmin}}); !last.Unchanged {
		t.Errorf("nothing has changed: %+v", last)
	}
}
