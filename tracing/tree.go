package tracing

import (
	"context"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// Attributes.
const (
	tableKey    = attribute.Key("trickle.table")
	kindKey     = attribute.Key("trickle.kind")
	rowKey      = attribute.Key("trickle.key")
	columnsKey  = attribute.Key("trickle.columns")
	lagKey      = attribute.Key("trickle.lag_seconds")
	attemptsKey = attribute.Key("trickle.attempts")
	lsnKey      = attribute.Key("trickle.source.lsn")
	entryKey    = attribute.Key("trickle.correction")
	outcomeKey  = attribute.Key("trickle.outcome")
	resumedKey  = attribute.Key("trickle.resumed")
	rowsKey     = attribute.Key("trickle.rows")
	suspectsKey = attribute.Key("trickle.suspects")
	messageKey  = attribute.Key("trickle.message")
	equalKey    = attribute.Key("trickle.equal")
	resyncKey   = attribute.Key("trickle.resync")
	scopeKey    = attribute.Key("trickle.resync.scope")
	reasonKey   = attribute.Key("trickle.resync.reason")
	viaKey      = attribute.Key("trickle.resync.via")
	pieceKey    = attribute.Key("trickle.resync.range")
	differKey   = attribute.Key("trickle.rows.differing")
	writtenKey  = attribute.Key("trickle.rows.corrected")
	requestKey  = attribute.Key("trickle.request")
	operation   = attribute.Key("messaging.operation.type")
)

// Corrected is a correction that was closed.
type Corrected struct {
	Trace    trace.TraceID
	Way      Way
	Writes   []Stretch // one for each round
	Confirm  Stretch
	Table    string
	Kind     string
	Key      string   // as the policy lets it be shown; empty: not at all
	Columns  []string // that differed
	Entry    int64    // in the journal
	Outcome  string
	Resumed  bool // by somebody else than who wrote it
	Rewrites int  // rounds after the first
}

// Corrected makes the consumer's spans of a correction:
//
//	receive            from publish; the root where the publisher makes no spans
//	├─ mismatch
//	└─ correct         the root where nothing is remembered of a message
//	   ├─ observe
//	   ├─ refetch
//	   ├─ write        one for each round
//	   └─ confirm      from which the publisher's answer hangs
func (s *Spans) Corrected(ctx context.Context, c Corrected) {
	if s == nil {
		return
	}
	w := c.Way
	columns := columnsKey.StringSlice(c.Columns)
	about := []attribute.KeyValue{
		tableKey.String(c.Table), kindKey.String(c.Kind), attemptsKey.Int(w.Attempts + max(1, len(c.Writes))), entryKey.Int64(c.Entry), outcomeKey.String(c.Outcome),
	}
	if c.Key != "" {
		about = append(about, rowKey.String(c.Key))
	}
	if len(c.Columns) > 0 {
		about = append(about, columns)
	}
	if w.Lag >= 0 && !w.Refetch.IsZero() {
		about = append(about, lagKey.Float64(w.Lag.Seconds()))
	}
	if c.Resumed {
		about = append(about, resumedKey.Bool(true))
	}
	parent := ""
	if !w.Receive.IsZero() {
		parent = receive
		of := ""
		if !w.Scanned.Scan.IsZero() {
			of = publish
		}
		s.emit(ctx, c.Trace, span{name: receive, parent: of, remote: true, kind: trace.SpanKindConsumer, took: w.Receive, link: w.Picked, about: []attribute.KeyValue{
			tableKey.String(c.Table), messageKey.String(w.Message), operation.String("process"),
		}})
		differ := []attribute.KeyValue{tableKey.String(c.Table), kindKey.String(c.Kind), suspectsKey.Int(w.Suspects)}
		if len(c.Columns) > 0 {
			differ = append(differ, columns)
		}
		s.emit(ctx, c.Trace, span{name: mismatch, parent: receive, took: w.Mismatch, about: differ})
	}
	end := c.Confirm.End
	begin := w.Observe.Begin
	if begin.IsZero() && len(c.Writes) > 0 {
		begin = c.Writes[0].Begin
	}
	s.emit(ctx, c.Trace, span{name: correct, parent: parent, took: Stretch{begin, end}, about: about})
	if !w.Observe.IsZero() {
		s.emit(ctx, c.Trace, span{name: observe, parent: correct, took: w.Observe})
	}
	if !w.Refetch.IsZero() {
		s.emit(ctx, c.Trace, span{name: refetch, parent: correct, kind: trace.SpanKindClient, took: w.Refetch, about: []attribute.KeyValue{lsn(w.LSN)}})
	}
	for i, took := range c.Writes {
		place := write
		if i > 0 {
			place += " " + strconv.Itoa(i+1)
		}
		s.emit(ctx, c.Trace, span{name: write, place: place, parent: correct, took: took, about: []attribute.KeyValue{entryKey.Int64(c.Entry)}})
	}
	s.emit(ctx, c.Trace, span{name: confirm, parent: correct, kind: trace.SpanKindClient, took: c.Confirm, about: []attribute.KeyValue{outcomeKey.String(c.Outcome)}})
}

// lsn is a position of the source's log as Postgres writes it.
func lsn(n uint64) attribute.KeyValue {
	return lsnKey.String(strconv.FormatUint(n>>32, 16) + "/" + strconv.FormatUint(n&0xffffffff, 16))
}

// Published makes the publisher's spans of a range that it picked.
func (s *Spans) Published(ctx context.Context, picked trace.TraceID, table string, of Scanned) {
	if s == nil || !picked.IsValid() {
		return
	}
	s.emit(ctx, picked, span{name: scan, took: of.Scan, about: []attribute.KeyValue{tableKey.String(table), rowsKey.Int64(int64(of.Rows)), lsn(of.LSN)}})
	s.emit(ctx, picked, span{name: publish, parent: scan, kind: trace.SpanKindProducer, took: of.Publish, about: []attribute.KeyValue{tableKey.String(table), operation.String("send")}})
}

// Compared is a range that the publisher picked, as the consumer found it.
type Compared struct {
	Picked   trace.SpanContext
	Receive  Stretch
	Mismatch Stretch // zero: both sides had the same
	Table    string
	Message  string
	Equal    bool
	Suspects int
}

// Compared makes the consumer's spans of such a range.
func (s *Spans) Compared(ctx context.Context, c Compared) {
	if s == nil || !c.Picked.IsValid() {
		return
	}
	id := c.Picked.TraceID()
	s.emit(ctx, id, span{name: receive, parent: publish, remote: true, kind: trace.SpanKindConsumer, took: c.Receive, about: []attribute.KeyValue{
		tableKey.String(c.Table), messageKey.String(c.Message), equalKey.Bool(c.Equal), operation.String("process"),
	}})
	if !c.Mismatch.IsZero() {
		s.emit(ctx, id, span{name: mismatch, parent: receive, took: c.Mismatch, about: []attribute.KeyValue{tableKey.String(c.Table), suspectsKey.Int(c.Suspects)}})
	}
}

// Mismatching is the context in which questions about such a range are asked.
func (s *Spans) Mismatching(ctx context.Context, picked trace.SpanContext) context.Context {
	if s == nil || !picked.IsValid() {
		return ctx
	}
	return trace.ContextWithSpanContext(ctx, at(picked.TraceID(), mismatch, false))
}

// Answered is a question that the publisher answered.
type Answered struct {
	ID      string // of the request
	Request string // what was asked for
	Table   string
	Took    Stretch
	LSN     uint64
}

// Answered makes the publisher's spans of a question by the headers it came with: its answer, and where it confirms corrections the scan and the message that
// each began with.
func (s *Spans) Answered(ctx context.Context, headers map[string]string, a Answered) {
	if s == nil {
		return
	}
	about := []attribute.KeyValue{tableKey.String(a.Table), requestKey.String(a.Request)}
	if a.LSN != 0 {
		about = append(about, lsn(a.LSN))
	}
	for _, c := range confirming(headers[correctionsHeader]) {
		if !c.Scanned.Scan.IsZero() {
			s.Published(ctx, c.Trace, a.Table, c.Scanned)
		}
		s.emit(ctx, c.Trace, span{name: answer, place: answer + " " + a.ID, parent: confirm, remote: true, kind: trace.SpanKindServer, took: a.Took, about: about})
	}
	if asker, ok := parseParent(headers[parentHeader]); ok {
		s.answer(ctx, asker, a, about)
	}
}

// answer hangs from whatever span of another process the question came from.
func (s *Spans) answer(ctx context.Context, asker trace.SpanContext, a Answered, about []attribute.KeyValue) {
	id := asker.TraceID()
	ctx = withIDs(trace.ContextWithRemoteSpanContext(ctx, asker), id, spanID(id, answer+" "+a.ID))
	_, made := s.tracer.Start(ctx, answer, trace.WithTimestamp(a.Took.Begin), trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(about...))
	made.End(trace.WithTimestamp(a.Took.End))
}

// Walked is one range of a resync that was made what the source has.
type Walked struct {
	ResyncID  string
	N         int
	Took      Stretch
	Table     string
	Rows      int
	Differing int
}

// Walking is the context in which a range of a resync is walked.
func (s *Spans) Walking(ctx context.Context, resyncID string, n int) context.Context {
	if s == nil || !told(n) {
		return ctx
	}
	return trace.ContextWithSpanContext(ctx, at(ResyncTrace(resyncID), pieceAt(n), false))
}

// told tells whether the n-th range of a resync has spans: there may be a hundred thousand, and no trace that large is of use to anybody.
func told(n int) bool {
	switch {
	case n < 1000:
		return true
	case n < 10_000:
		return n%10 == 0
	default:
		return n%100 == 0
	}
}

func pieceAt(n int) string { return piece + " " + strconv.Itoa(n) }

// Walked makes the span of such a range.
func (s *Spans) Walked(ctx context.Context, w Walked) {
	if !told(w.N) {
		return
	}
	s.emit(ctx, ResyncTrace(w.ResyncID), span{name: piece, place: pieceAt(w.N), parent: resync, took: w.Took, about: []attribute.KeyValue{
		tableKey.String(w.Table), resyncKey.String(w.ResyncID), pieceKey.Int(w.N), rowsKey.Int(w.Rows), differKey.Int(w.Differing),
	}})
}

// Resynced is a resync that has ended.
type Resynced struct {
	ID, Scope, Table, Reason, Via string
	State                         string
	Requested                     time.Time
	Rows, Corrected               int64
}

// Resynced makes the root of its trace.
func (s *Spans) Resynced(ctx context.Context, r Resynced) {
	s.emit(ctx, ResyncTrace(r.ID), span{name: resync, took: Since(r.Requested), about: []attribute.KeyValue{
		resyncKey.String(r.ID), scopeKey.String(r.Scope), tableKey.String(r.Table), reasonKey.String(r.Reason), viaKey.String(r.Via),
		outcomeKey.String(r.State), rowsKey.Int64(r.Rows), writtenKey.Int64(r.Corrected),
	}})
}
