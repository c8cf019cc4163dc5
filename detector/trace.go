package detector

import (
	"context"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/tracing"
)

// receipt is how a message came in.
type receipt struct {
	where   string
	began   time.Time
	scanned tracing.Scanned
	picked  trace.SpanContext // the trace that the range has of its own; invalid: none
	looked  tracing.Stretch   // for which rows differ; zero: it was not
}

// receipt reads what a delivery says about its trace. Headers are not signed: they may be anything.
func (d *Detector) receipt(m Delivery, began time.Time) receipt {
	r := receipt{where: m.Where, began: began}
	if !d.Spans.On() || m.Envelope == nil {
		return r
	}
	r.scanned, r.picked = tracing.Received(m.Headers, m.At)
	r.scanned.LSN, r.scanned.Rows = m.Envelope.GetLsn(), thumbprint(m.Envelope).GetRows()
	if d.rules().Tracing.Sample == 0 { // here nobody asked for it
		r.picked = trace.SpanContext{}
	}
	return r
}

// way is what the suspects of a range remember of how they were found; empty where nothing is traced.
func (d *Detector) way(r *receipt, suspects int) string {
	if !d.Spans.On() || suspects == 0 || r.began.IsZero() {
		return ""
	}
	return tracing.Way{
		Scanned: r.scanned, Receive: tracing.Since(r.began), Mismatch: r.looked, Message: r.where, Picked: tracing.Parent(r.picked), Suspects: suspects,
	}.Text()
}

// traced makes the spans of a range that the publisher picked.
func (d *Detector) traced(ctx context.Context, v entry.Verified, suspects int, r *receipt) {
	if !r.picked.IsValid() {
		return
	}
	d.Spans.Compared(ctx, tracing.Compared{
		Picked: r.picked, Receive: tracing.Since(r.began), Mismatch: r.looked, Table: v.Table, Message: r.where, Equal: v.Equal, Suspects: suspects,
	})
}

// looks is when a batch of suspects was looked at again.
type looks struct {
	observe, refetch tracing.Stretch
	lag              time.Duration
}

// remembering completes what a suspect remembers, for the correction that comes of it.
func (d *Detector) remembering(s drift.Suspect, l looks, source drift.Fetched) string {
	if !d.Spans.On() || s.ResyncID != "" {
		return ""
	}
	way, _ := tracing.ParseWay(s.Trace) // where there is none, the trace begins here
	way.Observe, way.Refetch, way.Lag, way.Attempts, way.LSN = l.observe, l.refetch, l.lag, s.Attempts, source.LSN
	return way.Text()
}

// name gives every change the id of its trace: the resync's, or one of its own.
func name(changes []drift.Change) {
	for i := range changes {
		ch := &changes[i]
		switch {
		case ch.TraceID != "":
		case ch.ResyncID != "":
			ch.TraceID = tracing.ResyncTrace(ch.ResyncID).String()
		default:
			ch.TraceID = tracing.NewTrace().String()
		}
	}
}

// telling is what is known of a written correction for its trace.
type telling struct {
	traceID string
	kept    string // see tracing.Way; empty: it is not traced by itself
	columns []string
	writes  []tracing.Stretch
	confirm time.Time // when it began to be confirmed
	asked   bool      // the publisher was told of its scan
	resumed bool
}

// confirming names the corrections in the question that confirms them, so that whoever answers makes its own spans.
func (c *Corrector) confirming(ctx context.Context, open []written) context.Context {
	if !c.Spans.On() {
		return ctx
	}
	var of []tracing.Confirming
	for _, w := range open {
		id, err := trace.TraceIDFromHex(w.tell.traceID)
		if err != nil || w.tell.kept == "" {
			continue
		}
		one := tracing.Confirming{Trace: id}
		if way, ok := tracing.ParseWay(w.tell.kept); ok && !w.tell.asked {
			one.Scanned = way.Scanned
		}
		of = append(of, one)
	}
	return c.Spans.Confirm(ctx, of)
}

// closed ends corrections and makes their spans.
func (c *Corrector) closed(ctx context.Context, t Table, outcome string, of []written) error {
	ids := make([]int64, len(of))
	for i, w := range of {
		ids[i] = w.entry
	}
	done, err := c.Ledger.Close(ctx, outcome, ids)
	if err != nil || !c.Spans.On() {
		return err
	}
	for _, w := range of {
		id, err := trace.TraceIDFromHex(w.tell.traceID)
		if err != nil || w.tell.kept == "" || !slices.Contains(done, w.entry) { // who else closed it has told of it
			continue
		}
		way, _ := tracing.ParseWay(w.tell.kept)
		if !w.tell.asked { // so no publisher tells of the scan
			way.Scanned = tracing.Scanned{}
		}
		c.Spans.Corrected(ctx, tracing.Corrected{
			Trace: id, Way: way, Writes: w.tell.writes, Confirm: tracing.Since(w.tell.confirm), Table: t.Name, Kind: string(w.kind), Key: c.shown(w),
			Columns: w.tell.columns, Entry: w.entry, Outcome: outcome, Resumed: w.tell.resumed,
		})
	}
	return nil
}

// shown is a key as the policy lets traces show it; empty: not at all.
func (c *Corrector) shown(w written) string {
	if c.Privacy == nil || c.Privacy().Keys == "omit" {
		return ""
	}
	return c.Privacy().Key(w.now.Key.String())
}

// again is what is known after another round of writing.
func (t telling) again(began time.Time) telling {
	t.writes = append(slices.Clip(t.writes), tracing.Since(began))
	return t
}

// resumed is what is known of a correction that somebody else wrote: the columns are not.
func resumed(o entry.OpenCorrection) telling {
	t := telling{traceID: o.TraceID, kept: o.Trace, confirm: time.Now(), resumed: true}
	if way, ok := tracing.ParseWay(o.Trace); ok {
		t.writes = []tracing.Stretch{{Begin: way.Refetch.End, End: o.At}}
	}
	return t
}
