package postgres

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/telemetry/pulse"
)

// absences tells a loop's monitor that the loop is with the database for as long as it has a connection, or waits for one: a server that is away, or slow, makes
// no loop stuck. A wait for a connection that a server would have ended long ago is one for a connection of our own that nobody gives back, and counts no more.
type absences struct {
	mu   sync.Mutex
	back map[*pgx.Conn]func()
}

// acquireMost is longer than any connect_timeout that makes sense.
const acquireMost = 10 * time.Minute

type absence struct{}

// waiting is one for a connection.
type waiting struct {
	back  func()
	limit *time.Timer
}

// TraceAcquireStart begins one.
func (a *absences) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	back := pulse.Away(ctx)
	return context.WithValue(ctx, absence{}, waiting{back, time.AfterFunc(acquireMost, back)})
}

// TraceAcquireEnd keeps its end with the connection, if one was given out.
func (a *absences) TraceAcquireEnd(ctx context.Context, _ *pgxpool.Pool, got pgxpool.TraceAcquireEndData) {
	w, ok := ctx.Value(absence{}).(waiting)
	if !ok {
		return
	}
	w.limit.Stop()
	w.back()
	if got.Err == nil && got.Conn != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.back[got.Conn] = pulse.Away(ctx)
	}
}

// TraceRelease ends it.
func (a *absences) TraceRelease(_ *pgxpool.Pool, given pgxpool.TraceReleaseData) {
	a.mu.Lock()
	back := a.back[given.Conn]
	delete(a.back, given.Conn)
	a.mu.Unlock()
	if back != nil {
		back()
	}
}

// TraceQueryStart does nothing: only who traces queries may trace the rest.
func (a *absences) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

// TraceQueryEnd does nothing.
func (a *absences) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
