// Package telemetry is how what a process tells about itself while it runs gets out of it: metrics and traces.
//
// It decides how they get out, and nothing of what they say: a part takes a meter and registers what it knows, or takes a tracer. What always holds:
// nothing is global, so two pipelines in one process tell theirs apart; everything carries the pipeline's name; metrics are there for whoever asks the
// handler, and when nobody does nothing is computed. Nothing is sent anywhere, and no connection is tried, unless one of OpenTelemetry's own variables
// (OTEL_*) asks for it. When a receiver can't be reached, what it was to get is dropped after a while, the log says so once a minute, and no other work
// waits for it.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/trickle-verify/trickle/tracing"
)

// scope is what instruments and spans are said to come from.
const scope = "github.com/trickle-verify/trickle"

// pipelineKey names the pipeline in every metric and with every span.
const pipelineKey = attribute.Key("pipeline")

// consumerKey names the replica in every metric of its detectors.
const consumerKey = attribute.Key("consumer")

// Options are who tells.
type Options struct {
	Service  string // trickle or trickle-consumer, unless OTEL_SERVICE_NAME says otherwise
	Pipeline string
	Consumer string // names the replica; empty on the source's side
	Instance string // tells the processes of a service apart
	Log      *slog.Logger
}

// Telemetry is that of one pipeline in one process.
type Telemetry struct {
	metrics *sdkmetric.MeterProvider
	own     *prometheus.Registry     // what its parts say
	process *prometheus.Registry     // what the process as a whole does
	traces  *sdktrace.TracerProvider // nil: nobody asked for traces
}

// Start makes what metrics and traces go through. An error names the variable that asks for what can't be. Close it after use.
func Start(ctx context.Context, o Options) (*Telemetry, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	about := describe(ctx, o)
	own, process := prometheus.NewRegistry(), prometheus.NewRegistry()
	shown, err := exporter.New(
		exporter.WithRegisterer(own),
		exporter.WithoutScopeInfo(),
		exporter.WithoutTargetInfo(),
		exporter.WithResourceAsConstantLabels(attribute.NewAllowKeysFilter(pipelineKey, consumerKey)),
	)
	err = errors.Join(err, process.Register(collectors.NewGoCollector()), process.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})))
	if err != nil {
		return nil, fmt.Errorf("preparing metrics: %w", err)
	}
	options := []sdkmetric.Option{sdkmetric.WithReader(shown), sdkmetric.WithResource(about)}
	sent, err := metricReader(ctx, o.Log)
	if err != nil {
		return nil, err
	}
	if sent != nil {
		options = append(options, sdkmetric.WithReader(sent))
	}
	t := &Telemetry{own: own, process: process}
	spans, err := spanExporter(ctx, o.Log)
	if err != nil {
		if sent != nil {
			err = errors.Join(err, sent.Shutdown(ctx))
		}
		return nil, err
	}
	t.metrics = sdkmetric.NewMeterProvider(options...)
	if spans != nil {
		t.traces = sdktrace.NewTracerProvider(sdktrace.WithBatcher(spans, batching()...), sdktrace.WithResource(about), sdktrace.WithIDGenerator(tracing.Generator{}))
	}
	return t, nil
}

// describe says who tells; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES have the last word, but for the pipeline and the replica. What can't be read of them, which a platform may have put
// there, is left out: nothing is verified the worse for it.
func describe(ctx context.Context, o Options) *resource.Resource {
	named := []attribute.KeyValue{pipelineKey.String(o.Pipeline)}
	if o.Consumer != "" {
		named = append(named, consumerKey.String(o.Consumer))
	}
	about, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", o.Service), attribute.String("service.version", version()), attribute.String("service.instance.id", o.Instance)),
		resource.WithTelemetrySDK(),
		resource.WithFromEnv(),
		resource.WithAttributes(named...),
	)
	if err != nil {
		o.Log.Warn("OTEL_RESOURCE_ATTRIBUTES can't be read whole: it has to look like team=shop,region=eu, other signs percent-encoded", "err", err)
	}
	return about
}

// Meter is what a part registers its instruments with.
func (t *Telemetry) Meter() metric.Meter { return t.metrics.Meter(scope) }

// Tracer is what a part makes its spans with: noop's where nobody asked for traces.
func (t *Telemetry) Tracer() trace.Tracer {
	if t.traces == nil {
		return noop.Tracer{}
	}
	return t.traces.Tracer(scope)
}

// Handler shows the metrics as they are when it is asked, in Prometheus's format; those of others in this process too, which differ in pipeline or consumer.
func (t *Telemetry) Handler(others ...*Telemetry) http.Handler {
	all := prometheus.Gatherers{t.own, t.process}
	for _, o := range others {
		all = append(all, o.own)
	}
	return promhttp.HandlerFor(all, promhttp.HandlerOpts{})
}

// Close sends what has not been sent yet, as long as the context lasts, and ends what Start began.
func (t *Telemetry) Close(ctx context.Context) error {
	err := t.metrics.Shutdown(ctx)
	if t.traces != nil {
		err = errors.Join(err, t.traces.Shutdown(ctx))
	}
	return err
}
