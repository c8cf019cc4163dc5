package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/export"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/scanner"
	"github.com/trickle-verify/trickle/transport"
)

// errNoView is why nothing is built, listed or verified.
var errNoView = errors.New("the policy names no place for the base-line view: set baseline.url")

// openSets opens a store until the stack is closed.
func (s Settings) openSets(ctx context.Context, st *stack, o baseline.Options) (*baseline.Store, error) {
	if o.URL == "" {
		return nil, errNoView
	}
	store, err := baseline.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	st.push(func() {
		if err := store.Close(); err != nil {
			s.Log.Debug("closing the store of the base-line view", "err", err)
		}
	})
	return store, nil
}

// setJob is a set to be built.
type setJob struct {
	policy   *policy.Policy
	source   *postgres.Source
	identity postgres.Identity
	logs     func(ctx context.Context, topics []string) ([]transport.Log, error)
	store    export.Store
	pace     export.Pace // nil: none
	report   func(export.Progress)
	afresh   bool
	digest   func(table string) digest.Kind // nil, or 0: as the set before has it
}

// buildSet builds a set of the tables that a policy covers.
func (s Settings) buildSet(ctx context.Context, j setJob) (export.Built, error) {
	names, err := j.source.Tables(ctx)
	if err != nil {
		return export.Built{}, listing("source", err)
	}
	topics, err := cdcTopics(j.policy, names)
	if err != nil {
		return export.Built{}, err
	}
	o := export.Options{Pipeline: j.policy.Pipeline, Source: j.identity.String(), Object: int(j.policy.Baseline.Object), Afresh: j.afresh}
	for _, name := range names {
		if j.policy.Gate.Heartbeat.Enabled && name.String() == j.policy.Gate.Heartbeat.Table {
			continue // it is no table of the user's
		}
		if m, ok := j.policy.For(name.Schema, name.Table); ok {
			t := export.Table{Name: name, Rules: scanner.Rules(m.Table), Chosen: m.Chosen()}
			if j.digest != nil {
				t.Digest = j.digest(name.String())
			}
			o.Tables = append(o.Tables, t)
		}
	}
	parts := export.Parts{
		Source: j.source, Store: j.store, Pace: j.pace, Report: j.report, Log: s.Log,
		Logs: func(ctx context.Context) ([]transport.Log, error) { return j.logs(ctx, topics) },
	}
	return export.Build(ctx, parts, o)
}

// BuildOptions are what trickle baseline build is asked for.
type BuildOptions struct {
	Afresh bool
	// Digest is what its tables are summed by; 0: as the set before has it.
	Digest digest.Kind
	Report func(export.Progress)
}

// BuiltSet is what it prints.
type BuiltSet struct {
	Set     string       `json:"set"`
	Tables  []BuiltTable `json:"tables"`
	Rows    uint64       `json:"rows"`
	Objects Objects      `json:"objects"`
	// Bytes is the size of the set in the store, Written how much of it was written now.
	Bytes   int64   `json:"bytes"`
	Written int64   `json:"written"`
	Removed Removed `json:"removed"`
	Seconds float64 `json:"seconds"`
}

// BuiltTable is one of its tables.
type BuiltTable struct {
	Table   string `json:"table"`
	Rows    uint64 `json:"rows"`
	Objects int    `json:"objects"`
	Bytes   int64  `json:"bytes"`
}

// Objects tells how many objects were written, and how many were there and are named again.
type Objects struct {
	New    int `json:"new"`
	Reused int `json:"reused"`
}

// Removed is what retention has removed.
type Removed struct {
	Sets    int `json:"sets"`
	Objects int `json:"objects"`
}

// BaselineBuild builds one set now, at full speed.
func BaselineBuild(ctx context.Context, s Settings, o BuildOptions) (BuiltSet, error) {
	var st stack
	defer st.close()
	began := time.Now()
	p, err := s.LoadPolicy()
	if err != nil {
		return BuiltSet{}, err
	}
	store, err := s.openSets(ctx, &st, toBuild(s.view(p)))
	if err != nil {
		return BuiltSet{}, err
	}
	pool, id, err := s.openSource(ctx, &st)
	if err != nil {
		return BuiltSet{}, err
	}
	primary, err := s.openPrimary(ctx, &st, id)
	if err != nil {
		return BuiltSet{}, err
	}
	bus, err := s.openBus(ctx, &st)
	if err != nil {
		return BuiltSet{}, fmt.Errorf("a set needs the position in the CDC's logs that it is played forward from: %w", err)
	}
	source := postgres.NewStandbySource(pool, primary)
	built, err := s.buildSet(ctx, setJob{policy: p, source: source, identity: id, logs: bus.Logs, store: store, report: o.Report, afresh: o.Afresh, digest: func(string) digest.Kind { return o.Digest }})
	if err != nil {
		return BuiltSet{}, err
	}
	out := BuiltSet{Set: built.Manifest.Set, Objects: Objects{built.Progress.New, built.Progress.Reused}, Written: built.Progress.Bytes}
	for _, t := range built.Manifest.Tables {
		size := sizeOf(t)
		out.Tables = append(out.Tables, BuiltTable{t.Table, t.Rows, len(t.Objects), size})
		out.Rows, out.Bytes = out.Rows+t.Rows, out.Bytes+size
	}
	pruned, err := store.Prune(ctx, baseline.Retention{Keep: p.Baseline.Keep, Now: time.Now()})
	if err != nil {
		s.Log.Warn("old sets of the base-line view are not removed yet", "err", err)
	}
	out.Removed = Removed{pruned.Sets, pruned.Objects}
	out.Seconds = time.Since(began).Seconds()
	return out, nil
}

