package tracing

import (
	"context"
	"crypto/rand"
	"crypto/sha256"

	"go.opentelemetry.io/otel/trace"
)

// NewTrace names the trace of a correction.
func NewTrace() trace.TraceID {
	var id trace.TraceID
	_, _ = rand.Read(id[:]) // it never fails
	return id
}

// ResyncTrace names the trace of a resync: whoever works on it knows it from the resync's id.
func ResyncTrace(resyncID string) trace.TraceID {
	sum := sha256.Sum256([]byte("trickle resync " + resyncID))
	return trace.TraceID(sum[:16])
}

// spanID names a span by its place in its trace.
func spanID(id trace.TraceID, place string) trace.SpanID {
	sum := sha256.Sum256(append(id[:], place...))
	return trace.SpanID(sum[:8])
}

type idsKey struct{}

type ids struct {
	trace trace.TraceID
	span  trace.SpanID
}

// withIDs has the next span that is started with the context bear these ids.
func withIDs(ctx context.Context, id trace.TraceID, span trace.SpanID) context.Context {
	return context.WithValue(ctx, idsKey{}, ids{id, span})
}

// Generator gives spans the ids that this package wants them to bear, and others any. A provider of spans has to have it as its generator, or the pieces of a trace that
// several processes make do not fit together.
type Generator struct{}

// NewIDs is for roots.
func (Generator) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	wanted, ok := ctx.Value(idsKey{}).(ids)
	if !ok {
		_, _ = rand.Read(wanted.trace[:]) // it never fails
		_, _ = rand.Read(wanted.span[:])
	}
	return wanted.trace, wanted.span
}

// NewSpanID is for what hangs from something.
func (g Generator) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	_, span := g.NewIDs(ctx)
	return span
}
