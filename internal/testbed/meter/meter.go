// Package meter shows a test what a part measures.
package meter

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/trickle-verify/trickle/measure"
)

// Meter gathers what is declared and measured. Hand it to a part as its meter.
type Meter struct {
	metric.Meter
	reader *sdk.ManualReader

	mu   sync.Mutex
	defs []measure.Def
}

// New is for one test.
func New(t *testing.T) *Meter {
	reader := sdk.NewManualReader()
	provider := sdk.NewMeterProvider(sdk.WithReader(reader))
	t.Cleanup(func() { _ = provider.Shutdown(t.Context()) })
	return &Meter{Meter: provider.Meter("test"), reader: reader}
}

// Declare makes it a measure.Catalogue.
func (m *Meter) Declare(d measure.Def) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.defs = append(m.defs, d)
}

// Declared is what was declared so far.
func (m *Meter) Declared() []measure.Def {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.defs
}

// Read collects now: values by name and labels, such as `trickle.gate.lag{by=slot}`. Of a histogram it is how many were recorded.
func (m *Meter) Read(t *testing.T) map[string]float64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := m.reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	put := func(name string, labels attribute.Set, v float64) {
		var pairs []string
		for _, kv := range labels.ToSlice() {
			pairs = append(pairs, string(kv.Key)+"="+kv.Value.AsString())
		}
		if len(pairs) > 0 {
			name += "{" + strings.Join(pairs, ",") + "}"
		}
		out[name] = v
	}
	for _, scope := range all.ScopeMetrics {
		for _, one := range scope.Metrics {
			switch d := one.Data.(type) {
			case metricdata.Gauge[float64]:
				for _, p := range d.DataPoints {
					put(one.Name, p.Attributes, p.Value)
				}
			case metricdata.Sum[float64]:
				for _, p := range d.DataPoints {
					put(one.Name, p.Attributes, p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range d.DataPoints {
					put(one.Name, p.Attributes, float64(p.Count))
				}
			default:
				t.Fatalf("%s has data of kind %T", one.Name, d)
			}
		}
	}
	return out
}

// Wants compares what is measured now with some of what it should be; a want of "absent" must not be there.
func (m *Meter) Wants(t *testing.T, when string, want map[string]any) {
	t.Helper()
	got := m.Read(t)
	for name, value := range want {
		v, ok := got[name]
		switch {
		case value == "absent" && ok:
			t.Errorf("%s: %s is %v, and should be absent", when, name, v)
		case value != "absent" && !ok:
			t.Errorf("%s: %s is absent; there are %v", when, name, got)
		case value != "absent" && fmt.Sprint(v) != fmt.Sprint(value):
			t.Errorf("%s: %s is %v, want %v", when, name, v, value)
		}
	}
}
