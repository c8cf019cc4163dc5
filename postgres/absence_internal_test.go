package postgres

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/telemetry/pulse"
)

// Who has a connection is with the database; who waits for one that nobody gives back is stuck, though not before any server would have answered.
func TestAConnectionThatNobodyGivesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := pulse.New(pulse.Bound)
		m.Started()
		a := &absences{back: map[*pgx.Conn]func(){}}
		conn := new(pgx.Conn)
		holder, end := pulse.Loop(m.In(t.Context()), "holding")
		defer end()
		a.TraceAcquireEnd(a.TraceAcquireStart(holder, nil, pgxpool.TraceAcquireStartData{}), nil, pgxpool.TraceAcquireEndData{Conn: conn})
		waiter, end := pulse.Loop(m.In(t.Context()), "waiting")
		defer end()
		waited := a.TraceAcquireStart(waiter, nil, pgxpool.TraceAcquireStartData{})
		time.Sleep(acquireMost)
		if s := m.State(); len(s.Stuck) > 0 {
			t.Fatalf("while a server may still answer: %v", s.Stuck)
		}
		time.Sleep(pulse.Bound + time.Second)
		if s := m.State(); len(s.Stuck) != 1 || s.Stuck[0][:7] != "waiting" {
			t.Fatalf("then: %v", s.Stuck)
		}
		a.TraceAcquireEnd(waited, nil, pgxpool.TraceAcquireEndData{Conn: new(pgx.Conn)}) // it came after all
		time.Sleep(time.Hour)
		if s := m.State(); len(s.Stuck) > 0 {
			t.Fatalf("both have one: %v", s.Stuck)
		}
		a.TraceRelease(nil, pgxpool.TraceReleaseData{Conn: conn})
		time.Sleep(pulse.Bound + time.Second)
		if s := m.State(); len(s.Stuck) != 1 || s.Stuck[0][:7] != "holding" {
			t.Fatalf("given back, and then nothing: %v", s.Stuck)
		}
	})
}
