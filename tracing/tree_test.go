package tracing_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/sidechannel"
	"github.com/trickle-verify/trickle/tracing"
	"github.com/trickle-verify/trickle/transport"
)

// process is one that makes spans; they are there at once.
type process struct {
	*tracing.Spans
	made *tracetest.InMemoryExporter
}

func newProcess(t *testing.T) process {
	t.Helper()
	made := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(made), sdktrace.WithIDGenerator(tracing.Generator{}))
	t.Cleanup(func() { _ = provider.Shutdown(context.WithoutCancel(t.Context())) })
	return process{tracing.New(provider.Tracer("test")), made}
}

// tree writes down what two processes made: a span, once however often it was made, with who made it.
func tree(publisher, consumer process) string {
	type node struct {
		who  string
		span tracetest.SpanStub
	}
	all := make(map[trace.SpanID]node)
	below := make(map[trace.SpanID][]trace.SpanID)
	for _, p := range []struct {
		who string
		process
	}{{"publisher", publisher}, {"consumer", consumer}} {
		for _, s := range p.made.GetSpans() {
			id := s.SpanContext.SpanID()
			if _, twice := all[id]; !twice {
				below[s.Parent.SpanID()] = append(below[s.Parent.SpanID()], id)
			}
			all[id] = node{p.who, s}
		}
	}
	var b strings.Builder
	put := 0
	var down func(id trace.SpanID, depth int)
	down = func(id trace.SpanID, depth int) {
		slices.SortStableFunc(below[id], func(a, b trace.SpanID) int { return all[a].span.StartTime.Compare(all[b].span.StartTime) })
		for _, child := range below[id] {
			put++
			fmt.Fprintf(&b, "%s%s (%s, %s)\n", strings.Repeat("  ", depth), all[child].span.Name, all[child].who, all[child].span.SpanKind)
			down(child, depth+1)
		}
	}
	down(trace.SpanID{}, 0)
	if put != len(all) {
		fmt.Fprintf(&b, "%d spans hang from nothing\n", len(all)-put)
	}
	return b.String()
}

// answers is a publisher that answers everything with no rows.
type answers struct{}

func (answers) Answer(_ context.Context, req *tricklepb.Envelope) *tricklepb.Envelope {
	return &tricklepb.Envelope{Table: req.GetTable(), Lsn: 1<<32 + 0xab, Body: &tricklepb.Envelope_RowsReply{RowsReply: &tricklepb.RowsReply{}}}
}

// channel is the side channel between two processes, over memory.
func channel(t *testing.T, publisher process) *sidechannel.Client {
	t.Helper()
	bus := transport.NewMemory(transport.MemoryOptions{})
	topics := message.Topics{Pipeline: "p"}
	if err := bus.Ensure(t.Context(), transport.TopicSpec{Name: topics.Requests(), Partitions: 1}, transport.TopicSpec{Name: topics.Replies("c"), Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	server := sidechannel.NewServer(bus, message.Codec{}, answers{}, sidechannel.ServerOptions{Pipeline: "p", Spans: publisher.Spans})
	client := sidechannel.New(bus, message.Codec{}, sidechannel.Options{Pipeline: "p", Consumer: "c"})
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 2)
	go func() { done <- server.Run(ctx) }()
	go func() { done <- client.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		_ = bus.Close()
	})
	return client
}

func ask(ctx context.Context, t *testing.T, client *sidechannel.Client) {
	t.Helper()
	_, err := client.Ask(ctx, &tricklepb.Envelope{Table: "public.t", Body: &tricklepb.Envelope_RefetchRequest{RefetchRequest: &tricklepb.RefetchRequest{}}})
	if err != nil {
		t.Fatal(err)
	}
}

// await waits for spans that are made while an answer is on its way.
func await(t *testing.T, of process, spans int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); len(of.made.GetSpans()) < spans; time.Sleep(time.Millisecond) { // polling, as no signal comes of it
		if time.Now().After(end) {
			t.Fatalf("%d spans were made, want %d", len(of.made.GetSpans()), spans)
		}
	}
}

