package diff

import (
	"bytes"
	"context"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// differing takes keys that differ in the snapshots, and hands them on many at once.
func (c *comparison) differing(ctx context.Context, found []Wrong) error {
	c.mu.Lock()
	c.found = append(c.found, found...)
	if len(c.found) < candidates {
		c.mu.Unlock()
		return nil
	}
	found, c.found = c.found, nil
	c.mu.Unlock()
	return c.hand(ctx, found)
}

// rest hands on what has gathered by the end.
func (c *comparison) rest(ctx context.Context) error {
	c.mu.Lock()
	found := c.found
	c.found = nil
	c.mu.Unlock()
	return c.hand(ctx, found)
}

func (c *comparison) hand(ctx context.Context, found []Wrong) error {
	if len(found) == 0 {
		return nil
	}
	if c.differ.opts.Settle > 0 {
		return c.suspects.add(ctx, keysOf(found))
	}
	return c.proven(ctx, found)
}

// proven counts differences, lists them, and has them fixed.
func (c *comparison) proven(ctx context.Context, found []Wrong) error {
	if len(found) == 0 {
		return nil
	}
	for _, f := range found {
		c.count(f.Kind, 1)
	}
	if c.listWanted() {
		c.mark()
		if err := c.detail(ctx, found); err != nil {
			return err
		}
	}
	if c.differ.opts.Fixer == nil {
		return nil
	}
	c.fixing.Lock() // one after the other: journal, brake and the rows' own order are one line anyway
	defer c.fixing.Unlock()
	c.mark()
	fixed, err := c.differ.opts.Fixer.Fix(ctx, c.result.Table, found)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.result.Fixed += int64(fixed.Rows)
	for reason, n := range fixed.Unfixed {
		if c.result.Unfixed == nil {
			c.result.Unfixed = make(map[string]int64)
		}
		if _, known := c.result.Unfixed[reason]; !known && len(c.result.Unfixed) >= mostReasons {
			reason = "other reasons"
		}
		c.result.Unfixed[reason] += n
	}
	return err
}

// mostReasons bounds the reasons that are told apart: a server's message may hold a value, and so be another for each row.
const mostReasons = 20

// mark notes that something left this comparison.
func (c *comparison) mark() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reported = true
}

func keysOf(found []Wrong) []message.Key {
	keys := make([]message.Key, len(found))
	for i, f := range found {
		keys[i] = f.Key
	}
	return keys
}

// detail reads both sides' rows and tells what differs in them.
func (c *comparison) detail(ctx context.Context, found []Wrong) error {
	most := len(found) // at once: where rows are large, a server would send many of them in vain
	for len(found) > 0 && c.listWanted() {
		asked := found[:min(most, len(found))]
		var rows [2][]postgres.Detail
		for i, s := range c.sides {
			err := c.lookup(s)(ctx, func(conn *pgconn.PgConn) (err error) {
				rows[i], err = s.layout.Details(ctx, conn, keysOf(asked), postgres.Want{Digest: c.kind})
				return err
			})
			if err != nil {
				return s.on(err)
			}
		}
		n := min(len(rows[0]), len(rows[1])) // fewer than asked for where rows are large
		for i, f := range found[:n] {
			if err := c.tell(f, rows[0][i], rows[1][i]); err != nil {
				return err
			}
		}
		if found = found[n:]; n < len(asked) {
			most = 2 * n
		}
	}
	return nil
}

// lookup reads a side's rows as they were when they were found to differ: in the snapshot, or just now.
func (c *comparison) lookup(s *side) func(context.Context, func(*pgconn.PgConn) error) error {
	if c.differ.opts.Settle == 0 {
		return s.snapshot.Aside
	}
	return func(ctx context.Context, fn func(*pgconn.PgConn) error) error {
		if err := c.suspects.enter(ctx); err != nil {
			return err
		}
		defer c.suspects.leave()
		return s.borrow(ctx, fn)
	}
}

// tell hands one difference to whoever lists them.
func (c *comparison) tell(f Wrong, source, replica postgres.Detail) error {
	layout := c.sides[0].layout
	d := Difference{Kind: f.Kind}
	for i, name := range layout.Schema.GetKey() {
		d.Key = append(d.Key, Field{name, f.Key[i]})
	}
	if f.Kind == drift.Mismatched && source.Present && replica.Present {
		names := layout.ColumnNames()
		differs := func(i int) bool {
			return source.Digests[i] != replica.Digests[i] || (source.Values[i] == nil) != (replica.Values[i] == nil)
		}
		some := false
		for i := range names {
			some = some || differs(i)
		}
		for i, name := range names {
			// Where no column's own digest differs, how they are written is all there is to show.
			if some && differs(i) || !some && !bytes.Equal(source.Values[i], replica.Values[i]) {
				d.Columns = append(d.Columns, Column{name, source.Values[i], replica.Values[i]})
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.differ.opts.List() {
		return nil
	}
	return c.differ.opts.Found(c.result.Table, d)
}
