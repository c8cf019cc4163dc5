package detector

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
)

// Source is the other side as the side channel shows it. It believes only the pinned source, and only answers about the schema that the replica is
// fitted to. It is safe for concurrent use.
type Source struct {
	parts Parts

	mu      sync.Mutex
	tables  map[string]Table
	forgets int // how often all tables were forgotten
}

// Table is a table that both sides have agreed upon.
type Table struct {
	Name   string
	Schema *tricklepb.Schema
	// Kind is the digest that both sides compute alike.
	Kind digest.Kind
	// Probe is the replica's own digest of the probe row.
	Probe uint64
}

// ForeignError refuses a message that is not from the pinned source.
type ForeignError struct{ Got, Pinned string }

func (e *ForeignError) Error() string {
	if e.Pinned == "" {
		return fmt.Sprintf("the message's source %s is this very database: source and replica DSN point at the same one", e.Got)
	}
	return fmt.Sprintf("the message is from source %s, but this replica is pinned to %s: if the source was replaced on purpose, run trickle-consumer pin --source %s", e.Got, e.Pinned, e.Got)
}

// SchemaError says that an answer or message was made for another schema than the one agreed upon.
type SchemaError struct{ Table string }

func (e *SchemaError) Error() string {
	return "table " + e.Table + ": the source's schema is changing"
}

// OutdatedError refuses an answer from a source that has failed over since: what it says may have been lost with the old primary.
type OutdatedError struct{ Timeline uint32 }

// Refused makes it a Refusal that may pass: the publisher that gave the answer has yet to find the new primary.
func (e *OutdatedError) Refused() tricklepb.ErrorCode { return tricklepb.ErrorCode_ERROR_CODE_FAILED }

func (e *OutdatedError) Error() string {
	return fmt.Sprintf("the answer is from timeline %d of the source, which has failed over since: point the publisher's --source at the new primary", e.Timeline)
}

// NewSource asks through the parts' Asker.
func NewSource(parts Parts) *Source {
	return &Source{parts: parts, tables: make(map[string]Table)}
}

// Believe checks that a message is from the pinned source and tells the gate its read time. The first source ever seen is pinned.
func (s *Source) Believe(ctx context.Context, env *tricklepb.Envelope) error {
	got := env.GetSource()
	if got == s.parts.Self {
		return &ForeignError{Got: got}
	}
	// Asked for each time: a person may have pinned another since.
	pinned, err := s.parts.Ledger.Pin(ctx, got)
	if err != nil {
		return err
	}
	if got != pinned {
		return &ForeignError{Got: got, Pinned: pinned}
	}
	if at := env.GetReadAt(); at != nil {
		s.parts.Gate.Saw(at.AsTime(), env.GetTimeline())
	}
	return nil
}

// Table agrees with the publisher upon a table: it fetches the schema, fits the replica to it and compares probes. fingerprint is what the caller
// expects, 0 for whatever the source has. Its error may be a *SchemaError or one that Replica.Incomparable recognises.
func (s *Source) Table(ctx context.Context, name string, fingerprint uint64) (Table, error) {
	s.mu.Lock()
	t, ok := s.tables[name]
	forgets := s.forgets
	s.mu.Unlock()
	if ok && (fingerprint == 0 || fingerprint == t.Schema.GetFingerprint()) {
		return t, nil
	}
	hello := &tricklepb.Envelope{Table: name, Body: &tricklepb.Envelope_HelloRequest{HelloRequest: &tricklepb.HelloRequest{}}}
	reply, err := s.ask(ctx, hello)
	if err != nil {
		return Table{}, err
	}
	schema := reply.GetHelloReply().GetSchema()
	if schema == nil {
		return Table{}, fmt.Errorf("the publisher's answer about %s has no schema", name)
	}
	if fingerprint != 0 && schema.GetFingerprint() != fingerprint {
		return Table{}, &SchemaError{Table: name}
	}
	probe, err := s.parts.Replica.Fit(ctx, name, schema)
	if err != nil {
		return Table{}, err
	}
	t = Table{Name: name, Schema: schema, Kind: digest.Record, Probe: probe}
	if probe != schema.GetProbe() {
		t.Kind = digest.Portable
		if err := s.WantPortable(ctx, name); err != nil {
			return Table{}, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.forgets == forgets {
		s.tables[name] = t
	}
	return t, nil
}

// WantPortable tells the publisher that this replica can't compute the table's record digests.
func (s *Source) WantPortable(ctx context.Context, name string) error {
	_, err := s.ask(ctx, &tricklepb.Envelope{Table: name, Body: &tricklepb.Envelope_HelloRequest{HelloRequest: &tricklepb.HelloRequest{Portable: true}}})
	return err
}

// Forget makes the next Table agree anew.
func (s *Source) Forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tables, name)
}