func sizeOf(t baseline.Table) (bytes int64) {
	for _, o := range t.Objects {
		bytes += o.Bytes
	}
	return bytes
}

// States of a set that is listed.
const (
	SetComplete   = "complete"
	SetUnderWay   = "under way"
	SetUnreadable = "unreadable"
)

// ListedSet is one set of the store.
type ListedSet struct {
	Set     string    `json:"set"`
	State   string    `json:"state"`
	Reason  string    `json:"reason,omitempty"` // why it is unreadable
	Source  string    `json:"source,omitempty"`
	Taken   time.Time `json:"taken,omitzero"` // its oldest position, from which it is played forward
	Written time.Time `json:"written"`
	Tables  int       `json:"tables"`
	Rows    uint64    `json:"rows"`
	Objects int       `json:"objects"`
	Bytes   int64     `json:"bytes"`
	// Valid tells whether the CDC's logs still hold all that came after it; left out where no brokers were given.
	Valid   *bool     `json:"valid,omitempty"`
	Invalid string    `json:"invalid,omitempty"` // why not
	Events  int64     `json:"events,omitempty"`  // that a replay would read
	Expires time.Time `json:"expires,omitzero"`
}

// BaselineList lists the sets of a policy's store, newest first.
func BaselineList(ctx context.Context, s Settings) ([]ListedSet, error) {
	var st stack
	defer st.close()
	p, err := s.LoadPolicy()
	if err != nil {
		return nil, err
	}
	store, err := s.openSets(ctx, &st, s.view(p))
	if errors.Is(err, fs.ErrNotExist) {
		s.Log.Warn("there are no sets", "err", err)
		return []ListedSet{}, nil
	}
	if err != nil {
		return nil, err
	}
	var bus *transport.Kafka
	if len(s.Brokers) > 0 {
		if bus, err = s.openBus(ctx, &st); err != nil {
			return nil, err
		}
	}
	sets, err := store.Sets(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]ListedSet, 0, len(sets))
	for _, l := range sets {
		row, m, err := describeSet(ctx, store, l)
		if errors.Is(err, baseline.ErrNoSet) {
			continue // it was removed, or completed, since it was listed
		}
		if err != nil {
			return nil, err
		}
		if bus != nil && m != nil && m.Complete() {
			if err := row.judge(ctx, bus, m, p); err != nil {
				return nil, err
			}
		}
		out = append(out, row)
	}
	return out, nil
}

// describeSet reads a set's manifest; one that can't be used is nil.
func describeSet(ctx context.Context, store *baseline.Store, l baseline.Listed) (ListedSet, *baseline.Manifest, error) {
	row := ListedSet{Set: l.Set, State: SetComplete, Written: l.Written.UTC()}
	load := store.Load
	if l.Partial {
		row.State, load = SetUnderWay, store.Partial
	}
	m, err := load(ctx, l.Set)
	if baseline.Unusable(err) {
		row.State, row.Reason = SetUnreadable, err.Error()
		return row, nil, nil
	}
	if err != nil {
		return row, nil, err
	}
	row.Source, row.Tables = m.Source, len(m.Tables)
	for _, t := range m.Tables {
		row.Objects, row.Bytes = row.Objects+len(t.Objects), row.Bytes+sizeOf(t)
		for _, o := range t.Objects {
			row.Rows += o.Rows
		}
	}
	if start, err := m.Start(); err == nil {
		row.Taken = start.Taken.UTC()
	}
	return row, m, nil
}

func (row *ListedSet) judge(ctx context.Context, bus *transport.Kafka, m *baseline.Manifest, p *policy.Policy) error {
	start, err := m.Start()
	if err != nil {
		return err
	}
	logs, err := bus.Logs(ctx, start.Position.Topics())
	if err != nil {
		return err
	}
	age := m.Judge(baseline.Seen{At: time.Now(), Logs: logs}, baseline.Seen{}, time.Duration(p.Baseline.Refresh))
	valid := age.Reason == ""
	row.Valid, row.Invalid, row.Events, row.Expires = &valid, age.Reason, age.Events, age.Expires
	return nil
}
