package telemetry

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// signal is one of the things that OpenTelemetry's variables speak of.
type signal struct {
	exporter string   // the variable that names an exporter
	endpoint []string // those that name where to send to
}

func signalOf(name string) signal {
	return signal{exporter: "OTEL_" + name + "_EXPORTER", endpoint: []string{"OTEL_EXPORTER_OTLP_" + name + "_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"}}
}

// asked tells whether one of the variables asks for the signal. The SDK's own default is to send to localhost, which is no business of a tool that nobody
// asked to.
func (s signal) asked() (bool, error) {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || os.Getenv(s.exporter) == "none" {
		return false, nil
	}
	asked := os.Getenv(s.exporter) != ""
	for _, name := range s.endpoint {
		at := os.Getenv(name)
		if at == "" {
			continue
		}
		asked = true
		if u, err := url.Parse(at); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return false, fmt.Errorf("%s: %q is no address to send to: it has to look like http://collector:4318", name, at)
		}
	}
	return asked, nil
}

// metricReader sends metrics; nil: nobody asked for it.
func metricReader(ctx context.Context, log *slog.Logger) (sdkmetric.Reader, error) {
	s := signalOf("METRICS")
	asked, err := s.asked()
	if err != nil || !asked {
		return nil, err
	}
	var reader sdkmetric.Reader
	if name := os.Getenv(s.exporter); name == "" || name == "otlp" {
		reader, err = sentMetrics(ctx, log)
	} else {
		reader, err = autoexport.NewMetricReader(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("preparing to send metrics (%s, OTEL_EXPORTER_OTLP_PROTOCOL): %w", s.exporter, err)
	}
	return reader, nil
}

// sentMetrics sends them by OTLP, every minute unless OTEL_METRIC_EXPORT_INTERVAL says otherwise.
func sentMetrics(ctx context.Context, log *slog.Logger) (sdkmetric.Reader, error) {
	var out sdkmetric.Exporter
	var err error
	switch protocol := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"), os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL"), "http/protobuf"); protocol {
	case "grpc":
		out, err = otlpmetricgrpc.New(ctx)
	case "http/protobuf":
		out, err = otlpmetrichttp.New(ctx)
	default:
		err = fmt.Errorf("protocol %q: use http/protobuf or grpc", protocol)
	}
	if err != nil {
		return nil, err
	}
	return sdkmetric.NewPeriodicReader(&loggedMetrics{Exporter: out, log: log}), nil
}

// loggedMetrics logs that they could not be sent, instead of handing it to the SDK's process-wide handler.
type loggedMetrics struct {
	sdkmetric.Exporter
	log  *slog.Logger
	mu   sync.Mutex
	last time.Time // that it was logged
}

// Export never fails: the next one carries all that this one did.
func (e *loggedMetrics) Export(ctx context.Context, m *metricdata.ResourceMetrics) error {
	err := e.Exporter.Export(ctx, m)
	if err == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if now := time.Now(); e.log != nil && now.Sub(e.last) > time.Minute {
		e.log.Warn("metrics can't be sent; see OTEL_EXPORTER_OTLP_ENDPOINT", "err", err)
		e.last = now
	}
	return nil
}

// spanExporter sends spans; nil: nobody asked for it.
func spanExporter(ctx context.Context, log *slog.Logger) (sdktrace.SpanExporter, error) {
	s := signalOf("TRACES")
	asked, err := s.asked()
	if err != nil || !asked {
		return nil, err
	}
	out, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("preparing to send traces (%s, OTEL_EXPORTER_OTLP_PROTOCOL): %w", s.exporter, err)
	}
	return &loggedExporter{SpanExporter: out, log: log}, nil
}

// loggedExporter logs what could not be sent, instead of handing it to the SDK's process-wide handler.
type loggedExporter struct {
	sdktrace.SpanExporter
	log  *slog.Logger
	mu   sync.Mutex
	last time.Time // that it was logged
	lost int       // since
}

// ExportSpans never fails: the SDK would do no more than print it.
func (e *loggedExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	if err == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lost += len(spans)
	if now := time.Now(); now.Sub(e.last) > time.Minute {
		e.log.Warn("traces can't be sent and are dropped; see OTEL_EXPORTER_OTLP_ENDPOINT", "spans", e.lost, "err", err)
		e.last, e.lost = now, 0
	}
	return nil
}

// version is that of the build.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
