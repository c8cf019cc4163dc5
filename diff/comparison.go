package diff

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

const (
	// rangeRows is about how many rows a range of the key has. Small ranges cost little where many are read by one statement, and a row that
	// differs makes so many be listed.
	rangeRows = 1000
	// mostRanges bounds the boundaries that are held in memory; the ranges of larger tables are larger.
	mostRanges = 20_000
	// batchRanges is how many ranges one statement reads.
	batchRanges = 100
	// followsKey is the order of a heap from which on reading along the key is the cheaper way: that costs 1.1 times one scan where the heap follows
	// the key and 2.6 times where it does not at all; sums by bucket cost 1.4 times in any case.
	followsKey = 0.8
)

// comparison is one attempt at one table.
type comparison struct {
	differ *Differ
	sides  [2]*side // source, replica
	kind   digest.Kind
	// reported: something left this comparison, so it can't begin anew as if nothing had happened.
	reported bool
	suspects *settler
	fixing   sync.Mutex

	mu     sync.Mutex
	result Result
	found  []Wrong         // not handed on yet
	ranges []message.Range // that differ, and are not listed yet
}

// run compares the table in one snapshot of each side.
func (c *comparison) run(ctx context.Context) error {
	d := c.differ
	c.sides = [2]*side{{role: "source", pool: d.source}, {role: "replica", pool: d.replica}}
	d.opts.Progress.begin(c.result.Table.Source.String())
	if err := c.describe(ctx); err != nil {
		return err
	}
	defer c.close()
	err := c.both(ctx, func(ctx context.Context, s *side) (err error) {
		s.snapshot, err = postgres.OpenSnapshot(ctx, s.pool, s.layout, postgres.SnapshotOptions{Connections: d.opts.Jobs})
		return err
	})
	if err != nil {
		return err
	}
	if d.opts.Settle > 0 && c.sides[0].snapshot.At.Standby {
		c.result.Notes = append(c.result.Notes, "the source is a standby: what it has not replayed yet looks like a row that only the replica has, or that differs there; a settling time longer than the standby is behind, or the primary as the source, avoids that")
	}
	p, err := c.plan(ctx)
	if err != nil {
		return err
	}
	c.result.Way = p.way
	d.opts.Progress.expect(p.rows)
	outer := ctx
	g, ctx := errgroup.WithContext(ctx)
	c.suspects = newSettler(c)
	g.Go(func() error { return c.suspects.run(ctx) })
	g.Go(func() error {
		defer c.suspects.close()
		if err := c.read(ctx, p); err != nil {
			return err
		}
		return c.rest(ctx)
	})
	if err := g.Wait(); err != nil {
		return err
	}
	return c.both(outer, func(ctx context.Context, s *side) error { return s.snapshot.Unchanged(ctx) })
}

// read sums up both sides and finds the keys that differ.
func (c *comparison) read(ctx context.Context, p plan) error {
	if p.way == postgres.ByKey {
		return c.byKey(ctx, p.ranges)
	}
	return c.byHeap(ctx, p)
}

func (c *comparison) close() {
	for _, s := range c.sides {
		if s.snapshot != nil {
			s.snapshot.Close()
		}
	}
}

// both runs fn for both sides at once and waits for both.
func (c *comparison) both(ctx context.Context, fn func(context.Context, *side) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range c.sides {
		g.Go(func() error { return s.on(fn(ctx, s)) })
	}
	return g.Wait()
}

// do runs fn on a connection of the side's snapshot.
func (s *side) do(ctx context.Context, fn func(c *pgconn.PgConn) error) error {
	return s.snapshot.Do(ctx, fn)
}

// plan is how a table will be read.
type plan struct {
	way    postgres.Way
	ranges []message.Range // by key
	rows   int64           // of both sides, estimated
	sample [2]postgres.Sample
}

// plan looks at how both tables lie on disk.
func (c *comparison) plan(ctx context.Context) (plan, error) {
	var p plan
	var ordered [2]bool
	err := c.both(ctx, func(ctx context.Context, s *side) error {
		i := c.index(s)
		return s.do(ctx, func(conn *pgconn.PgConn) (err error) {
			if ordered[i], err = s.layout.Ordered(ctx, conn); err != nil {
				return err
			}
			p.sample[i], err = s.layout.Sample(ctx, conn, rangeRows, mostRanges)
			return err
		})
	})
	if err != nil {
		return p, err
	}
	a, b := p.sample[0], p.sample[1]
	p.rows = a.Rows + b.Rows
	if ordered[0] && ordered[1] && min(a.Order, b.Order) >= followsKey {
		p.way = postgres.ByKey
		keys := a.Keys
		if len(b.Keys) > len(keys) {
			keys = b.Keys
		}
		p.ranges = between(keys)
	}
	return p, c.both(ctx, func(ctx context.Context, s *side) error { return s.snapshot.Prepare(ctx, p.way) })
}

