package scanner

import (
	"context"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/klauspost/compress/s2"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/postgres"
)

// What one stream holds at most.
const (
	mostStreamed  = 200_000  // rows
	streamedBytes = 16 << 20 // before they are compressed
)

// copies answers with a range's rows: few of them one by one, more of them as a stream where the asker can take one.
func (s *Scanner) copies(ctx context.Context, c *pgconn.PgConn, t *table, r request) error {
	q := r.req.GetCopyRequest()
	rng := message.RangeOf(q.GetRange())
	if how := q.GetStream(); how != nil {
		more, err := t.layout.More(ctx, c, rng, limit(q.GetLimit()))
		if err != nil {
			return err
		}
		if more {
			return s.stream(ctx, c, t, r)
		}
	}
	page, err := t.layout.Range(ctx, c, rng, limit(q.GetLimit()), postgres.Want{
		Digest: digest.Kind(q.GetDigest()), Settled: s.settled(r.at, timeOf(q.GetSettledBefore())), Values: true,
	})
	if err != nil {
		return err
	}
	r.reply.Body = &tricklepb.Envelope_RowsReply{RowsReply: &tricklepb.RowsReply{
		Range: page.Covered.Proto(), Columns: t.layout.ColumnNames(), Rows: wires(page.Rows), More: page.More,
	}}
	return nil
}

func (s *Scanner) stream(ctx context.Context, c *pgconn.PgConn, t *table, r request) error {
	q := r.req.GetCopyRequest()
	rows := int(q.GetStream().GetLimit())
	if rows == 0 || rows > mostStreamed {
		rows = mostStreamed
	}
	out, err := t.layout.Stream(ctx, c, message.RangeOf(q.GetRange()), postgres.StreamWant{
		Columns: q.GetStream().GetColumns(), Binary: q.GetStream().GetBinary(), Digest: digest.Kind(q.GetDigest()),
		Settled: s.settled(r.at, timeOf(q.GetSettledBefore())), Rows: rows, Bytes: streamedBytes,
	})
	if err != nil {
		return err
	}
	r.reply.Body = &tricklepb.Envelope_StreamReply{StreamReply: &tricklepb.StreamReply{
		Range: out.Covered.Proto(), More: out.More, Data: s2.Encode(nil, out.Data), Rows: out.Print.Rows, Sum: out.Print.Sum,
		Unsettled: wires(out.Unsettled), Xmin: r.at.Xmin,
	}}
	return nil
}

// boundaries cuts a range: by a sample where it is a whole large table and the asker wants pieces of some size, else row by row.
func (s *Scanner) boundaries(ctx context.Context, c *pgconn.PgConn, t *table, r request) error {
	q := r.req.GetBoundariesRequest()
	rng := message.RangeOf(q.GetRange())
	var keys []message.Key
	var err error
	if q.GetBytes() > 0 && rng.Lo == nil && rng.Hi == nil {
		keys, err = t.layout.Pieces(ctx, c, int(min(q.GetBytes(), streamedBytes)))
	}
	if err == nil && len(keys) == 0 {
		keys, err = t.layout.Boundaries(ctx, c, rng, max(1, int(q.GetRows())))
	}
	if err != nil {
		return err
	}
	r.reply.Body = &tricklepb.Envelope_BoundariesReply{BoundariesReply: &tricklepb.BoundariesReply{Keys: message.Keys(keys)}}
	return nil
}
