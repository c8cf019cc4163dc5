package postgres

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
)

// Detail is a row column by column.
type Detail struct {
	Row
	// Digests has one for each of Values, so that a column that differs can be told from one that is only written otherwise; 0 for NULL.
	Digests []uint64
}

// Details reads rows by key, as Rows does with values, and each column's own digest. A row that is Present has both.
func (l *Layout) Details(ctx context.Context, c *pgconn.PgConn, keys []message.Key, w Want) ([]Detail, error) {
	w.Values = true
	rows, err := l.Rows(ctx, c, keys, w)
	if err != nil {
		return nil, err
	}
	out := make([]Detail, len(rows)) // fewer than keys where they are large
	for i, row := range rows {
		out[i].Row = row
	}
	p := &params{}
	from, on := l.unnest(p, keys[:len(rows)])
	sql := "SELECT v.n"
	for n, i := range l.compared {
		wire := l.Schema.GetColumns()[n]
		expr := l.compareExpr(l.Columns[i], wire)
		if w.Digest == digest.Portable {
			sql += ", " + portableHash([]string{l.portableExpr(expr, wire.GetType())})
		} else {
			sql += ", " + l.recordSQL([]element{{expr: expr, typ: l.hashedAs(wire)}}, keySeed)
		}
	}
	err = each(ctx, c, sql+" FROM "+from+" JOIN "+l.rows()+" t ON "+on, p.args, func(raw [][]byte) error {
		n, err := strconv.Atoi(string(raw[0]))
		if err != nil || n < 1 || n > len(out) {
			return fmt.Errorf("reading a position: %q", raw[0])
		}
		out[n-1].Digests = make([]uint64, len(raw)-1)
		for i, v := range raw[1:] {
			d, err := strconv.ParseInt(string(v), 10, 64)
			if err != nil {
				return fmt.Errorf("reading a column digest: %w", err)
			}
			out[n-1].Digests[i] = uint64(d)
		}
		return nil
	})
	for i := range out {
		// Outside of a snapshot a row may come or go between the two statements.
		out[i].Present = out[i].Present && out[i].Digests != nil
	}
	return out, err
}
