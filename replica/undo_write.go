package replica

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// errNotAnew refuses what an update can't do where the row can't be deleted and inserted instead.
var errNotAnew = errors.New("the row would have to be deleted and inserted again, and other tables refer to this one")

// guarded is corrections of one table with their rows' keys.
type guarded struct {
	layout *postgres.Layout
	list   []ledger.Recorded
	keys   []message.Key
}

// guard locks the rows and makes sure that each still is what its correction left.
func (u *Undoer) guard(ctx context.Context, tx pgx.Tx, g guarded) error {
	standing, err := g.layout.Standing(ctx, tx.Conn().PgConn(), g.keys, postgres.Keep)
	if err != nil {
		return err
	}
	rows := make([]now, len(g.list))
	for _, s := range standing {
		if rows[s.N].version = s.Version; rows[s.N].image != nil {
			return fmt.Errorf("there are several rows with this key: %w", postgres.ErrChanged)
		}
		if rows[s.N].image, err = ledger.ImageOf(s.JSON); err != nil {
			return err
		}
	}
	for i, c := range g.list {
		if err := undoable(c, rows[i], func() ([]uint64, error) { return u.journal.Left(ctx, tx, c) }); err != nil {
			return err
		}
	}
	return nil
}

// putBack writes what was there before: deletes first, then updates, then inserts, so that unique values are free before they are taken.
func putBack(ctx context.Context, c *pgconn.PgConn, g guarded, w Writing) error {
	anew := len(g.list) > 1
	var away []message.Key
	var set, insert []int
	for i, e := range g.list {
		changed, err := e.Changed()
		if err != nil {
			return err
		}
		switch {
		case e.Before == nil:
			away = append(away, g.keys[i])
		case e.After == nil:
			insert = append(insert, i)
		case len(changed) == 0: // what it changed is no longer a column of both
		case anew || !g.layout.Settable(changed):
			anew = true
			away, insert = append(away, g.keys[i]), append(insert, i)
		default:
			set = append(set, i)
		}
	}
	if anew {
		safe, err := g.layout.Reinsertable(ctx, c)
		if err != nil {
			return err
		}
		if !safe {
			return errNotAnew
		}
	}
	if err := takeAway(ctx, c, g.layout, away, w); err != nil {
		return err
	}
	for _, i := range set {
		changed, err := g.list[i].Changed()
		if err != nil {
			return err
		}
		n, err := g.layout.SetBack(ctx, c, g.keys[i], postgres.Imaged{Columns: changed, JSON: *g.list[i].Before})
		if err != nil {
			return err
		}
		if n != 1 {
			return errKept
		}
	}
	for _, i := range insert {
		before, err := ledger.ImageOf(*g.list[i].Before)
		if err != nil {
			return err
		}
		n, err := g.layout.PutBack(ctx, c, slices.Sorted(maps.Keys(before)), *g.list[i].Before)
		if err != nil {
			return err
		}
		if n != 1 {
			return errKept
		}
	}
	return nil
}

// takeAway deletes rows, and nothing else with them.
func takeAway(ctx context.Context, c *pgconn.PgConn, l *postgres.Layout, keys []message.Key, w Writing) error {
	if len(keys) == 0 {
		return nil
	}
	if w.Role != "replica" {
		targets := make([]postgres.Target, len(keys))
		for i, k := range keys {
			targets[i].Key = k
		}
		key, err := l.Cascades(ctx, c, targets)
		if err != nil {
			return err
		}
		if key != "" {
			return fmt.Errorf("%w: %s", errCascades, key)
		}
	}
	n, err := l.TakeAway(ctx, c, keys)
	if err == nil && n != len(keys) {
		err = errKept
	}
	return err
}

// stored makes sure that the row now is what it was before the correction, but for what Postgres makes by itself; nil: there is none.
func stored(l *postgres.Layout, c ledger.Recorded, row *postgres.Standing) error {
	if c.Before == nil {
		if row != nil {
			return errKept
		}
		return nil
	}
	if row == nil {
		return errKept
	}
	before, err := ledger.ImageOf(*c.Before)
	if err != nil {
		return err
	}
	image, err := ledger.ImageOf(row.JSON)
	if err != nil {
		return err
	}
	if differing := l.Written(before.Differing(image)); len(differing) > 0 {
		return fmt.Errorf("%w; in %s", errKept, strings.Join(differing, ", "))
	}
	return nil
}
