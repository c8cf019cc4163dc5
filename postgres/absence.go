package postgres

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/telemetry/pulse"
)

// absences tells a loop's monitor that the loop is with the database for as long as it has a connection, or waits for one: a server that is away, or slow, makes
// no loop stuck.
type absences struct {
	mu   sync.Mutex
	back map[*pgx.Conn]func()
}

type absence struct{}

// TraceAcquireStart begins one.
func (a *absences) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	return context.WithValue(ctx, absence{}, pulse.Away(ctx))
}

// TraceAcquireEnd keeps its end with the connection, if one was given out.
func (a *absences) TraceAcquireEnd(ctx context.Context, _ *pgxpool.Pool, got pgxpool.TraceAcquireEndData) {
	back, ok := ctx.Value(absence{}).(func())
	switch {
	case !ok:
	case got.Err != nil || got.Conn == nil:
		back()
	default:
		a.mu.Lock()
		defer a.mu.Unlock()
		a.back[got.Conn] = back
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
