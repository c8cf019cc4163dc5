package heartbeat_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/heartbeat"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/postgres"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func open(t *testing.T, dsn string) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), dsn, postgres.Options{Role: "source", Setting: "--source"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func TestBeats(t *testing.T) {
	t.Parallel()
	pool := open(t, pgtest.Database(t))
	h, other := heartbeat.New(pool, `trickle."Heart.beat"`, "p"), heartbeat.New(pool, `trickle."Heart.beat"`, "q")
	if _, _, err := h.Beat(t.Context()); err == nil {
		t.Error("no table and no error")
	}
	for range 2 {
		if err := h.Create(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if at, timeline, err := h.Beat(t.Context()); err != nil || !at.IsZero() || timeline != 0 {
		t.Errorf("before the first: %s on %d, %v", at, timeline, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- h.Run(ctx, time.Millisecond, slog.New(slog.DiscardHandler)) }()
	var first time.Time
	for deadline := time.Now().Add(time.Minute); ; {
		at, timeline, err := h.Beat(t.Context())
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%s, %v", at, err)
		}
		if !at.IsZero() && timeline != 1 { // a server that was never promoted
			t.Fatalf("a beat on timeline %d", timeline)
		}
		if first.IsZero() {
			first = at
		} else if at.After(first) {
			break
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if time.Since(first).Abs() > time.Hour || first.Location() != time.UTC {
		t.Errorf("first beat at %s", first)
	}
	if at, _, err := other.Beat(t.Context()); err != nil || !at.IsZero() {
		t.Errorf("another pipeline's: %s, %v", at, err)
	}
}

// The right to create in the schema is enough where the schema is there; without it the error says what to run.
func TestCreateWithoutRightsOnTheDatabase(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	admin := open(t, dsn)
	var role string
	if err := admin.QueryRow(t.Context(), `SELECT 'beater_' || current_database()`).Scan(&role); err != nil {
		t.Fatal(err)
	}
	run := func(sql string) {
		t.Helper()
		if _, err := admin.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
	}
	run(`CREATE ROLE ` + role + ` LOGIN`)
	as := open(t, strings.Replace(dsn, "postgres://postgres@", "postgres://"+role+"@", 1))
	h := heartbeat.New(as, "beats.heartbeat", "p")
	if err := h.Create(t.Context()); err == nil || !strings.Contains(err.Error(), "CREATE TABLE IF NOT EXISTS") {
		t.Errorf("%v, want the statements to run", err)
	}
	run(`CREATE SCHEMA beats AUTHORIZATION ` + role)
	if err := h.Create(t.Context()); err != nil {
		t.Error(err)
	}
	if err := h.Write(t.Context()); err != nil {
		t.Error(err)
	}
	as.Close()
	run(`DROP OWNED BY ` + role + ` CASCADE; DROP ROLE ` + role)
}

// A table from before beats had a timeline is no reason to change it behind CDC's back.
func TestCreateAsksForTheTimeline(t *testing.T) {
	t.Parallel()
	pool := open(t, pgtest.Database(t))
	for _, sql := range []string{`CREATE SCHEMA trickle`, `CREATE TABLE trickle.heartbeat (pipeline text PRIMARY KEY, at timestamptz NOT NULL)`} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	h := heartbeat.New(pool, "trickle.heartbeat", "p")
	err := h.Create(t.Context())
	if err == nil {
		t.Fatal("no error")
	}
	_, fix, ok := strings.Cut(err.Error(), "on the source: ")
	if !ok {
		t.Fatalf("no statement in: %v", err)
	}
	if _, err := pool.Exec(t.Context(), fix); err != nil {
		t.Fatal(err)
	}
	if err := h.Create(t.Context()); err != nil {
		t.Error(err)
	}
}
