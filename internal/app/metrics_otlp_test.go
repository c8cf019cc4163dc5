package app

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/detector"
	"github.com/trickle-verify/trickle/gate"
	"github.com/trickle-verify/trickle/internal/testbed/otlp"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/telemetry"
)

// The same metrics leave through OTLP where a variable asks for it; a receiver that is away is a line in the log, and nothing else.
func TestMetricsLeaveThroughOTLP(t *testing.T) {
	receiver := otlp.Start(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.URL)
	t.Setenv("OTEL_TRACES_EXPORTER", "none")
	tell := func(log *slog.Logger) *telemetry.Telemetry {
		t.Helper()
		out, err := telemetry.Start(t.Context(), telemetry.Options{Service: consuming, Pipeline: "shop", Consumer: "eu", Log: log})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := detector.NewMeasures(out.Meter()); err != nil {
			t.Fatal(err)
		}
		if err := observe(out.Meter(), newReload(&policy.Policy{}).Observe, gate.New(policy.Gate{}, gate.Parts{}).Observe); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if err := tell(nil).Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	names, about := map[string]bool{}, map[string]string{}
	for _, r := range receiver.Metrics() {
		for _, kv := range r.GetResource().GetAttributes() {
			about[kv.GetKey()] = kv.GetValue().GetStringValue()
		}
		for _, scope := range r.GetScopeMetrics() {
			for _, m := range scope.GetMetrics() {
				names[m.GetName()] = true
			}
		}
	}
	for _, name := range []string{"trickle.policy.refused", "trickle.gate.open", "trickle.messages.refused", "trickle.build.info"} {
		if !names[name] {
			t.Errorf("%s did not come; there are %v", name, names)
		}
	}
	if about["pipeline"] != "shop" || about["consumer"] != "eu" || about["service.name"] != consuming {
		t.Errorf("they are of %v", about)
	}

	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "200")
	var log bytes.Buffer
	away := tell(slog.New(slog.NewTextHandler(&log, nil)))
	_ = away.Close(t.Context())
	if !strings.Contains(log.String(), "metrics can't be sent") {
		t.Errorf("the log has %q", log.String())
	}
}