func (c *comparison) index(s *side) int {
	if s == c.sides[0] {
		return 0
	}
	return 1
}

// between makes ranges that cover everything, cut at the keys.
func between(keys []message.Key) []message.Range {
	ranges := []message.Range{{}}
	for _, k := range keys {
		ranges[len(ranges)-1].Hi = k
		ranges = append(ranges, message.Range{Lo: k})
	}
	return ranges
}

// byKey sums ranges, a few statements ahead on either side, and lists those that differ.
func (c *comparison) byKey(ctx context.Context, ranges []message.Range) error {
	g, within := errgroup.WithContext(ctx)
	g.SetLimit(2 * c.differ.opts.Jobs)
	for start := 0; start < len(ranges) && within.Err() == nil; start += batchRanges {
		batch := ranges[start:min(start+batchRanges, len(ranges))]
		g.Go(func() error { return c.compareRanges(within, batch) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err // stopped between two batches, with none under way that would tell
	}
	return c.listMany(ctx, nil, 1)
}

func (c *comparison) compareRanges(ctx context.Context, ranges []message.Range) error {
	var sums [2][]digest.Thumbprint
	err := c.both(ctx, func(ctx context.Context, s *side) error {
		return s.do(ctx, func(conn *pgconn.PgConn) (err error) {
			sums[c.index(s)], err = s.layout.Sums(ctx, conn, ranges, c.kind)
			return err
		})
	})
	if err != nil {
		return err
	}
	var differ []message.Range
	for i, r := range ranges {
		if !c.settled(sums[0][i], sums[1][i]) {
			differ = append(differ, r)
		}
		c.differ.opts.Progress.read(sums[0][i].Rows + sums[1][i].Rows)
	}
	// A range without an end is listed by itself, and the others in one statement.
	inner := differ
	if len(inner) > 0 && inner[0].Lo == nil {
		if err := c.list(ctx, postgres.Part{Ranges: inner[:1]}); err != nil {
			return err
		}
		inner = inner[1:]
	}
	if n := len(inner); n > 0 && inner[n-1].Hi == nil {
		if err := c.list(ctx, postgres.Part{Ranges: inner[n-1:]}); err != nil {
			return err
		}
		inner = inner[:n-1]
	}
	return c.listMany(ctx, inner, batchRanges)
}

// listMany gathers ranges that differ and lists them once there are so many. A list wants both sides at the same time, and would make one wait for what
// the other is summing.
func (c *comparison) listMany(ctx context.Context, differ []message.Range, least int) error {
	c.mu.Lock()
	c.ranges = append(c.ranges, differ...)
	if len(c.ranges) < least || len(c.ranges) == 0 {
		c.mu.Unlock()
		return nil
	}
	differ, c.ranges = c.ranges, nil
	c.mu.Unlock()
	return c.list(ctx, postgres.Part{Ranges: differ})
}

// settled counts a part's rows and tells whether nothing of it needs to be listed: it is the same on both sides, or empty on one and only counted.
func (c *comparison) settled(source, replica digest.Thumbprint) bool {
	c.mu.Lock()
	c.result.Rows += int64(source.Rows)
	c.mu.Unlock()
	switch {
	case source == replica:
		return true
	case c.keysWanted():
		return false
	case replica.Rows == 0:
		c.count(drift.Missing, int64(source.Rows))
		return true
	case source.Rows == 0:
		c.count(drift.Extra, int64(replica.Rows))
		return true
	default:
		return false
	}
}

// keysWanted tells whether differences are more than counted.
func (c *comparison) keysWanted() bool {
	o := c.differ.opts
	return o.Settle > 0 || o.Fixer != nil || c.listWanted()
}

// listWanted asks whoever lists, never while he is told something.
func (c *comparison) listWanted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.differ.opts.List()
}

func (c *comparison) count(kind drift.Kind, rows int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.result.count(kind, rows)
	c.differ.opts.Progress.differ(rows)
}
