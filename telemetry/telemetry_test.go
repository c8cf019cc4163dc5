package telemetry_test

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/metric"

	"github.com/trickle-verify/trickle/telemetry"
)

// Two pipelines in one process keep their metrics apart, and each carries its pipeline's name.
func TestMetricsAreOfOnePipeline(t *testing.T) {
	t.Parallel()
	begin := func(pipeline string, value int64) *telemetry.Telemetry {
		t.Helper()
		m, err := telemetry.Start(t.Context(), telemetry.Options{Service: "trickle", Pipeline: pipeline})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = m.Close(context.WithoutCancel(t.Context())) })
		_, err = m.Meter().Int64ObservableGauge("trickle.it", metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(value)
			return nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	scrape := func(m *telemetry.Telemetry, others ...*telemetry.Telemetry) string {
		w := httptest.NewRecorder()
		m.Handler(others...).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
		return w.Body.String()
	}
	a, b := begin("orders", 1), begin("stock", 2)
	orders, stock := scrape(a), scrape(b)
	for body, want := range map[string]string{orders: `trickle_it{pipeline="orders"} 1`, stock: `trickle_it{pipeline="stock"} 2`} {
		if !strings.Contains(body, "\n"+want+"\n") || strings.Count(body, "\ntrickle_it{") != 1 || !strings.Contains(body, "\ngo_goroutines") {
			t.Errorf("want %q in\n%s", want, body)
		}
	}
	both := scrape(a, b)
	for _, want := range []string{`trickle_it{pipeline="orders"} 1`, `trickle_it{pipeline="stock"} 2`, "go_goroutines "} {
		if strings.Count(both, "\n"+want) != 1 {
			t.Errorf("side by side: want %q once in\n%s", want, both)
		}
	}
}

// Nothing is sent unless a variable asks for it, and a variable that can't be followed is named.
func TestVariablesDecideWhatIsSent(t *testing.T) {
	for _, tc := range []struct {
		name   string
		env    map[string]string
		traces bool
		wrong  string // in the error
	}{
		{name: "none"},
		{name: "endpoint of both", env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, traces: true},
		{name: "endpoint of traces", env: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}, traces: true},
		{name: "endpoint of metrics only", env: map[string]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1/v1/metrics"}},
		{name: "named exporter", env: map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}, traces: true},
		{name: "told not to", env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"}},
		{name: "switched off", env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}},
		{name: "no address", env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}, wrong: "OTEL_EXPORTER_OTLP_ENDPOINT"},
		{name: "no exporter", env: map[string]string{"OTEL_TRACES_EXPORTER": "zipkins"}, wrong: "OTEL_TRACES_EXPORTER"},
		{name: "no protocol", env: map[string]string{"OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "pigeon"}, wrong: "OTEL_EXPORTER_OTLP_PROTOCOL"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for name, value := range tc.env {
				t.Setenv(name, value)
			}
			before := runtime.NumGoroutine()
			m, err := telemetry.Start(t.Context(), telemetry.Options{Service: "trickle", Pipeline: "orders", Log: slog.New(slog.DiscardHandler)})
			if tc.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wrong) {
					t.Fatalf("want an error that names %s, got %v", tc.wrong, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(tc.env) == 0 && runtime.NumGoroutine() > before {
				t.Errorf("%d goroutines were started that nobody asked for", runtime.NumGoroutine()-before)
			}
			_, span := m.Tracer().Start(t.Context(), "it")
			if got := span.IsRecording(); got != tc.traces {
				t.Errorf("traces are sent: %t, want %t", got, tc.traces)
			}
			ctx, done := context.WithCancel(t.Context())
			done() // what can't be sent at once is dropped
			_ = m.Close(ctx)
		})
	}
}
