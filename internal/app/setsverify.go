package app

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/scanner"
)

// Databases that a set can be held against.
const (
	AgainstSource  = "source"
	AgainstReplica = "replica"
)

// VerifyOptions are what trickle baseline verify is asked for.
type VerifyOptions struct {
	Set     string // empty: the newest complete one
	Against string // source, replica, or empty: no database is asked
	Limit   int    // of rows that are listed for each table
	Report  func(VerifyProgress)
}

// VerifyProgress is how far it is.
type VerifyProgress struct {
	Table         string
	Objects, Done int
	Rows          uint64
}

// VerifiedSet is what it prints: what was checked, and what was found. Nothing is claimed that is not under Checked.
type VerifiedSet struct {
	Set     string `json:"set"`
	Sound   bool   `json:"sound"`
	Against string `json:"against,omitempty"`
	// Checked names what was found out of every object.
	Checked []string        `json:"checked"`
	Tables  []VerifiedTable `json:"tables"`
	Faults  []string        `json:"faults"` // damaged, missing or foreign objects
}

// VerifiedTable is one of its tables.
type VerifiedTable struct {
	Table   string `json:"table"`
	Objects int    `json:"objects"`
	Rows    uint64 `json:"rows"`
	Bytes   int64  `json:"bytes"`
	// What follows is of --against.
	Against *VerifiedAgainst `json:"against,omitempty"`
}

// VerifiedAgainst is how a table of a set stands to a database's.
type VerifiedAgainst struct {
	Refused string `json:"refused,omitempty"` // why nothing was compared
	Agree   int    `json:"ranges_agree"`
	Differ  int    `json:"ranges_differ"`
	// Proven are ranges that differ of which the database has digested the set's own rows, and found the thumbprint that the manifest says.
	Proven int `json:"ranges_proven"`
	Untold int `json:"ranges_untold"` // that differ, and whose rows can't be told
	// Rows that differ: written since the set was, only in the set with no trace at the source, and without any such excuse.
	Since    int             `json:"changed_since"`
	Gone     int             `json:"gone_since"`
	Unproven int             `json:"unexplained"`
	Listed   []UnexplainedAt `json:"rows,omitempty"`
}

// UnexplainedAt is a row without an excuse.
type UnexplainedAt struct {
	Key  string `json:"key"`
	Kind string `json:"kind"`
}

// BaselineVerify reads every object of a set again.
func BaselineVerify(ctx context.Context, s Settings, o VerifyOptions) (VerifiedSet, error) {
	var st stack
	defer st.close()
	if o.Against != "" && o.Against != AgainstSource && o.Against != AgainstReplica {
		return VerifiedSet{}, fmt.Errorf("--against takes source or replica, and not %q", o.Against)
	}
	p, err := s.LoadPolicy()
	if err != nil {
		return VerifiedSet{}, err
	}
	store, err := s.openSets(ctx, &st, s.view(p))
	if err != nil {
		return VerifiedSet{}, err
	}
	var m *baseline.Manifest
	if o.Set == "" {
		m, err = store.Latest(ctx)
	} else {
		m, err = store.Load(ctx, o.Set)
	}
	if err != nil {
		return VerifiedSet{}, err
	}
	v := &verifying{VerifyOptions: o, store: store, set: m, policy: p, out: VerifiedSet{Set: m.Set, Against: o.Against, Faults: []string{}}}
	v.out.Checked = []string{"size", "SHA-256", "header", "rows counted", "sums as written"}
	if err := v.open(ctx, &st, s); err != nil {
		return VerifiedSet{}, err
	}
	if err := v.listen(ctx, &st, s, p); err != nil {
		return VerifiedSet{}, err
	}
	for i := range m.Tables {
		if err := v.table(ctx, &m.Tables[i]); err != nil {
			return VerifiedSet{}, err
		}
	}
	v.out.Sound = len(v.out.Faults) == 0 && !slices.ContainsFunc(v.out.Tables, func(t VerifiedTable) bool {
		return t.Against != nil && (t.Against.Unproven > 0 || t.Against.Refused != "" || t.Against.Untold > 0)
	})
	return v.out, nil
}

// verifying is a set that is being verified.
type verifying struct {
	VerifyOptions
	store    *baseline.Store
	set      *baseline.Manifest
	policy   *policy.Policy
	pool     *pgxpool.Pool // nil: no database is asked
	timeline uint32
	heard    bool                // CDC's topics were read
	since    map[string]*touched // what they hold
	out      VerifiedSet
	done     VerifyProgress
}

