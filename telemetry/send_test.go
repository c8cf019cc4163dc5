package telemetry_test

import (
	"context"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/trickle-verify/trickle/internal/testbed/otlp"
	"github.com/trickle-verify/trickle/internal/testbed/output"
	"github.com/trickle-verify/trickle/telemetry"
	"github.com/trickle-verify/trickle/tracing"
)

// What was made before Close has been sent by then, with who made it, under the ids that package tracing decides.
func TestTracesAreSent(t *testing.T) {
	received := otlp.Start(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.URL)
	t.Setenv("OTEL_METRICS_EXPORTER", "none")
	tell, err := telemetry.Start(t.Context(), telemetry.Options{Service: "trickle", Pipeline: "orders", Instance: "here/1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	spans := tracing.New(tell.Tracer())
	for range 2 { // twice is the same span
		spans.Resynced(t.Context(), tracing.Resynced{ID: "r1", Requested: time.Now()})
	}
	spans.Walked(t.Context(), tracing.Walked{ResyncID: "r1", Took: tracing.Since(time.Now())})
	_, other := tell.Tracer().Start(t.Context(), "other")
	other.End()
	if err := tell.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := received.Of(tracing.ResyncTrace("r1").String())
	if len(got) != 3 || got[0].ID != got[1].ID || got[2].Parent != got[0].ID || got[0].Service != "trickle" {
		t.Errorf("sent was %+v", got)
	}
	if others := received.Traces("other"); len(others) != 1 || others[0] == (trace.TraceID{}).String() {
		t.Errorf("a span of somebody else is of the traces %q", others)
	}
}

// What can't be read of the attributes that a platform put there is left out, and said.
func TestMalformedResourceAttributes(t *testing.T) {
	received := otlp.Start(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.URL)
	t.Setenv("OTEL_METRICS_EXPORTER", "none")
	for _, attributes := range []string{"a=b,", "a=x,y", "%zz=1", "="} {
		t.Setenv("OTEL_RESOURCE_ATTRIBUTES", attributes)
		var log output.Buffer
		tell, err := telemetry.Start(t.Context(), telemetry.Options{Service: attributes, Pipeline: "orders", Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		_, span := tell.Tracer().Start(t.Context(), "it")
		span.End()
		if err := tell.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := received.Spans()
		if last := got[len(got)-1]; last.Service != attributes {
			t.Errorf("%s: it is told by %q", attributes, last.Service)
		}
		if strings.Contains(attributes, ",") && !strings.Contains(log.String(), "OTEL_RESOURCE_ATTRIBUTES") {
			t.Errorf("%s: the log does not say so: %s", attributes, log.String())
		}
	}
}

// A receiver that is away holds up nobody for longer than Close may take, and the log says so.
func TestAReceiverThatIsAway(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/v1/traces")
	t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1000")
	var log output.Buffer
	tell, err := telemetry.Start(t.Context(), telemetry.Options{Service: "trickle", Pipeline: "orders", Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	spans := tracing.New(tell.Tracer())
	began := time.Now()
	for range 5_000 {
		spans.Resynced(t.Context(), tracing.Resynced{ID: "r1", Requested: began})
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("making spans took %s", took)
	}
	ctx, done := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer done()
	began = time.Now()
	_ = tell.Close(ctx) // it says that it could not
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("closing took %s", took)
	}
	said := func() int { return strings.Count(log.String(), "traces can't be sent") }
	for end := time.Now().Add(10 * time.Second); said() == 0 && time.Now().Before(end); {
		runtime.Gosched() // polling: whoever logs it may outlive Close
	}
	if said() != 1 {
		t.Errorf("the log says so %d times:\n%s", said(), log.String())
	}
}
