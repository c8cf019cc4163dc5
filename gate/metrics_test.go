package gate_test

import (
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/telemetry"
)

// What Prometheus is shown follows the verdict, and names what is unknown by leaving it out.
func TestMetrics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, slotAndGroup(), nil, nil)
		m, err := telemetry.Start(t.Context(), telemetry.Options{Service: "trickle", Pipeline: "orders"})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close(t.Context())
		if err := p.g.Observe(m.Meter()); err != nil {
			t.Fatal(err)
		}
		shows := func(when string, want, not []string) {
			t.Helper()
			p.g.Check(t.Context())
			w := httptest.NewRecorder()
			m.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
			body := w.Body.String()
			for _, line := range want {
				if !strings.Contains(body, "\n"+line+"\n") && !strings.Contains(body, "\n"+line+" ") {
					t.Errorf("%s: no %q in\n%s", when, line, body)
				}
			}
			for _, line := range not {
				if strings.Contains(body, line) {
					t.Errorf("%s: %q in\n%s", when, line, body)
				}
			}
		}
		time.Sleep(20 * second)
		shows("open", []string{
			`trickle_gate_open{pipeline="orders"} 1`, `trickle_gate_lag_seconds{by="slot",pipeline="orders"}`, `trickle_gate_lag_seconds{by="group",pipeline="orders"}`,
		}, []string{"trickle_gate_closed{"})
		p.change(func() { p.fetched = errNoRight })
		time.Sleep(20 * second)
		shows("the group is unknown", []string{
			`trickle_gate_open{pipeline="orders"} 0`, `trickle_gate_closed{by="group",pipeline="orders"} 1`, `trickle_gate_lag_seconds{by="slot",pipeline="orders"}`,
		}, []string{`trickle_gate_lag_seconds{by="group"`})
	})
}
