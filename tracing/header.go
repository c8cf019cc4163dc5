package tracing

import (
	"context"
	"encoding/hex"
	"maps"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// Headers of records, besides W3C's traceparent.
const (
	parentHeader = "traceparent"
	// scanHeader stands with a verification message: when the source began to be read for it, and for how long, in microseconds.
	scanHeader = "trickle-scan"
	// correctionsHeader stands with the request that confirms corrections: a line for each, with its trace and what its scan came to.
	correctionsHeader = "trickle-corrections"
)

const (
	mostScan        = 64      // bytes of a scan's header
	mostCorrections = 500     // lines of the other
	mostLines       = 1 << 16 // and bytes
	mostTook        = 7 * 24 * time.Hour
)

// Scanned is what is known of a range's scan where its message is.
type Scanned struct {
	Scan Stretch
	// Publish ends when the record was handed to the transport.
	Publish Stretch
	LSN     uint64
	Rows    uint64
}

// Message is what goes into the headers of a verification message whose scan took so long. picked is the trace that the range has, zero for none.
func (s *Spans) Message(scan Stretch, picked trace.TraceID) map[string]string {
	if s == nil {
		return nil
	}
	out := map[string]string{scanHeader: number(scan.Begin.UnixMicro()) + " " + number(scan.End.Sub(scan.Begin).Microseconds())}
	if picked.IsValid() {
		out[parentHeader] = Parent(at(picked, publish, false))
	}
	return out
}

// Received reads the headers of a verification message. At is when the transport took it.
func Received(headers map[string]string, at time.Time) (s Scanned, picked trace.SpanContext) {
	picked, _ = parseParent(headers[parentHeader])
	text := headers[scanHeader]
	if len(text) > mostScan {
		return s, picked
	}
	if n, ok := numbers(text, 2); ok {
		s.Scan = stretch(n[0], n[1])
		s.Publish = Stretch{s.Scan.End, at}
		if at.Before(s.Scan.End) || at.Sub(s.Scan.End) > mostTook { // a transport counts milliseconds
			s.Publish.End = s.Scan.End
		}
	}
	return s, picked
}

// stretch is that of so many microseconds; zero where they are no sensible time.
func stretch(begin, took int64) Stretch {
	const year2000, year2200 = 946684800e6, 7258118400e6
	if begin < year2000 || begin > year2200 || took < 0 || took > mostTook.Microseconds() {
		return Stretch{}
	}
	t := time.UnixMicro(begin).UTC()
	return Stretch{t, t.Add(time.Duration(took) * time.Microsecond)}
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

// numbers reads exactly so many.
func numbers(text string, count int) ([]int64, bool) {
	fields := strings.Fields(text)
	if len(fields) != count {
		return nil, false
	}
	out := make([]int64, count)
	for i, f := range fields {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return nil, false
		}
		out[i] = n
	}
	return out, true
}

// Parent is a span as W3C's traceparent names it; empty where there is none.
func Parent(c trace.SpanContext) string {
	if !c.IsValid() {
		return ""
	}
	return "00-" + c.TraceID().String() + "-" + c.SpanID().String() + "-" + c.TraceFlags().String()
}

// parseParent reads a traceparent that is sampled. Any other is of no use here.
func parseParent(text string) (trace.SpanContext, bool) {
	if len(text) != 55 || text[:3] != "00-" || text[35] != '-' || text[52:] != "-01" {
		return trace.SpanContext{}, false
	}
	id, err := trace.TraceIDFromHex(text[3:35])
	if err != nil {
		return trace.SpanContext{}, false
	}
	span, err := trace.SpanIDFromHex(text[36:52])
	if err != nil {
		return trace.SpanContext{}, false
	}
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: span, TraceFlags: trace.FlagsSampled, Remote: true}), true
}

// Confirming is a correction that is being confirmed.
type Confirming struct {
	Trace trace.TraceID
	// Scanned is what the publisher makes its spans of the scan from; zero where they were made before, or it is not known.
	Scanned Scanned
}

type confirmingKey struct{}

// Confirm has the next question that is asked with the context tell whose confirmation it is.
func (s *Spans) Confirm(ctx context.Context, of []Confirming) context.Context {
	if s == nil || len(of) == 0 {
		return ctx
	}
	return context.WithValue(ctx, confirmingKey{}, of)
}

// Question is what goes into the headers of a request that is asked with the context: the corrections that it confirms, or the span that it is asked from.
func Question(ctx context.Context) map[string]string {
	if of, ok := ctx.Value(confirmingKey{}).([]Confirming); ok {
		return map[string]string{correctionsHeader: lines(of)}
	}
	if c := trace.SpanContextFromContext(ctx); c.IsSampled() {
		return map[string]string{parentHeader: Parent(c)}
	}
	return nil
}

// Echo is what an answer gives back of a request's headers.
func Echo(headers map[string]string) map[string]string {
	if _, ours := headers[correctionsHeader]; !ours {
		return headers
	}
	out := maps.Clone(headers)
	delete(out, correctionsHeader)
	return out
}

func lines(of []Confirming) string {
	var b strings.Builder
	for _, c := range of[:min(len(of), mostCorrections)] {
		if b.Len() > mostLines-128 {
			break
		}
		b.WriteString(hex.EncodeToString(c.Trace[:]))
		if s := c.Scanned; !s.Scan.IsZero() {
			for _, n := range []int64{
				s.Scan.Begin.UnixMicro(), s.Scan.End.Sub(s.Scan.Begin).Microseconds(), s.Publish.End.Sub(s.Scan.End).Microseconds(), int64(s.LSN), int64(s.Rows),
			} {
				b.WriteString(" " + number(n))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// confirming reads what lines wrote; what it can't read it leaves out.
func confirming(text string) []Confirming {
	if len(text) > mostLines {
		return nil
	}
	var out []Confirming
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		id, err := trace.TraceIDFromHex(name)
		if err != nil {
			continue
		}
		if len(out) == mostCorrections {
			break
		}
		c := Confirming{Trace: id}
		if n, ok := numbers(rest, 5); ok {
			if c.Scanned.Scan = stretch(n[0], n[1]); !c.Scanned.Scan.IsZero() && n[2] >= 0 && n[2] <= mostTook.Microseconds() {
				c.Scanned.Publish = Stretch{c.Scanned.Scan.End, c.Scanned.Scan.End.Add(time.Duration(n[2]) * time.Microsecond)}
				c.Scanned.LSN, c.Scanned.Rows = uint64(n[3]), uint64(n[4])
			} else {
				c.Scanned = Scanned{}
			}
		}
		out = append(out, c)
	}
	return out
}
