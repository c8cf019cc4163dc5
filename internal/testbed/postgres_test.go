package testbed_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/child"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

// query runs a statement over a connection of its own and returns the first column of its first row as text.
func query(ctx context.Context, dsn, sql string, args ...any) (text string, err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, conn.Close(context.Background())) }()
	err = conn.QueryRow(ctx, sql, args...).Scan(&text)
	return text, err
}

func mustQuery(t *testing.T, dsn, sql string, args ...any) string {
	t.Helper()
	text, err := query(t.Context(), dsn, sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return text
}

func mustExec(t *testing.T, dsn string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestDatabasesAreEmptyAndApart(t *testing.T) {
	t.Parallel()
	a, b := pgtest.Database(t), pgtest.Database(t)
	mustExec(t, a, "CREATE TABLE here (id int)")
	if got := mustQuery(t, b, "SELECT count(*)::text FROM pg_class WHERE relname = 'here'"); got != "0" {
		t.Errorf("a table made in one database shows in another")
	}
	if got := mustQuery(t, b, "SELECT current_setting('wal_level') || ' ' || current_setting('server_encoding')"); got != "logical UTF8" {
		t.Errorf("settings: %s", got)
	}
}

func TestBothAddressesWorkForPgxAndLibpq(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, testbed.Options{Settings: map[string]string{"application_name": "o'clock", "work_mem": "5MB"}})
	for _, dsn := range []string{server.DSN("postgres"), server.SocketDSN("postgres")} {
		if got := mustQuery(t, dsn, "SELECT current_setting('work_mem')"); got != "5MB" {
			t.Errorf("work_mem over %s is %s", dsn, got)
		}
		if psql, err := exec.LookPath("psql"); err == nil {
			out, err := exec.Command(psql, "-XAtc", "SELECT 1", dsn).CombinedOutput()
			if err != nil || strings.TrimSpace(string(out)) != "1" {
				t.Errorf("psql %s: %v: %s", dsn, err, out)
			}
		}
	}
	mustExec(t, server.DSN("postgres"), "ALTER SYSTEM SET work_mem = '6MB'", "SELECT pg_reload_conf()")
	eventually(t, func() error {
		if got := mustQuery(t, server.DSN("postgres"), "SELECT current_setting('work_mem')"); got != "6MB" {
			return fmt.Errorf("ALTER SYSTEM does not override a setting: %s", got)
		}
		return nil
	})
}

func TestDropDatabaseWithSlotAndSubscription(t *testing.T) {
	t.Parallel()
	source, replica := pgtest.Server(t, testbed.Options{}), pgtest.Server(t, testbed.Options{})
	from, err := source.CreateDatabase(t.Context(), "from")
	if err != nil {
		t.Fatal(err)
	}
	to, err := replica.CreateDatabase(t.Context(), "to")
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, from, "CREATE TABLE x (id int PRIMARY KEY)", "INSERT INTO x VALUES (1)", "CREATE PUBLICATION p FOR TABLE x")
	mustExec(t, to, "CREATE TABLE x (id int PRIMARY KEY)", fmt.Sprintf("CREATE SUBSCRIPTION s CONNECTION '%s' PUBLICATION p", from))
	eventually(t, func() error {
		if got := mustQuery(t, to, "SELECT count(*)::text FROM x"); got != "1" {
			return fmt.Errorf("native replication delivered %s rows", got)
		}
		return nil
	})
	if err := source.DropDatabase(t.Context(), "from"); err != nil {
		t.Error(err)
	}
	if err := replica.DropDatabase(t.Context(), "to"); err != nil {
		t.Error(err)
	}
	for _, s := range []*testbed.Postgres{source, replica} {
		if got := mustQuery(t, s.DSN("postgres"), "SELECT count(*)::text FROM pg_database WHERE datname IN ('from', 'to')"); got != "0" {
			t.Errorf("a dropped database is still there")
		}
	}
}

