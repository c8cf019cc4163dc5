// Package scanner reads ranges of the source and turns them into verification messages, and answers what replicas ask.
//
// It decides what a range's message says: the quiet rows as a thumbprint or whole, and which keys were left out. What always holds: every
// message and every answer is of one snapshot and names it, with the source's identity and the table's schema; an answer that a replica may write
// from was read from a snapshot that shows all that CDC could have delivered before the request came in (else it is refused as unstable); the
// source is never written. A table that can't be read is reported as paused with the reason, and the others go on.
package scanner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/tracing"
	"github.com/trickle-verify/trickle/transport"
)

// Sender makes messages durable; see package transport.
type Sender interface {
	Send(ctx context.Context, records ...transport.Record) error
}

// Samples knows which transactions had ended when; see package scheduler.
type Samples interface {
	// Before gives the newest sample taken at or before t.
	Before(t time.Time) (cursor.Sample, bool)
}

// Parts are what a scanner is made of.
type Parts struct {
	Source   *postgres.Source
	Identity postgres.Identity
	Sender   Sender
	Codec    message.Codec
	Samples  Samples
	Log      *slog.Logger
	// Spans are made of ranges that the policy has traced; nil: none.
	Spans *tracing.Spans
}

// Scanner reads one source. It is safe for concurrent use.
type Scanner struct {
	Parts

	mu       sync.Mutex
	policy   *policy.Policy
	tables   map[string]*table
	portable map[string]bool // some replica can't compute the record digest
	newest   cursor.Sample

	noticed notice
}

// table is one that the policy names and the source has.
type table struct {
	rules  policy.Table
	layout *postgres.Layout
}

// New makes a scanner for a policy.
func New(p *policy.Policy, parts Parts) *Scanner {
	if parts.Log == nil {
		parts.Log = slog.New(slog.DiscardHandler)
	}
	return &Scanner{Parts: parts, policy: p, tables: make(map[string]*table), portable: make(map[string]bool)}
}

// SetPolicy replaces the policy; tables are described again.
func (s *Scanner) SetPolicy(p *policy.Policy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.policy = p
	clear(s.tables)
}

// Policy gives the one in force.
func (s *Scanner) Policy() *policy.Policy { return s.rules() }

func (s *Scanner) rules() *policy.Policy {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.policy
}

// Found is a table of the policy and, where it can't be scanned, why.
type Found struct {
	Name   string
	Paused string
}

// Tables finds the tables that the policy names. Those without a key, or that may not be read, come with the reason, and so does an entry that
// matches nothing.
func (s *Scanner) Tables(ctx context.Context) ([]Found, error) {
	names, err := s.Source.Tables(ctx)
	if err != nil {
		return nil, err
	}
	p := s.rules()
	var found []Found
	matched := make(map[string]bool)
	for _, n := range names {
		m, ok := p.For(n.Schema, n.Table)
		if !ok || p.Gate.Heartbeat.Enabled && n.String() == p.Gate.Heartbeat.Table {
			continue
		}
		matched[m.Table.Table] = true
		f := Found{Name: n.String()}
		if _, err := s.table(ctx, f.Name); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			f.Paused = err.Error()
		}
		found = append(found, f)
	}
	for _, t := range p.Tables {
		if !matched[t.Table] && !shadowed(t, names) {
			found = append(found, Found{Name: t.Table, Paused: fmt.Sprintf("tables: %s matches no table of the source database: check the name, or the schema", t.Table)})
		}
	}
	return found, nil
}

// shadowed tells an entry whose tables all belong to a more exact one from an entry that matches nothing.
func shadowed(t policy.Table, names []postgres.Name) bool {
	pattern, err := policy.ParsePattern(t.Table)
	if err != nil {
		return false
	}
	for _, n := range names {
		if pattern.Match(n.Schema, n.Table) {
			return true
		}
	}
	return false
}

// table gives a table's layout, describing it when that was not done yet.
func (s *Scanner) table(ctx context.Context, name string) (*table, error) {
	s.mu.Lock()
	t, p := s.tables[name], s.policy
	s.mu.Unlock()
	if t != nil {
		return t, nil
	}
	n := postgres.ParseName(name)
	m, ok := p.For(n.Schema, n.Table)
	if !ok {
		return nil, &unknownTableError{table: name}
	}
	layout, err := s.Source.Describe(ctx, n, Rules(m.Table))
	if err != nil {
		return nil, explain(n, err)
	}
	t = &table{rules: m.Table, layout: layout}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.policy == p { // else it was described by rules that are no longer in force
		s.tables[name] = t
	}
	return t, nil
}

type unknownTableError struct{ table string }

func (e *unknownTableError) Error() string {
	return "table " + e.table + " is in no entry of the publisher's policy"
}

// explain adds the next step to a refusal of rights.
func explain(n postgres.Name, err error) error {
	if postgres.State(err) == "42501" {
		return fmt.Errorf("table %s may not be read: GRANT USAGE ON SCHEMA %s TO …; GRANT SELECT ON %s TO … (the publisher's role; with row-level security, BYPASSRLS too): %w", n, postgres.Quote(n.Schema), n.SQL(), err)
	}
	return err
}

// Rules are a policy entry's as package postgres takes them.
func Rules(t policy.Table) postgres.Rules {
	r := postgres.Rules{
		Exclude: t.Columns.Exclude, Compare: t.Columns.Compare, Rename: t.Columns.Rename,
		Where: t.Where, ReplicaWhere: t.ReplicaWhere, QuietColumn: t.QuietColumn,
	}
	if t.Compare == "bytes" {
		r.Exact = postgres.ByBytes
	}
	if t.JSONB == "text" {
		r.JSON = postgres.JSONAsText
	}
	return r
}

