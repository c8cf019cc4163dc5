package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/digest"
)

// Rehearse runs all that a scan asks of a table over none of its rows: the digest, and the policy's condition and quiet column. Its error is the
// server's, for casts, functions and columns that are not there.
func (s *Source) Rehearse(ctx context.Context, l *Layout) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connecting to the source: %w", err)
	}
	defer conn.Release()
	quiet := "true"
	if l.rules.QuietColumn != "" {
		quiet = l.settledSQL(Settled{Column: l.rules.QuietColumn, Before: "2000-01-01T00:00:00Z"})
	}
	return l.rehearse(ctx, conn.Conn().PgConn(), quiet)
}

// Rehearse runs the digest and the policy's condition over none of the table's rows, on a connection of either side.
func (l *Layout) Rehearse(ctx context.Context, c *pgconn.PgConn) error {
	return l.rehearse(ctx, c, "true")
}

func (l *Layout) rehearse(ctx context.Context, c *pgconn.PgConn, condition string) error {
	if l.condition != "" {
		condition += " AND (" + l.condition + ")"
	}
	return each(ctx, c, "SELECT "+l.digestSQL(digest.Record)+" FROM "+l.rows()+" t WHERE "+condition+" LIMIT 0", nil, func([][]byte) error { return nil })
}
