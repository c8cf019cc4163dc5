package scanner

import (
	"context"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.opentelemetry.io/otel/trace"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/tracing"
	"github.com/trickle-verify/trickle/transport"
)

// Job is one range to verify.
type Job struct {
	Table    string
	Cycle    uint64
	Ranges   int
	Range    cursor.Range
	Complete bool // leave nothing out, quiet or not
}

// Scanned is what a job came to.
type Scanned struct {
	Ranges     []cursor.Range // what stands for the range from now on: itself, read, or its pieces, unread
	Rows       int
	Bytes      int64
	SourceTime time.Duration
}

// Scan reads a range and sends its message. A range that has grown to more than twice its size is cut instead.
func (s *Scanner) Scan(ctx context.Context, job Job) (Scanned, error) {
	t, err := s.table(ctx, job.Table)
	if err != nil {
		return Scanned{}, err
	}
	p := s.rules()
	kind := s.Kind(job.Table)
	r := reading{t: t, job: job, kind: kind, size: p.RangeRows}
	began := time.Now()
	err = s.Source.Read(ctx, t.layout, func(c *pgconn.PgConn, at postgres.At) error {
		r.at, r.rows, r.pieces = at, nil, nil // it may be read again
		r.options = postgres.ScanOptions{
			Digest: kind, Settled: s.quiet(t, at, at.Time.Add(-time.Duration(p.Quiet))), Everything: job.Complete, Known: r.known(),
		}
		return r.read(ctx, c)
	})
	s.noticed.look(s.Source.Seen(), s.Log)
	read := tracing.Since(began)
	out := Scanned{SourceTime: read.End.Sub(read.Begin)}
	if err != nil {
		return out, s.failed(job.Table, err)
	}
	out.Rows = r.scan.Rows
	if r.pieces != nil {
		out.Ranges = r.pieces
		return out, nil
	}
	env := s.envelope(t, r.at)
	r.fill(env)
	topic := message.Topics{Pipeline: p.Pipeline}.Verify()
	value, err := s.Codec.Encode(topic, env)
	if err != nil {
		return out, err
	}
	key := job.Table + "/" + strconv.FormatUint(job.Range.ID, 16)
	var picked trace.TraceID
	if s.Spans.Pick(float64(p.Tracing.Sample)) {
		picked = tracing.NewTrace()
	}
	if err := s.Sender.Send(ctx, transport.Record{Topic: topic, Key: []byte(key), Value: value, Headers: s.Spans.Message(read, picked)}); err != nil {
		return out, err
	}
	s.Spans.Published(ctx, picked, job.Table, tracing.Scanned{Scan: read, Publish: tracing.Since(read.End), LSN: env.GetLsn(), Rows: r.scan.Print.Rows})
	out.Bytes = int64(len(value))
	out.Ranges = []cursor.Range{r.verified()}
	return out, nil
}

// reading is one range being read in one snapshot.
type reading struct {
	t       *table
	job     Job
	kind    digest.Kind
	size    int
	options postgres.ScanOptions

	at     postgres.At
	scan   postgres.Scan
	rows   []postgres.Row
	pieces []cursor.Range
}

// known is what the last reading of the range still tells, nil where it tells nothing: another digest, schema or timeline, or rows that were left out.
func (r *reading) known() *postgres.Known {
	last := r.job.Range
	if last.Xmin == 0 || last.Digest != r.kind || last.Schema != r.t.layout.Schema.GetFingerprint() || !last.CompleteAt.Equal(last.VerifiedAt) {
		return nil
	}
	// Beyond a failover the same transaction number may be another transaction's.
	if last.Timeline == 0 || last.Timeline != r.at.Timeline {
		return nil
	}
	// So may it where a server lost its last moments, in a crash or by a snapshot of its disks that was brought back, and counts on from before.
	if last.Xmin > r.at.Xmin {
		return nil
	}
	return &postgres.Known{Print: digest.Thumbprint{Rows: last.Rows, Sum: last.Sum}, Xmin: last.Xmin}
}

func (r *reading) read(ctx context.Context, c *pgconn.PgConn) error {
	l, bounds := r.t.layout, r.job.Range.Bounds
	var err error
	if r.scan, err = l.Scan(ctx, c, bounds, r.options); err != nil {
		return err
	}
	if r.scan.Rows > 2*r.size {
		keys, err := l.Boundaries(ctx, c, bounds, r.size)
		if err != nil {
			return err
		}
		r.pieces = cut(r.job.Table, bounds, keys)
		return nil
	}
	if r.t.rules.Mode != policy.ModeRows {
		return nil
	}
	page, err := l.Range(ctx, c, bounds, 0, postgres.Want{Digest: r.kind, Settled: r.options.Settled, Values: true})
	for _, row := range page.Rows {
		if row.Settled || r.options.Everything {
			r.rows = append(r.rows, row)
		}
	}
	return err
}

// fill makes the message.
func (r *reading) fill(env *tricklepb.Envelope) {
	print := &tricklepb.Thumbprint{
		Range: r.job.Range.Bounds.Proto(), Rows: r.scan.Print.Rows, Sum: r.scan.Print.Sum, LeftOut: message.Keys(r.scan.LeftOut),
		Digest: tricklepb.DigestKind(r.kind), Probe: r.t.layout.Schema.GetProbe(), RangeId: r.job.Range.ID, Cycle: r.job.Cycle, Ranges: uint64(r.job.Ranges),
	}
	if r.t.rules.Mode != policy.ModeRows {
		env.Body = &tricklepb.Envelope_Thumbprint{Thumbprint: print}
		return
	}
	rows := &tricklepb.Rows{Thumbprint: print, Columns: r.t.layout.ColumnNames()}
	for _, row := range r.rows {
		rows.Rows = append(rows.Rows, wire(row))
	}
	env.Body = &tricklepb.Envelope_Rows{Rows: rows}
}

// verified is the range as it stands after this reading.
func (r *reading) verified() cursor.Range {
	out := r.job.Range
	out.Table, out.Cycle, out.Rows, out.Sum, out.Xmin = r.job.Table, r.job.Cycle, r.scan.Print.Rows, r.scan.Print.Sum, r.at.Xmin
	if r.scan.Unchanged {
		out.Xmin = r.job.Range.Xmin // the reading that the sum is of
	}
	out.Timeline = r.at.Timeline
	out.Schema, out.Digest, out.VerifiedAt = r.t.layout.Schema.GetFingerprint(), r.kind, r.at.Time
	if len(r.scan.LeftOut) == 0 {
		out.CompleteAt = r.at.Time
	}
	return out
}

func wire(row postgres.Row) *tricklepb.Row {
	out := &tricklepb.Row{Key: row.Key.Proto(), Digest: row.Digest, Version: row.Version, Settled: row.Settled, Absent: !row.Present}
	for _, v := range row.Values {
		out.Values = append(out.Values, &tricklepb.Value{Text: v})
	}
	return out
}