func (s *Scanner) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tables, name)
}

// Kind is of which digests a table is compared: those of records, until a replica can't compute these.
func (s *Scanner) Kind(name string) digest.Kind {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.portable[name] {
		return digest.Portable
	}
	return digest.Record
}

// wantPortable: some replica can't compute the table's record digests.
func (s *Scanner) wantPortable(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.portable[name] = true
}

// Plan cuts a piece of a table into ranges of about range_rows rows.
func (s *Scanner) Plan(ctx context.Context, name string, within message.Range) ([]cursor.Range, error) {
	t, err := s.table(ctx, name)
	if err != nil {
		return nil, err
	}
	var keys []message.Key
	err = s.Source.Read(ctx, t.layout, func(c *pgconn.PgConn, _ postgres.At) error {
		keys, err = t.layout.Boundaries(ctx, c, within, s.rules().RangeRows)
		return err
	})
	if err != nil {
		return nil, s.failed(name, err)
	}
	return cut(name, within, keys), nil
}

// samplesPerPiece is how many keys a piece is measured by: with 256 of them two pieces differ by some 10 % where the heap's order has nothing to
// do with the key's, and by next to nothing where it follows it.
const samplesPerPiece = 256

// Divide cuts a table into at most most pieces of about equal size, of at least about rows rows each, without reading it: by rows from blocks
// that are evenly spaced over it.
func (s *Scanner) Divide(ctx context.Context, name string, most, rows int) (Division, error) {
	t, err := s.table(ctx, name)
	if err != nil {
		return Division{}, err
	}
	var sample postgres.Sample
	err = s.Source.Read(ctx, t.layout, func(c *pgconn.PgConn, _ postgres.At) error {
		sample, err = t.layout.Sample(ctx, c, max(1, rows/samplesPerPiece), most*samplesPerPiece)
		return err
	})
	if err != nil {
		return Division{}, s.failed(name, err)
	}
	pieces := min(most, int(sample.Rows)/rows, len(sample.Keys))
	var keys []message.Key
	for i := 1; i < pieces; i++ {
		keys = append(keys, sample.Keys[i*len(sample.Keys)/pieces])
	}
	d := Division{Rows: uint64(max(sample.Rows, 0))}
	for _, r := range cut(name, message.Range{}, keys) {
		d.Pieces = append(d.Pieces, r.Bounds)
	}
	return d, nil
}

// Division is how a table may be cut.
type Division struct {
	Rows   uint64 // as many as there seem to be
	Pieces []message.Range
}

// cut makes ranges of a range and the boundaries inside it.
func cut(name string, r message.Range, keys []message.Key) []cursor.Range {
	out := make([]cursor.Range, 0, len(keys)+1)
	lo := r.Lo
	for _, k := range keys {
		out = append(out, cursor.Range{Table: name, Bounds: message.Range{Lo: lo, Hi: k}})
		lo = k
	}
	return append(out, cursor.Range{Table: name, Bounds: message.Range{Lo: lo, Hi: r.Hi}})
}

// failed forgets a table that is no longer what it was, so that it is described again.
func (s *Scanner) failed(name string, err error) error {
	if errors.Is(err, postgres.ErrChanged) {
		s.forget(name)
	}
	return explain(postgres.ParseName(name), err)
}

// Sample reads the clock and the oldest running transaction of the server that is written to.
func (s *Scanner) Sample(ctx context.Context) (cursor.Sample, error) {
	at, err := s.Source.Sample(ctx)
	if err != nil {
		return cursor.Sample{}, err
	}
	sample := cursor.Sample{At: at.Time, Xmin: at.Xmin, Timeline: at.Timeline}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest.At.IsZero() || s.newest.Timeline != sample.Timeline {
		s.newest = sample // the first one stands in until memory reaches back far enough
	}
	return sample, nil
}

// settled tells rows whose writers had ended by a time. Zero: none. A sample of another timeline tells nothing: a promoted standby gives transactions numbers
// that the old primary may have given to others.
func (s *Scanner) settled(at postgres.At, by time.Time) postgres.Settled {
	if by.IsZero() {
		return postgres.Settled{}
	}
	sample, _ := s.Samples.Before(by)
	if sample.Timeline != at.Timeline {
		return postgres.Settled{}
	}
	return postgres.Settled{Xmin: sample.Xmin}
}

// quiet is settled for a scan: until samples reach back far enough, whatever was written before the first one counts as quiet. That costs no
// safety: quietness only spares the replica suspects that would resolve themselves. So a column of times will do for it, which proves nothing: it is set before
// its transaction ends, or not at all.
func (s *Scanner) quiet(t *table, at postgres.At, by time.Time) postgres.Settled {
	if t.rules.QuietColumn != "" {
		return postgres.Settled{Column: t.rules.QuietColumn, Before: by.Format(time.RFC3339Nano)}
	}
	q := s.settled(at, by)
	if q.Xmin == 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		q.Xmin = s.newest.Xmin
	}
	return q
}

// envelope is what every message about a read carries.
func (s *Scanner) envelope(t *table, at postgres.At) *tricklepb.Envelope {
	return &tricklepb.Envelope{
		Pipeline: s.rules().Pipeline, Source: s.Identity.String(), Table: t.layout.Name.String(), Schema: t.layout.Schema.GetFingerprint(),
		Snapshot: at.Snapshot, Lsn: at.LSN, ReadAt: timestamppb.New(at.Time), Timeline: at.Timeline, Id: uuid.NewString(),
	}
}
