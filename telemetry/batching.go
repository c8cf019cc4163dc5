package telemetry

import (
	"os"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

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
