// Package otlp is a receiver of OpenTelemetry's protocol, for tests: what an exporter sends over HTTP is there to be looked at.
//
// It decides how a trace is written down, so that a test can compare it whole. What always holds: a receiver keeps what it answered with success, in the order it
// came, and answers nothing else so.
package otlp

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	traces "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	tracespb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is one that was received.
type Span struct {
	Trace, ID, Parent string // in hex; no parent: a root
	Name, Kind        string
	Service           string
	Begin, End        time.Time
	Attributes        map[string]string
	Links             []string // traces that it points to
}

// Receiver takes what is sent to URL.
type Receiver struct {
	URL string

	mu      sync.Mutex
	spans   []Span
	metrics []*metricspb.ResourceMetrics
}

// Start makes a receiver that lasts as long as the test.
func Start(t testing.TB) *Receiver {
	t.Helper()
	r := new(Receiver)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", func(w http.ResponseWriter, req *http.Request) {
		var in traces.ExportTraceServiceRequest
		if read(w, req, &in) {
			r.take(in.GetResourceSpans())
			write(w, new(traces.ExportTraceServiceResponse))
		}
	})
	mux.HandleFunc("POST /v1/metrics", func(w http.ResponseWriter, req *http.Request) {
		var in metrics.ExportMetricsServiceRequest
		if read(w, req, &in) {
			r.mu.Lock()
			r.metrics = append(r.metrics, in.GetResourceMetrics()...)
			r.mu.Unlock()
			write(w, new(metrics.ExportMetricsServiceResponse))
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	r.URL = server.URL
	return r
}

func read(w http.ResponseWriter, req *http.Request, into proto.Message) bool {
	var body io.Reader = req.Body
	if req.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(req.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return false
		}
		body = unpacked
	}
	raw, err := io.ReadAll(body)
	if err == nil {
		err = proto.Unmarshal(raw, into)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func write(w http.ResponseWriter, answer proto.Message) {
	w.Header().Set("Content-Type", "application/x-protobuf")
	raw, err := proto.Marshal(answer)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(raw)
}

func (r *Receiver) take(all []*tracespb.ResourceSpans) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, of := range all {
		service := flat(of.GetResource().GetAttributes())["service.name"]
		for _, scope := range of.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				span := Span{
					Trace: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()), Name: s.GetName(),
					Kind: strings.ToLower(strings.TrimPrefix(s.GetKind().String(), "SPAN_KIND_")), Service: service,
					Begin: time.Unix(0, int64(s.GetStartTimeUnixNano())), End: time.Unix(0, int64(s.GetEndTimeUnixNano())), Attributes: flat(s.GetAttributes()),
				}
				for _, l := range s.GetLinks() {
					span.Links = append(span.Links, hex.EncodeToString(l.GetTraceId()))
				}
				r.spans = append(r.spans, span)
			}
		}
	}
}

func flat(all []*common.KeyValue) map[string]string {
	out := make(map[string]string, len(all))
	for _, kv := range all {
		out[kv.GetKey()] = text(kv.GetValue())
	}
	return out
}

func text(v *common.AnyValue) string {
	switch v := v.GetValue().(type) {
	case *common.AnyValue_StringValue:
		return v.StringValue
	case *common.AnyValue_BoolValue:
		return fmt.Sprint(v.BoolValue)
	case *common.AnyValue_IntValue:
		return fmt.Sprint(v.IntValue)
	case *common.AnyValue_DoubleValue:
		return fmt.Sprint(v.DoubleValue)
	case *common.AnyValue_ArrayValue:
		var parts []string
		for _, one := range v.ArrayValue.GetValues() {
			parts = append(parts, text(one))
		}
		return strings.Join(parts, ",")
	default:
		return ""
	}
}

// Spans are those that came so far.
func (r *Receiver) Spans() []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.spans)
}

// Of are the spans of one trace.
func (r *Receiver) Of(trace string) []Span {
	return slices.DeleteFunc(r.Spans(), func(s Span) bool { return s.Trace != trace })
}

// Traces names the traces of which a span of such a name came.
func (r *Receiver) Traces(span string) []string {
	var out []string
	for _, s := range r.Spans() {
		if s.Name == span && !slices.Contains(out, s.Trace) {
			out = append(out, s.Trace)
		}
	}
	return out
}

// Metrics are those that came so far.
func (r *Receiver) Metrics() []*metricspb.ResourceMetrics {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.metrics)
}

// Tree writes spans down as a tree: a line for each, with its service and its kind, below its parent by two spaces, children in the order in which they began. One whose parent did
// not come stands at the end, marked.
func Tree(spans []Span) string {
	var b strings.Builder
	known := make(map[string]bool)
	below := make(map[string][]Span)
	for _, s := range spans {
		known[s.ID] = true
		below[s.Parent] = append(below[s.Parent], s)
	}
	var put func(s Span, depth int)
	put = func(s Span, depth int) {
		fmt.Fprintf(&b, "%s%s (%s, %s)\n", strings.Repeat("  ", depth), s.Name, s.Service, s.Kind)
		children := below[s.ID]
		slices.SortStableFunc(children, func(a, b Span) int { return a.Begin.Compare(b.Begin) })
		for _, c := range children {
			put(c, depth+1)
		}
	}
	for _, s := range below[""] {
		put(s, 0)
	}
	for _, s := range spans {
		if s.Parent != "" && !known[s.Parent] {
			b.WriteString("lost: ")
			put(s, 0)
		}
	}
	return b.String()
}
