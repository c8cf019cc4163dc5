package postgres

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/digest"
)

// Reread reads back what this transaction has written to the table, and digests it here, with the code by which an Exporter digests what it reads. Where the server's sum of these rows is not an
// Exporter's, this tells whether the rows are others or only the sums are computed otherwise. False: only the server can digest them.
func (g *Loading) Reread(ctx context.Context, c *pgconn.PgConn, kind digest.Kind) (print digest.Thumbprint, can bool, err error) {
	l := g.layout
	hash := l.rowHash(g.stream.Columns)
	if kind != digest.Record || !g.stream.Binary || hash == nil {
		return print, false, nil
	}
	columns, err := l.streamed(g.stream.Columns)
	if err != nil {
		return print, false, err
	}
	xid, err := ownXID(ctx, c)
	if err != nil {
		return print, false, err
	}
	s := &exportSplitter{to: io.Discard, binary: true, columns: len(columns), hash: hash}
	sql := "COPY (SELECT t." + strings.Join(columns, ", t.") + " FROM " + l.rows() + " t WHERE t.xmin OPERATOR(pg_catalog.=) '" + xid + "'::pg_catalog.xid) TO STDOUT (FORMAT binary)"
	if _, err := c.CopyTo(ctx, s, sql); err != nil {
		return print, false, err
	}
	if err := s.end(); err != nil {
		return print, false, fmt.Errorf("reading back what was written to %s: %w", l.Name, err)
	}
	return s.print, true, nil
}

// ownXID is the transaction's ID as rows have it in xmin.
func ownXID(ctx context.Context, c *pgconn.PgConn) (xid string, err error) {
	err = each(ctx, c, "SELECT (pg_catalog.pg_current_xact_id()::text::numeric % 4294967296)::text", nil, func(row [][]byte) error {
		xid = string(row[0])
		return nil
	})
	return xid, err
}
