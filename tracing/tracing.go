// Package tracing is what the traces look like: which spans there are, what they hang from, and how one process tells another of them.
//
// It decides the tree. A correction has a trace of its own, made when it is closed from what was remembered on the way: each process makes its own spans, with
// the times that were noted. A resync is one trace, its ranges below it. A range that has nothing to be corrected has a trace only where the publisher picked
// it. What always holds: ids of spans follow from the trace's id and the span's place in it, so that nobody has to pass them on, and a span that
// is made twice is the same span; without a tracer nothing is remembered, sent or made. What comes in headers is not signed: it is bounded and
// checked, what can't be read is as if it were not there, and what is forged may cost a span and nothing else.
//
// It knows OpenTelemetry's API only, so that a detector that is embedded elsewhere brings no exporter along.
package tracing

import (
	"context"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Names of spans.
const (
	scan     = "scan"     // publisher: the source is read
	publish  = "publish"  // publisher: the message is made and sent
	receive  = "receive"  // consumer: the message is dealt with
	mismatch = "mismatch" // consumer: which rows differ
	correct  = "correct"  // consumer: from looking at the row again to the end
	observe  = "observe"  // consumer: the replica's row is read
	refetch  = "refetch"  // consumer: then the source's
	write    = "write"    // consumer: the row is written under its guard, with its journal entry
	confirm  = "confirm"  // consumer: the source is asked once more
	answer   = "answer"   // publisher: and answers
	resync   = "resync"   // consumer: all of it
	piece    = "range"    // consumer: one range of it
)

// Spans makes spans. A nil one makes none.
type Spans struct{ tracer trace.Tracer }

// New makes spans with a tracer; nil, or noop's, for none. Its provider has to have an ID generator that bears what IDs says.
func New(t trace.Tracer) *Spans {
	if _, off := t.(noop.Tracer); off || t == nil {
		return nil
	}
	return &Spans{tracer: t}
}

// On tells whether spans are made, so whether it is worth while to remember anything for them.
func (s *Spans) On() bool { return s != nil }

// Pick tells whether a range is to be traced of which such a share is.
func (s *Spans) Pick(share float64) bool {
	return s != nil && share > 0 && rand.Float64() < share //nolint:gosec // it decides what is looked at, and keeps no secret
}

// Stretch is the time that a span took.
type Stretch struct{ Begin, End time.Time }

// Since is from then until now.
func Since(begin time.Time) Stretch { return Stretch{begin, time.Now()} }

// IsZero tells that it is not known.
func (s Stretch) IsZero() bool { return s.Begin.IsZero() }

// span is one to be made.
type span struct {
	name   string
	place  string // what its id follows from; empty: its name
	parent string // the place of its parent; empty: it is the root
	remote bool   // the parent is another process's
	kind   trace.SpanKind
	took   Stretch
	about  []attribute.KeyValue
	link   string // a traceparent
}

func (s *Spans) emit(ctx context.Context, id trace.TraceID, p span) {
	if s == nil {
		return
	}
	if p.place == "" {
		p.place = p.name
	}
	if p.kind == trace.SpanKindUnspecified {
		p.kind = trace.SpanKindInternal
	}
	if p.took.End.Before(p.took.Begin) { // two clocks, or one that was set
		p.took.End = p.took.Begin
	}
	options := []trace.SpanStartOption{trace.WithTimestamp(p.took.Begin), trace.WithSpanKind(p.kind), trace.WithAttributes(p.about...)}
	if p.parent == "" {
		options = append(options, trace.WithNewRoot())
	}
	if link, ok := parseParent(p.link); ok {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: link}))
	}
	ctx = trace.ContextWithSpanContext(ctx, at(id, p.parent, p.remote))
	_, made := s.tracer.Start(withIDs(ctx, id, spanID(id, p.place)), p.name, options...)
	made.End(trace.WithTimestamp(p.took.End))
}

// at is a place of a trace as another span may hang from it.
func at(id trace.TraceID, place string, remote bool) trace.SpanContext {
	if place == "" {
		return trace.SpanContext{}
	}
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: spanID(id, place), TraceFlags: trace.FlagsSampled, Remote: remote})
}
