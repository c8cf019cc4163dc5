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

// IDs are those that the next span shall bear, for the generator of a provider; ok is false where it has none to bear.
func IDs(ctx context.Context) (id trace.TraceID, span trace.SpanID, ok bool) {
	set, ok := ctx.Value(idsKey{}).(ids)
	return set.trace, set.span, ok
}