func TestCrashAndRestartKeepCommittedRowsAndThePort(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, testbed.Options{})
	dsn := server.DSN("postgres")
	mustExec(t, dsn, "CREATE TABLE kept (id int)", "INSERT INTO kept VALUES (42)")
	for range 3 {
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := query(t.Context(), dsn, "SELECT 1::text"); err == nil {
			t.Fatal("a killed server answers")
		}
		if err := server.Pause(); !errors.Is(err, child.ErrNotRunning) {
			t.Errorf("pause of a killed server: %v", err)
		}
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := mustQuery(t, dsn, "SELECT id::text FROM kept"); got != "42" {
			t.Errorf("after a crash the table holds %s", got)
		}
	}
	if err := server.Restart(t.Context()); err != nil { // of a running server
		t.Fatal(err)
	}
	mustQuery(t, dsn, "SELECT id::text FROM kept")
}

func TestPauseStopsAnswersAndResumeBringsThemBack(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, testbed.Options{})
	conn, err := pgx.Connect(t.Context(), server.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), "SELECT 1")
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Fatalf("an open session answers while paused (%v)", err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := server.Pause(); err != nil { // Stop must cope with a paused server
		t.Fatal(err)
	}
}

func TestStopRemovesEverything(t *testing.T) {
	t.Parallel()
	server, err := testbed.StartPostgres(t.Context(), testbed.Options{})
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Dir(server.LogFile())
	for range 2 {
		if err := server.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there (%v)", folder, err)
	}
	if err := server.Restart(t.Context()); err == nil {
		t.Error("a server that was stopped for good starts again")
	}
}

func TestDirKeepsData(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "trickle-pg-kept-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // the server's account must get in
		t.Fatal(err)
	}
	for _, want := range []string{"0", "1"} {
		server, err := testbed.StartPostgres(t.Context(), testbed.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if got := mustQuery(t, server.DSN("postgres"), "SELECT count(*)::text FROM pg_class WHERE relname = 'kept'"); got != want {
			t.Errorf("%s tables, want %s", got, want)
		}
		if want == "0" {
			mustExec(t, server.DSN("postgres"), "CREATE TABLE kept (id int)")
		}
		if err := server.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFailedStartShowsTheServersLog(t *testing.T) {
	t.Parallel()
	_, err := testbed.StartPostgres(t.Context(), testbed.Options{Settings: map[string]string{"no_such_setting": "1"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("the error does not name the setting: %v", err)
	}
}

// A commit that waits for a paused synchronous standby is in the WAL but not visible; cancelling the standby's duty lets it through.
func TestSynchronousStandbyHoldsCommits(t *testing.T) {
	t.Parallel()
	primary := pgtest.Server(t, testbed.Options{})
	standby := pgtest.Standby(t, primary, testbed.StandbyOptions{Name: "s1", Synchronous: true})
	dsn := primary.DSN("postgres")
	mustExec(t, dsn, "CREATE TABLE x (id int)")
	if got := mustQuery(t, standby.DSN("postgres"), "SELECT pg_is_in_recovery()::text"); got != "true" {
		t.Errorf("standby is in recovery: %s", got)
	}
	if err := standby.Pause(); err != nil {
		t.Fatal(err)
	}
	committed := make(chan error, 1)
	go func() {
		_, err := query(context.Background(), dsn, "INSERT INTO x VALUES (1) RETURNING id::text")
		committed <- err
	}()
	eventually(t, func() error {
		if got := mustQuery(t, dsn, "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'SyncRep'"); got != "1" {
			return fmt.Errorf("%s commits wait", got)
		}
		return nil
	})
	if got := mustQuery(t, dsn, "SELECT count(*)::text FROM x"); got != "0" {
		t.Errorf("a commit that waits is visible")
	}
	if err := standby.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	if err := standby.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := primary.SetSynchronousStandby(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	mustExec(t, dsn, "INSERT INTO x VALUES (2)")
}

// eventually retries until a check passes, for things another process does in its own time.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
