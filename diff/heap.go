package diff

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/postgres"
)

const (
	// bucketRows is about how many rows a bucket has.
	bucketRows = 1000
	// A hash aggregate of this many groups fits into the memory that a snapshot's transactions are given.
	leastBuckets, mostBuckets = 64, 1 << 16
	// chunkRows is the least number of rows for each bucket that one statement should see: each statement returns every bucket once.
	chunkRows = 128
	// mostChunks bounds the statements for one table.
	mostChunks = 1000
)

// byHeap reads each side from its first block to its last with sums by bucket, then lists the buckets that differ.
func (c *comparison) byHeap(ctx context.Context, p plan) error {
	rows := max(p.sample[0].Rows, p.sample[1].Rows)
	buckets := int64(leastBuckets)
	for buckets < rows/bucketRows && buckets < mostBuckets {
		buckets *= 2
	}
	var sums [2][]digest.Thumbprint
	err := c.both(ctx, func(ctx context.Context, s *side) (err error) {
		i := c.index(s)
		sums[i], err = c.sumHeap(ctx, s, buckets-1, chunks(p.sample[i], buckets))
		return err
	})
	if err != nil {
		return err
	}
	var differ []int64
	for b := range buckets {
		if !c.settled(sums[0][b], sums[1][b]) {
			differ = append(differ, b)
		}
	}
	if len(differ) == 0 {
		return nil
	}
	return c.list(ctx, postgres.Part{Mask: buckets - 1, Buckets: differ})
}

// chunks cuts a heap into parts that one statement reads each; the last goes on to whatever the end is.
func chunks(s postgres.Sample, buckets int64) []postgres.Buckets {
	n := min(max(s.Rows/(buckets*chunkRows), 1), mostChunks, max(s.Blocks, 1))
	if n == 1 {
		return []postgres.Buckets{{}}
	}
	out := make([]postgres.Buckets, n)
	for i := range n {
		out[i].From, out[i].To = s.Blocks*i/n, s.Blocks*(i+1)/n
	}
	out[n-1].To = lastBlock
	return out
}

// lastBlock is the greatest number that a block can have.
const lastBlock = 1<<32 - 1

// sumHeap adds up a side's chunks, as many at once as it has connections.
func (c *comparison) sumHeap(ctx context.Context, s *side, mask int64, parts []postgres.Buckets) ([]digest.Thumbprint, error) {
	total := make([]digest.Thumbprint, mask+1)
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(s.snapshot.Connections())
	for _, part := range parts {
		part.Mask = mask
		g.Go(func() error {
			return s.do(ctx, func(conn *pgconn.PgConn) error {
				sums, err := s.layout.SumBuckets(ctx, conn, part, c.kind)
				mu.Lock()
				defer mu.Unlock()
				rows := uint64(0)
				for b, sum := range sums {
					total[b] = total[b].Add(sum)
					rows += sum.Rows
				}
				c.differ.opts.Progress.read(rows)
				return err
			})
		})
	}
	return total, g.Wait()
}
