package detector

import (
	"context"
	"fmt"

	"github.com/klauspost/compress/s2"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
)

// Streaming is how a replica wants many rows: as COPY writes them.
type Streaming struct {
	Columns []string // by the source's names
	Binary  bool
	Limit   int // rows; 0 for the publisher's own limit
}

func (s *Streaming) proto() *tricklepb.Stream {
	if s == nil {
		return nil
	}
	return &tricklepb.Stream{Columns: s.Columns, Binary: s.Binary, Limit: uint32(s.Limit)}
}

// Streamed is the beginning of a range as the source streamed it.
type Streamed struct {
	Copy drift.Copy
	// Whole is the thumbprint of all that the source had there, also of what is not settled and therefore not in Copy.
	Whole digest.Thumbprint

	xmin     uint64
	timeline uint32
}

// mostStreamed bounds what a stream may grow to when it is decompressed: many times what a publisher puts into one, but for a single row that is larger.
const mostStreamed = 1 << 30

// streamed reads an answer with a stream in it. The listing names the rows that are not settled.
func streamed(env *tricklepb.Envelope, q Question) (Listing, error) {
	body := env.GetStreamReply()
	size, err := s2.DecodedLen(body.GetData())
	if err == nil && size > mostStreamed {
		err = s2.ErrTooLarge
	}
	if err != nil {
		return Listing{}, fmt.Errorf("%w: a stream of %d bytes: %w", message.ErrMalformed, size, err)
	}
	data, err := s2.Decode(nil, body.GetData())
	if err != nil {
		return Listing{}, fmt.Errorf("%w: a stream: %w", message.ErrMalformed, err)
	}
	l := listing(env, body.GetUnsettled())
	l.Covered, l.More = message.RangeOf(body.GetRange()), body.GetMore()
	print := digest.Thumbprint{Rows: body.GetRows(), Sum: body.GetSum()}
	l.Stream = &Streamed{
		Copy:  drift.Copy{Range: l.Covered, Columns: q.Stream.Columns, Binary: q.Stream.Binary, Data: data, Print: print},
		Whole: print, xmin: body.GetXmin(), timeline: env.GetTimeline(),
	}
	for _, row := range body.GetUnsettled() {
		l.Stream.Whole = l.Stream.Whole.Row(row.GetDigest())
	}
	return l, nil
}

// Agrees asks whether the source, now, still has what it streamed.
func (s *Source) Agrees(ctx context.Context, t Table, was *Streamed) (bool, error) {
	reply, err := s.about(ctx, t, &tricklepb.Envelope{Body: &tricklepb.Envelope_KeyDigestsRequest{KeyDigestsRequest: &tricklepb.KeyDigestsRequest{
		Range: was.Copy.Range.Proto(), Limit: 1, Digest: tricklepb.DigestKind(t.Kind),
		Expected: &tricklepb.Expected{Rows: was.Whole.Rows, Sum: was.Whole.Sum, Xmin: was.xmin, Timeline: was.timeline},
	}}})
	if err != nil {
		return false, err
	}
	return reply.GetKeyDigestsReply().GetEqual(), nil
}
