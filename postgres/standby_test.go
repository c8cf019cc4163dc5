package postgres_test

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
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
	for _, major := range []int{0} {
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
			t.Errorf("%d: the primary: %+v", major, at)
		}
		if at := at(s.here); !at.Standby || at.Timeline != 1 {
			t.Errorf("%d: the standby: %+v", major, at)
		}
		plain := s.as(t, reader, s.standby)
		if at := at(plain); !at.Standby || at.Timeline != 0 {
			t.Errorf("%d: the standby, to whoever may not see its receiver: %+v", major, at)
		}
		plain.Close()
		if err := s.primary.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.standby.Promote(t.Context()); err != nil {
			t.Fatal(err)
		}
		if at := at(s.as(t, reader, s.standby)); at.Standby || at.Timeline != 2 {
			t.Errorf("%d: the promoted standby: %+v", major, at)
		}
	}
}