func (s *Source) forgetAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tables)
	s.forgets++
}

// ask puts a question and believes only the pinned source's answer.
func (s *Source) ask(ctx context.Context, env *tricklepb.Envelope) (*tricklepb.Envelope, error) {
	through := s.parts.Gate.Through()
	reply, err := s.parts.Asker.Ask(ctx, env)
	if err != nil {
		return nil, err
	}
	if err := s.Believe(ctx, reply); err != nil {
		return nil, err
	}
	if at := reply.GetReadAt(); at != nil {
		s.parts.Gate.Turned(through, at.AsTime())
		if !s.parts.Gate.Heard(at.AsTime(), reply.GetTimeline()) {
			return nil, &OutdatedError{Timeline: reply.GetTimeline()}
		}
	}
	return reply, nil
}

// about asks about a table and refuses an answer made for another schema.
func (s *Source) about(ctx context.Context, t Table, env *tricklepb.Envelope) (*tricklepb.Envelope, error) {
	env.Table = t.Name
	reply, err := s.ask(ctx, env)
	if err != nil {
		return nil, err
	}
	if reply.GetSchema() != t.Schema.GetFingerprint() {
		s.Forget(t.Name)
		return nil, &SchemaError{Table: t.Name}
	}
	return reply, nil
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// Listing is a range of the source, row by row, without values.
type Listing struct {
	Equal   bool // the source's thumbprint is the expected one; nothing is listed
	Rows    map[string]drift.Fetched
	Keys    []message.Key
	Covered message.Range
	More    bool
	// Stream is set where the rows were streamed: then Rows and Keys are those that are not settled.
	Stream *Streamed
	readAt time.Time
}

// Question is what KeyDigests and Copy ask for.
type Question struct {
	Range   message.Range
	Limit   int
	Through time.Time
	// Expected is what the replica has in the whole range; nil to have the rows listed in any case.
	Expected *digest.Thumbprint
	// Stream has Copy answered with a stream where there are more rows than Limit; nil: the first Limit rows come one by one.
	Stream *Streaming
}

// KeyDigests lists a range's keys and row digests.
func (s *Source) KeyDigests(ctx context.Context, t Table, q Question) (Listing, error) {
	req := &tricklepb.KeyDigestsRequest{Range: q.Range.Proto(), Limit: uint32(q.Limit), Digest: tricklepb.DigestKind(t.Kind), SettledBefore: stamp(q.Through)}
	if q.Expected != nil {
		req.Expected = &tricklepb.Expected{Rows: q.Expected.Rows, Sum: q.Expected.Sum}
	}
	reply, err := s.about(ctx, t, &tricklepb.Envelope{Body: &tricklepb.Envelope_KeyDigestsRequest{KeyDigestsRequest: req}})
	if err != nil {
		return Listing{}, err
	}
	body := reply.GetKeyDigestsReply()
	if body == nil {
		return Listing{}, fmt.Errorf("the publisher's answer about a range of %s is no list of keys", t.Name)
	}
	l := listing(reply, body.GetRows())
	l.Equal, l.Covered, l.More = body.GetEqual(), message.RangeOf(body.GetRange()), body.GetMore()
	return l, nil
}

// Copy reads a range's rows whole.
func (s *Source) Copy(ctx context.Context, t Table, q Question) (Listing, error) {
	req := &tricklepb.CopyRequest{Range: q.Range.Proto(), Limit: uint32(q.Limit), Digest: tricklepb.DigestKind(t.Kind), SettledBefore: stamp(q.Through), Stream: q.Stream.proto()}
	reply, err := s.about(ctx, t, &tricklepb.Envelope{Body: &tricklepb.Envelope_CopyRequest{CopyRequest: req}})
	if err != nil {
		return Listing{}, err
	}
	if q.Stream != nil && reply.GetStreamReply() != nil {
		return streamed(reply, q)
	}
	body := reply.GetRowsReply()
	if body == nil {
		return Listing{}, fmt.Errorf("the publisher's answer about a range of %s holds no rows", t.Name)
	}
	l := listing(reply, body.GetRows())
	l.Covered, l.More = message.RangeOf(body.GetRange()), body.GetMore()
	return l, nil
}

func listing(env *tricklepb.Envelope, rows []*tricklepb.Row) Listing {
	l := Listing{Rows: make(map[string]drift.Fetched, len(rows)), Keys: make([]message.Key, len(rows)), readAt: env.GetReadAt().AsTime()}
	for i, row := range rows {
		key := message.KeyOf(row.GetKey())
		l.Keys[i] = key
		l.Rows[key.ID()] = fetched(env, row)
	}
	return l
}

func fetched(env *tricklepb.Envelope, row *tricklepb.Row) drift.Fetched {
	f := drift.Fetched{Present: !row.GetAbsent(), Version: row.GetVersion(), Digest: row.GetDigest(), Settled: row.GetSettled(), ReadAt: env.GetReadAt().AsTime(), LSN: env.GetLsn()}
	for _, v := range row.GetValues() {
		f.Values = append(f.Values, v.Text) //nolint:protogetter // the getter would turn NULL into an empty value
	}
	return f
}

// refetchBatch is how many keys travel in one request.
const refetchBatch = 1000

// Refetch reads keys at the source, fenced: one row for each, in that order.
func (s *Source) Refetch(ctx context.Context, t Table, keys []message.Key, o Refetching) ([]drift.Fetched, error) {
	out := make([]drift.Fetched, 0, len(keys))
	for len(out) < len(keys) {
		part := keys[len(out):min(len(out)+refetchBatch, len(keys))]
		reply, err := s.about(ctx, t, &tricklepb.Envelope{Body: &tricklepb.Envelope_RefetchRequest{RefetchRequest: &tricklepb.RefetchRequest{
			Keys: message.Keys(part), Digest: tricklepb.DigestKind(t.Kind), SettledBefore: stamp(o.Through), DigestsOnly: o.DigestsOnly,
		}}})
		if err != nil {
			return nil, err
		}
		rows := reply.GetRowsReply().GetRows()
		if len(rows) == 0 || len(rows) > len(part) {
			return nil, fmt.Errorf("the publisher answered %d of %d keys of %s", len(rows), len(part), t.Name)
		}
		for _, row := range rows {
			out = append(out, fetched(reply, row))
		}
	}
	return out, nil
}

// Refetching tells what a refetch wants besides the digests.
type Refetching struct {
	Through     time.Time
	DigestsOnly bool
}

// Size of a piece: about so many rows or, where Bytes is not 0 and a whole table is much larger, about so many bytes.
type Size struct{ Rows, Bytes int }

// Boundaries asks where the source would cut a range into pieces of a size.
func (s *Source) Boundaries(ctx context.Context, t Table, r message.Range, size Size) ([]message.Range, error) {
	reply, err := s.about(ctx, t, &tricklepb.Envelope{Body: &tricklepb.Envelope_BoundariesRequest{BoundariesRequest: &tricklepb.BoundariesRequest{
		Range: r.Proto(), Rows: uint32(size.Rows), Bytes: uint64(size.Bytes),
	}}})
	if err != nil {
		return nil, err
	}
	out := []message.Range{r}
	for _, k := range message.KeysOf(reply.GetBoundariesReply().GetKeys()) {
		rest := message.Range{Lo: k, Hi: out[len(out)-1].Hi}
		out[len(out)-1].Hi = k
		out = append(out, rest)
	}
	return out, nil
}
