package cdc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

const markPrefix = "trickle-testbed"

// Barrier returns once the sink has applied everything that was committed at the source before the call.
func Barrier(ctx context.Context, sourceDSN string, sink *Sink) error {
	mark := rand.Text()
	conn, err := pgx.Connect(ctx, sourceDSN)
	if err != nil {
		return fmt.Errorf("cdc barrier: %w", err)
	}
	_, err = conn.Exec(ctx, `SELECT pg_logical_emit_message(true, $1, $2::text)`, markPrefix, mark)
	if err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))); err != nil {
		return fmt.Errorf("cdc barrier: %w", err)
	}
	return sink.awaitMark(ctx, mark)
}

func (s *Sink) awaitMark(ctx context.Context, mark string) error {
	for {
		s.mu.Lock()
		_, seen := s.marks[mark]
		delete(s.marks, mark)
		change, stuck := s.change, s.err
		s.mu.Unlock()
		if seen {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cdc barrier: the sink has not come so far: %w", errors.Join(ctx.Err(), stuck))
		case <-change:
		}
	}
}
