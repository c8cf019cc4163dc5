// Package pgtest gives tests a real Postgres.
//
// It decides that one server is shared by all tests of a test binary, each with a database of its own, and one more for each other major
// version that a test asks for, and that servers keep their files in memory where there is plenty of it. What always holds: a database is new and empty, and is dropped when its test ends; a server starts with the
// first test that needs it and is gone before the binary ends. A machine without a Postgres fails the test, and never skips it.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/trickle-verify/trickle/internal/testbed"
)

const timeout = 2 * time.Minute

// found is the version of whatever Postgres testbed.FindBinaries finds.
const found = 0

// shared are the test binary's servers. They are package state because TestMain and the tests have nothing else in common.
var shared cluster

type cluster struct {
	mu      sync.Mutex
	ready   bool            // Main runs
	started map[int]started // by major version
	counter atomic.Int64
}

// started is a server, or why there is none: it isn't tried twice.
type started struct {
	server *testbed.Postgres
	err    error
}

// Main runs the tests, stops the shared server and fails if a goroutine was left behind. It does not return:
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
func Main(m *testing.M) { goleak.VerifyTestMain(runner{m}) }

type runner struct{ m *testing.M }

// Run implements goleak.TestingM.
func (r runner) Run() int {
	shared.open()
	code := r.m.Run()
	if err := shared.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		return max(code, 1)
	}
	return code
}

func (c *cluster) open() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready, c.started = true, map[int]started{}
}

func (c *cluster) stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var failures []error
	for _, s := range c.started {
		if s.server != nil {
			failures = append(failures, s.server.Stop(ctx))
		}
	}
	return errors.Join(failures...)
}

// get starts a server when it is first wanted.
func (c *cluster) get(ctx context.Context, major int) (*testbed.Postgres, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ready {
		return nil, fmt.Errorf("this package lacks: func TestMain(m *testing.M) { pgtest.Main(m) }")
	}
	s, ok := c.started[major]
	if !ok {
		s.server, s.err = start(ctx, major)
		c.started[major] = s
	}
	return s.server, s.err
}

func start(ctx context.Context, major int) (*testbed.Postgres, error) {
	var binaries string
	if major != found {
		var err error
		if binaries, err = testbed.FindBinariesOf(ctx, major); err != nil {
			return nil, err
		}
	}
	return testbed.StartPostgres(ctx, inMemory(testbed.Options{Binaries: binaries, Settings: map[string]string{
		"max_connections": "200", "max_wal_senders": "50", "max_replication_slots": "50",
	}}))
}

// Database makes a database in the shared server, to be dropped at the end of the test, and returns its DSN.
func Database(t testing.TB) string {
	t.Helper()
	return inShared(t, found)
}

// DatabaseOf makes a database in a shared server of this major version, to be dropped at the end of the test, and returns its DSN. Where there
// are no binaries of that version the test fails.
func DatabaseOf(t testing.TB, major int) string {
	t.Helper()
	return inShared(t, major)
}

func inShared(t testing.TB, major int) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	server, err := shared.get(ctx, major)
	if err != nil {
		t.Fatalf("postgres for tests: %v", err)
	}
	return database(ctx, t, server)
}

// DatabaseOn makes a database in the given server, to be dropped at the end of the test, and returns its DSN.
func DatabaseOn(t testing.TB, server *testbed.Postgres) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return database(ctx, t, server)
}

func database(ctx context.Context, t testing.TB, server *testbed.Postgres) string {
	t.Helper()
	name := fmt.Sprintf("t%d_%s", shared.counter.Add(1), plain(t.Name()))
	dsn, err := server.CreateDatabase(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := server.DropDatabase(ctx, name); err != nil {
			t.Error(err)
		}
	})
	return dsn
}

// Server starts a server for this test alone, for what a shared one can't bear: crashes, pauses, settings, standbys.
func Server(t testing.TB, opts testbed.Options) *testbed.Postgres {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	server, err := testbed.StartPostgres(ctx, inMemory(opts))
	if err != nil {
		t.Fatal(err)
	}
	stopAtEnd(t, server)
	return server
}

// Standby starts a standby of the server for this test.
func Standby(t testing.TB, primary *testbed.Postgres, opts testbed.StandbyOptions) *testbed.Postgres {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	standby, err := primary.StartStandby(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	stopAtEnd(t, standby)
	return standby
}

func stopAtEnd(t testing.TB, server *testbed.Postgres) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := server.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
}

// plain keeps what is fit for a name of at most 63 bytes.
func plain(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		default:
			return '_'
		}
	}, name)
	return name[:min(len(name), 45)]
}

// Limited makes a user of the database who may read everything through so many connections, and returns the user's DSN.
func Limited(t testing.TB, dsn string, connections int) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	role := fmt.Sprintf("few%d_%d", connections, shared.counter.Add(1))
	run := func(ctx context.Context, sql string) {
		t.Helper()
		c, err := pgx.Connect(ctx, dsn)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Exec(ctx, sql)
		if err := errors.Join(err, c.Close(ctx)); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	run(ctx, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD 'few' CONNECTION LIMIT %d; GRANT pg_read_all_data TO %s", role, connections, role))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		run(ctx, "DROP ROLE "+role)
	})
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "few")
	return u.String()
}
