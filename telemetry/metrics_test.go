package telemetry_test

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/metric"

	"github.com/trickle-verify/trickle/telemetry"
)

// Two pipelines in one process keep their metrics apart, and each carries its pipeline's name.
func TestMetricsAreOfOnePipeline(t *testing.T) {
	t.Parallel()
	scrape := func(pipeline string, value int64) string {
		t.Helper()
		m, err := telemetry.NewMetrics(pipeline)
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
		w := httptest.NewRecorder()
		m.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
		return w.Body.String()
	}
	orders, stock := scrape("orders", 1), scrape("stock", 2)
	for body, want := range map[string]string{orders: `trickle_it{pipeline="orders"} 1`, stock: `trickle_it{pipeline="stock"} 2`} {
		if !strings.Contains(body, "\n"+want+"\n") || strings.Count(body, "\ntrickle_it{") != 1 || !strings.Contains(body, "\ngo_goroutines") {
			t.Errorf("want %q in\n%s", want, body)
		}
	}
}