var began = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// after is a stretch of ten milliseconds that begins so many later.
func after(ms int) tracing.Stretch {
	b := began.Add(time.Duration(ms) * time.Millisecond)
	return tracing.Stretch{Begin: b, End: b.Add(10 * time.Millisecond)}
}

// A correction goes all the way from one process to the other and back, with no more than what headers and the ledger carry.
func TestCorrection(t *testing.T) {
	t.Parallel()
	publisher, consumer := newProcess(t), newProcess(t)
	client := channel(t, publisher)

	headers := publisher.Message(after(0), trace.TraceID{})
	scanned, picked := tracing.Received(headers, began.Add(12*time.Millisecond))
	if picked.IsValid() || len(headers) != 1 {
		t.Errorf("a range that nobody picked travels with %v", headers)
	}
	scanned.LSN, scanned.Rows = 1<<32+0xaa, 100
	suspect := tracing.Way{Scanned: scanned, Receive: after(20), Mismatch: after(25), Message: "p.verify/0@1", Suspects: 1}.Text()

	way, ok := tracing.ParseWay(suspect)
	if !ok {
		t.Fatal("what a suspect remembers can't be read")
	}
	way.Observe, way.Refetch, way.Lag, way.LSN = after(100), after(110), 1500*time.Millisecond, 1<<32+0xab
	way, _ = tracing.ParseWay(way.Text()) // in the journal
	id := tracing.NewTrace()
	for round := range 2 {
		c := tracing.Confirming{Trace: id}
		if round == 0 {
			c.Scanned = way.Scanned
		}
		ask(consumer.Confirm(t.Context(), []tracing.Confirming{c}), t, client)
	}
	await(t, publisher, 4)
	consumer.Corrected(t.Context(), tracing.Corrected{
		Trace: id, Way: way, Writes: []tracing.Stretch{after(120), after(150)}, Confirm: after(135), Table: "public.t", Kind: "mismatched", Key: "#1", Columns: []string{"a", "b"},
		Entry: 7, Outcome: "confirmed",
	})
	want := `scan (publisher, internal)
  publish (publisher, producer)
    receive (consumer, consumer)
      mismatch (consumer, internal)
      correct (consumer, internal)
        observe (consumer, internal)
        refetch (consumer, client)
        write (consumer, internal)
        confirm (consumer, client)
          answer (publisher, server)
          answer (publisher, server)
        write (consumer, internal)
`
	if got := tree(publisher, consumer); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	for _, s := range slices.Concat(publisher.made.GetSpans(), consumer.made.GetSpans()) {
		if s.SpanContext.TraceID() != id {
			t.Errorf("%s is of another trace", s.Name)
		}
		if strings.HasPrefix(s.Name, "scan") && (!s.StartTime.Equal(began) || !s.EndTime.Equal(began.Add(10*time.Millisecond))) {
			t.Errorf("the scan took from %s to %s", s.StartTime, s.EndTime)
		}
		if s.Name == "correct" {
			got := make(map[attribute.Key]string)
			for _, kv := range s.Attributes {
				got[kv.Key] = kv.Value.String()
			}
			want := map[attribute.Key]string{
				"trickle.table": "public.t", "trickle.kind": "mismatched", "trickle.key": "#1", "trickle.columns": `["a","b"]`, "trickle.lag_seconds": "1.5", "trickle.attempts": "2",
				"trickle.correction": "7", "trickle.outcome": "confirmed",
			}
			if !maps.Equal(got, want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		}
	}
}

// What is not known is left out, and the rest still hangs together.
func TestCorrectionWithoutItsBeginning(t *testing.T) {
	t.Parallel()
	const end = `  observe (consumer, internal)
  refetch (consumer, client)
  write (consumer, internal)
  confirm (consumer, client)
`
	looked := tracing.Way{Observe: after(100), Refetch: after(110)}
	received := looked
	received.Receive, received.Mismatch = after(20), after(25)
	for _, c := range []struct {
		way  tracing.Way
		want string
	}{
		{looked, "correct (consumer, internal)\n" + end},
		{received, "receive (consumer, consumer)\n  mismatch (consumer, internal)\n  correct (consumer, internal)\n  " + strings.TrimSuffix(strings.ReplaceAll(end, "\n", "\n  "), "  ")},
	} {
		publisher, consumer := newProcess(t), newProcess(t)
		consumer.Corrected(t.Context(), tracing.Corrected{Trace: tracing.NewTrace(), Way: c.way, Writes: []tracing.Stretch{after(120)}, Confirm: after(130)})
		if got := tree(publisher, consumer); got != c.want {
			t.Errorf("got\n%swant\n%s", got, c.want)
		}
	}
}

// A resync is one trace whoever walks its ranges, and the publisher's answers hang from the range that asked.
func TestResync(t *testing.T) {
	t.Parallel()
	publisher, consumer, other := newProcess(t), newProcess(t), newProcess(t)
	client := channel(t, publisher)
	ask(consumer.Walking(t.Context(), "r1", 0), t, client)
	ask(consumer.Walking(t.Context(), "r1", 1), t, client)
	await(t, publisher, 2)
	consumer.Walked(t.Context(), tracing.Walked{ResyncID: "r1", N: 0, Took: after(0)})
	other.Walked(t.Context(), tracing.Walked{ResyncID: "r1", N: 1, Took: after(5)})
	other.Resynced(t.Context(), tracing.Resynced{ID: "r1", Requested: began})
	for _, s := range other.made.GetSpans() { // as if it were one
		_ = consumer.made.ExportSpans(t.Context(), tracetest.SpanStubs{s}.Snapshots())
	}
	want := `resync (consumer, internal)
  range (consumer, internal)
    answer (publisher, server)
  range (consumer, internal)
    answer (publisher, server)
`
	if got := tree(publisher, consumer); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	ranges := newProcess(t)
	for n := range 130_000 {
		ranges.Walked(t.Context(), tracing.Walked{ResyncID: "large", N: n})
		if asked := ranges.Walking(t.Context(), "large", n); n == 1001 && asked != t.Context() {
			t.Error("a range without a span has the publisher make one")
		}
	}
	if n := len(ranges.made.GetSpans()); n != 1000+900+1200 {
		t.Errorf("a large resync has %d spans", n)
	}
	if tracing.ResyncTrace("r1") == tracing.ResyncTrace("r2") {
		t.Error("two resyncs are one trace")
	}
}

// A range that was picked has a trace although it is equal; the consumer knows it from the headers.
func TestPicked(t *testing.T) {
	t.Parallel()
	publisher, consumer := newProcess(t), newProcess(t)
	client := channel(t, publisher)
	id := tracing.NewTrace()
	publisher.Published(t.Context(), id, "public.t", tracing.Scanned{Scan: after(0), Publish: after(10)})
	_, picked := tracing.Received(publisher.Message(after(0), id), began.Add(time.Second))
	ask(consumer.Mismatching(t.Context(), picked), t, client)
	await(t, publisher, 3)
	consumer.Compared(t.Context(), tracing.Compared{Picked: picked, Receive: after(20), Mismatch: after(25)})
	want := `scan (publisher, internal)
  publish (publisher, producer)
    receive (consumer, consumer)
      mismatch (consumer, internal)
        answer (publisher, server)
`
	if got := tree(publisher, consumer); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	for share, want := range map[float64]bool{0: false, 1: true} {
		if got := publisher.Pick(share); got != want {
			t.Errorf("of %g it picks %t", share, got)
		}
	}
}

// Without a tracer nothing is made, sent or allocated.
func TestOff(t *testing.T) { //nolint:paralleltest // what is allocated can be told of one test at a time
	for _, off := range []*tracing.Spans{tracing.New(nil), tracing.New(noop.Tracer{})} {
		ctx, id := t.Context(), tracing.NewTrace()
		of := []tracing.Confirming{{Trace: id}}
		allocated := testing.AllocsPerRun(100, func() {
			if off.On() || off.Pick(1) || off.Message(after(0), id) != nil || off.Confirm(ctx, of) != ctx || off.Walking(ctx, "r", 0) != ctx || tracing.Question(ctx) != nil {
				t.Error("it does something")
			}
			off.Published(ctx, id, "t", tracing.Scanned{Scan: after(0)})
			off.Answered(ctx, nil, tracing.Answered{})
		})
		if allocated > 0 {
			t.Errorf("it allocates %g times", allocated)
		}
	}
}
