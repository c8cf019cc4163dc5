package telemetry

import (
	"context"
	"crypto/rand"
	"os"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/trickle-verify/trickle/tracing"
)

// generator gives spans the ids that package tracing wants them to bear, and others any.
type generator struct{}

// NewIDs is for roots.
func (generator) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	id, span, ok := tracing.IDs(ctx)
	if !ok {
		_, _ = rand.Read(id[:])
		_, _ = rand.Read(span[:])
	}
	return id, span
}

// NewSpanID is for what hangs from something.
func (generator) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	_, span, ok := tracing.IDs(ctx)
	if !ok {
		_, _ = rand.Read(span[:])
	}
	return span
}

// batching is how spans wait to be sent, where OTEL_BSP_* does not say. A batch of corrections makes thousands at once, which the SDK's own queue would not hold.
func batching() []sdktrace.BatchSpanProcessorOption {
	var out []sdktrace.BatchSpanProcessorOption
	if os.Getenv("OTEL_BSP_MAX_QUEUE_SIZE") == "" {
		out = append(out, sdktrace.WithMaxQueueSize(1<<16))
	}
	if os.Getenv("OTEL_BSP_SCHEDULE_DELAY") == "" {
		out = append(out, sdktrace.WithBatchTimeout(2*time.Second))
	}
	return out
}
