package replica

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/postgres"
)

// Streamable names the columns, as the source does, that a copy into the table has to have, and tells whether it may be in COPY's binary format.
func (r *Replica) Streamable(table string) (columns []string, binary bool, err error) {
	l, err := r.layout(table)
	if err != nil {
		return nil, false, err
	}
	columns, binary = l.Streamable()
	return columns, binary, nil
}

// errHeld rolls a copy back that the brake does not allow.
var errHeld = errors.New("the brake is on")

// Copy writes a range whole that was observed empty: all of it or nothing, in one transaction with its line in the journal.
//
// The guard is the key's own unique index: a row that CDC has brought since makes the copy fail. Before it commits, the sum of what the replica now holds
// is taken and held against that of the source's rows, so a column that stores something else, or a trigger that does, undoes the whole. The outcome's
// entry is the copy's id; with Failed nothing was written, and the rows are to go one by one, which finds those that are at fault.
func (r *Replica) Copy(ctx context.Context, table string, c drift.Copy, kind digest.Kind) (drift.Outcome, error) {
	l, err := r.layout(table)
	if err != nil {
		return drift.Outcome{}, err
	}
	out := drift.Outcome{Result: drift.Written}
	err = pgx.BeginTxFunc(ctx, r.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		conn := tx.Conn().PgConn()
		if err := begin(ctx, conn, l); err != nil {
			return err
		}
		if err := r.opts.Write().set(ctx, conn); err != nil {
			return err
		}
		n, err := l.Load(ctx, conn, postgres.Stream{Columns: c.Columns, Binary: c.Binary, Data: c.Data, Print: c.Print})
		if err != nil {
			return err
		}
		own, xmin, err := l.Own(ctx, conn, c.Range, kind)
		if err != nil {
			return err
		}
		if uint64(n) != c.Print.Rows || own != c.Print {
			return errStoredOtherwise
		}
		out.Entry, err = r.journal.Copied(ctx, tx, table, ledger.Copied{Copy: c, Version: xmin, Undo: l.Undo(c.Range, xmin)})
		if err == nil && out.Entry == 0 {
			return errHeld
		}
		return err
	})
	switch {
	case err == nil:
		return out, nil
	case errors.Is(err, errHeld):
		return drift.Outcome{Result: drift.Held}, nil
	case r.refused(err):
		return drift.Outcome{Result: drift.Failed, Err: err}, nil
	default:
		return drift.Outcome{}, fmt.Errorf("copying into %s: %w", table, err)
	}
}