// open opens the database that the set is held against.
func (v *verifying) open(ctx context.Context, st *stack, s Settings) error {
	for _, t := range v.set.Tables {
		v.done.Objects += len(t.Objects)
	}
	var id postgres.Identity
	var err error
	switch v.Against {
	case "":
		return nil
	case AgainstSource:
		if v.pool, id, err = s.openSource(ctx, st); err != nil {
			return err
		}
		if err := v.set.CheckSource(id.String()); err != nil {
			return err
		}
		var now postgres.At
		now, err = postgres.NewSource(v.pool).Sample(ctx)
		v.timeline = now.Timeline
	default:
		v.pool, _, err = s.openReplica(ctx, st)
	}
	v.out.Checked = append(v.out.Checked, "thumbprints against the rows of the "+v.Against)
	return err
}

func (v *verifying) table(ctx context.Context, t *baseline.Table) error {
	row := VerifiedTable{Table: t.Table, Objects: len(t.Objects), Rows: t.Rows, Bytes: sizeOf(*t)}
	against, err := v.fit(ctx, t)
	if v.pool != nil {
		row.Against = &VerifiedAgainst{}
		if err != nil {
			row.Against.Refused = err.Error()
		}
	}
	for i := range t.Objects {
		o := &t.Objects[i]
		fault := v.store.Audit(ctx, v.set, t, o)
		if fault == nil && row.Against != nil && row.Against.Refused == "" {
			fault = v.compare(ctx, t, o, *against, row.Against)
		}
		var unusable interface{ Unusable() bool }
		switch {
		case fault == nil:
		case errors.As(fault, &unusable):
			v.out.Faults = append(v.out.Faults, fault.Error())
		default:
			return fault
		}
		v.done.Table, v.done.Done, v.done.Rows = t.Table, v.done.Done+1, v.done.Rows+o.Rows
		if v.Report != nil {
			v.Report(v.done)
		}
	}
	v.out.Tables = append(v.out.Tables, row)
	return nil
}

// fit lays the other side's table out as the set has it.
func (v *verifying) fit(ctx context.Context, t *baseline.Table) (*baseline.Against, error) {
	if v.pool == nil {
		return nil, nil
	}
	name := postgres.ParseName(t.Table)
	mapped, ok := v.policy.For(name.Schema, name.Table)
	if !ok {
		return nil, errors.New("the policy does not cover it any more")
	}
	rules := scanner.Rules(mapped.Table)
	if v.Against == AgainstReplica {
		name = postgres.Name{Schema: mapped.Replica.Schema, Table: mapped.Replica.Name}
	} else {
		rules.Rename, rules.ReplicaWhere = nil, ""
	}
	conn, err := v.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connecting to the %s: %w", v.Against, postgres.OneLine(err))
	}
	defer conn.Release()
	described, err := postgres.Describe(ctx, conn.Conn().PgConn(), name)
	if err != nil {
		return nil, err
	}
	l, err := postgres.Fit(described, t.Schema.Wire(), rules)
	if err != nil {
		return nil, err
	}
	probe, err := l.Probe(ctx, conn.Conn().PgConn())
	if err == nil && t.Digest == digest.Record && probe != t.Schema.Probe {
		err = errors.New("this server hashes its types otherwise than the source, so thumbprints can't be compared")
	}
	against := &baseline.Against{Pool: v.pool, Layout: l, Rules: rules, Timeline: v.timeline}
	if changes := v.since[t.Table]; v.heard && err == nil {
		if changes != nil {
			err = changes.spell(ctx, v.pool, l)
		}
		against.Since = changes.has
	}
	return against, err
}

// compare holds a range against the other side's; its error is a fault of the object, or of the connection.
func (v *verifying) compare(ctx context.Context, t *baseline.Table, o *baseline.Object, a baseline.Against, row *VerifiedAgainst) error {
	got, err := v.store.Compare(ctx, v.set, t, o, a)
	var readonly *baseline.ReadOnlyError
	if errors.As(err, &readonly) {
		row.Differ++
		row.Untold++
		return nil
	}
	if err != nil {
		return err
	}
	if got.Agrees {
		row.Agree++
		return nil
	}
	row.Differ++
	if got.Proven {
		row.Proven++
	}
	row.Since, row.Gone, row.Unproven = row.Since+len(got.Since), row.Gone+len(got.Gone), row.Unproven+len(got.Other)
	for _, d := range got.Other {
		if len(row.Listed) < v.Limit {
			row.Listed = append(row.Listed, UnexplainedAt{v.policy.Privacy.Key(d.Key.String()), d.Kind})
		}
	}
	return nil
}
