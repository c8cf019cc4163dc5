// Package telemetry is what a process tells about itself while it runs: so far metrics.
//
// It decides how they get out, and nothing of what they say: a part takes a meter and registers what it knows. What always holds: nothing is global, so two
// pipelines in one process tell theirs apart; every metric carries the pipeline's name. When nobody asks, nothing is computed.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
)

// Metrics are those of one pipeline.
type Metrics struct {
	provider *sdk.MeterProvider
	handler  http.Handler
}

// NewMetrics makes a provider whose metrics Handler shows in Prometheus's format. Close it after use.
func NewMetrics(pipeline string) (*Metrics, error) {
	const label = attribute.Key("pipeline")
	registry := prometheus.NewRegistry()
	reader, err := exporter.New(
		exporter.WithRegisterer(registry),
		exporter.WithoutScopeInfo(),
		exporter.WithoutTargetInfo(),
		exporter.WithResourceAsConstantLabels(attribute.NewAllowKeysFilter(label)),
	)
	err = errors.Join(err, registry.Register(collectors.NewGoCollector()), registry.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})))
	if err != nil {
		return nil, fmt.Errorf("preparing metrics: %w", err)
	}
	named := resource.NewSchemaless(attribute.String("service.name", "trickle"), label.String(pipeline))
	return &Metrics{
		provider: sdk.NewMeterProvider(sdk.WithReader(reader), sdk.WithResource(named)),
		handler:  promhttp.HandlerFor(registry, promhttp.HandlerOpts{}),
	}, nil
}

// Meter is what a part registers its instruments with.
func (m *Metrics) Meter() metric.Meter { return m.provider.Meter("github.com/trickle-verify/trickle") }

// Handler shows the metrics as they are when it is asked.
func (m *Metrics) Handler() http.Handler { return m.handler }

// Close ends the provider.
func (m *Metrics) Close(ctx context.Context) error { return m.provider.Shutdown(ctx) }
