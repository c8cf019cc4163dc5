package scanner

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/postgres"
)

// mostRows bounds the rows of one answer, whatever was asked for.
const mostRows = 20_000

func limit(asked uint32) int {
	if asked == 0 || asked > mostRows {
		return mostRows
	}
	return int(asked)
}

// unstableAfter is how long an answer waits for the source to show what CDC could have delivered.
const unstableAfter = 3 * time.Second

// Answer answers one request of a replica. What can't be answered becomes an ErrorReply that says why.
func (s *Scanner) Answer(ctx context.Context, req *tricklepb.Envelope) *tricklepb.Envelope {
	reply, err := s.answer(ctx, req)
	if errors.Is(err, postgres.ErrChanged) {
		s.forget(req.GetTable())
		reply, err = s.answer(ctx, req)
	}
	if err == nil {
		return reply
	}
	refusal := &tricklepb.ErrorReply{Code: tricklepb.ErrorCode_ERROR_CODE_FAILED, Reason: err.Error()}
	var unknown *unknownTableError
	var unfenced *postgres.UnfencedError
	switch {
	case errors.Is(err, postgres.ErrUnstable):
		refusal.Code = tricklepb.ErrorCode_ERROR_CODE_UNSTABLE
	case errors.As(err, &unfenced):
		refusal.Code = tricklepb.ErrorCode_ERROR_CODE_UNFENCED
	case errors.As(err, &unknown):
		refusal.Code = tricklepb.ErrorCode_ERROR_CODE_UNKNOWN_TABLE
	case lasting(err):
		refusal.Code = tricklepb.ErrorCode_ERROR_CODE_REFUSED
	}
	return &tricklepb.Envelope{Source: s.Identity.String(), Table: req.GetTable(), Body: &tricklepb.Envelope_ErrorReply{ErrorReply: refusal}}
}

// lasting tells an error about the table or the question from one about the connection, the server or a lock, which passes.
func lasting(err error) bool {
	var mismatch *postgres.MismatchError
	var noKey *postgres.NoKeyError
	if errors.As(err, &mismatch) || errors.As(err, &noKey) || errors.Is(err, postgres.ErrNoTable) || errors.Is(err, postgres.ErrChanged) {
		return true
	}
	state := postgres.State(err)
	return strings.HasPrefix(state, "42") || strings.HasPrefix(state, "22")
}

func (s *Scanner) answer(ctx context.Context, req *tricklepb.Envelope) (*tricklepb.Envelope, error) {
	if hello := req.GetHelloRequest(); hello != nil {
		return s.hello(ctx, req.GetTable(), hello)
	}
	// The horizon is taken first: it must cover all that the asker's replica had been delivered when it was observed.
	horizon, err := s.Source.Fence(ctx)
	if err != nil {
		return nil, err
	}
	t, err := s.table(ctx, req.GetTable())
	if err != nil {
		return nil, err
	}
	var reply *tricklepb.Envelope
	err = s.Source.Refetch(ctx, t.layout, postgres.Fenced{Horizon: horizon, Bound: unstableAfter}, func(c *pgconn.PgConn, at postgres.At) error {
		reply = s.envelope(t, at)
		return s.body(ctx, c, t, request{req, reply, at})
	})
	return reply, err
}

// request is one that is being answered from a read of the source.
type request struct {
	req, reply *tricklepb.Envelope
	at         postgres.At
}

func (s *Scanner) body(ctx context.Context, c *pgconn.PgConn, t *table, r request) error {
	switch b := r.req.GetBody().(type) {
	case *tricklepb.Envelope_KeyDigestsRequest:
		return s.keyDigests(ctx, c, t, r)
	case *tricklepb.Envelope_RefetchRequest:
		q := b.RefetchRequest
		rows, err := t.layout.Rows(ctx, c, message.KeysOf(q.GetKeys()), postgres.Want{
			Digest: digest.Kind(q.GetDigest()), Settled: s.settled(r.at, timeOf(q.GetSettledBefore())), Values: !q.GetDigestsOnly(),
		})
		if err != nil {
			return err
		}
		r.reply.Body = &tricklepb.Envelope_RowsReply{RowsReply: &tricklepb.RowsReply{Columns: t.layout.ColumnNames(), Rows: wires(rows)}}
		return nil
	case *tricklepb.Envelope_CopyRequest:
		return s.copies(ctx, c, t, r)
	case *tricklepb.Envelope_BoundariesRequest:
		return s.boundaries(ctx, c, t, r)
	default:
		return errors.New("the request asks for nothing that this publisher knows: is the detector newer than the publisher?")
	}
}

func (s *Scanner) keyDigests(ctx context.Context, c *pgconn.PgConn, t *table, r request) error {
	q := r.req.GetKeyDigestsRequest()
	rng, kind := message.RangeOf(q.GetRange()), digest.Kind(q.GetDigest())
	body := &tricklepb.KeyDigestsReply{Range: rng.Proto()}
	r.reply.Body = &tricklepb.Envelope_KeyDigestsReply{KeyDigestsReply: body}
	if kind == digest.Portable { // it may have told another publisher, or this one before a restart
		s.wantPortable(r.req.GetTable())
	}
	if e := q.GetExpected(); e != nil {
		expected := digest.Thumbprint{Rows: e.GetRows(), Sum: e.GetSum()}
		o := postgres.ScanOptions{Digest: kind, Everything: true}
		if e.GetTimeline() != 0 && e.GetTimeline() == r.at.Timeline { // on another one, transactions may have other ids
			o.Known = &postgres.Known{Print: expected, Xmin: e.GetXmin()}
		}
		scan, err := t.layout.Scan(ctx, c, rng, o)
		if err != nil {
			return err
		}
		if scan.Print == expected {
			body.Equal = true
			return nil
		}
	}
	page, err := t.layout.Range(ctx, c, rng, limit(q.GetLimit()), postgres.Want{Digest: kind, Settled: s.settled(r.at, timeOf(q.GetSettledBefore()))})
	if err != nil {
		return err
	}
	body.Range, body.Rows, body.More = page.Covered.Proto(), wires(page.Rows), page.More
	return nil
}

// hello describes a table anew, so that a replica never fits itself to what was.
func (s *Scanner) hello(ctx context.Context, name string, h *tricklepb.HelloRequest) (*tricklepb.Envelope, error) {
	s.forget(name)
	t, err := s.table(ctx, name)
	if err != nil {
		return nil, err
	}
	if h.GetPortable() {
		s.wantPortable(name)
	}
	var reply *tricklepb.Envelope
	err = s.Source.Read(ctx, t.layout, func(_ *pgconn.PgConn, at postgres.At) error {
		reply = s.envelope(t, at)
		reply.Body = &tricklepb.Envelope_HelloReply{HelloReply: &tricklepb.HelloReply{Schema: t.layout.Schema, Digest: tricklepb.DigestKind(s.Kind(name))}}
		return nil
	})
	return reply, err
}

func wires(rows []postgres.Row) []*tricklepb.Row {
	out := make([]*tricklepb.Row, len(rows))
	for i, row := range rows {
		out[i] = wire(row)
	}
	return out
}

func timeOf(ts *timestamppb.Timestamp) time.Time {
	if ts == nil {
		return time.Time{}
	}
	return ts.AsTime()
}
