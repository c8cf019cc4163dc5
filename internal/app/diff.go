package app

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/trickle-verify/trickle/diff"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
)

// DiffOptions are what trickle diff is asked for.
type DiffOptions struct {
	// Tables are patterns of source tables; none: every table that both sides have, or that the policy names.
	Tables []string
	Jobs   int
	Settle time.Duration
	Fix    Fixing
	// JSON is what is taken of jsonb in tables for which the policy does not ask for its text.
	JSON postgres.JSONness
	// Limit bounds the differences that are listed of each table; 0: none are, less than 0: all.
	Limit    int
	Progress *diff.Progress
	Printer  Printer
}

// Fixing tells whether what differs is corrected.
type Fixing int

const (
	// OnlyCompare writes nothing.
	OnlyCompare Fixing = iota
	// Correct writes to the replica.
	Correct
)

// Printer shows what a comparison finds, as it finds it.
type Printer interface {
	// Found shows one difference, before its table's Compared.
	Found(t diff.Table, d diff.Difference) error
	// Compared shows a table; err says why it could not be compared (to its end).
	Compared(r diff.Result, err error) error
	// Missed shows what was asked for, as it was asked for, and could not even be begun.
	Missed(asked string, err error) error
}

// Outcome is what comparing came to.
type Outcome struct {
	Tables, Failed, Different int
	Rows, Unsettled           int64
	// OnlySource and OnlyReplica are tables that nobody asked for by name and that the other side lacks.
	OnlySource, OnlyReplica []string
}

// Diff compares source and replica table by table. Its error is one that concerns all of them; what a single table met is told to the printer.
func Diff(ctx context.Context, s Settings, o DiffOptions) (Outcome, error) {
	var st stack
	defer st.close()
	var p *policy.Policy
	if s.PolicyFile != "" {
		var err error
		if p, err = s.LoadPolicy(); err != nil {
			return Outcome{}, err
		}
	}
	conns := int32(o.Jobs + 4)
	source, sourceID, err := open(ctx, &st, s.SourceDSN, postgres.Options{Role: "source", Setting: "--source or TRICKLE_SOURCE_DSN", MaxConns: conns})
	if err != nil {
		return Outcome{}, err
	}
	replica, replicaID, err := open(ctx, &st, s.ReplicaDSN, postgres.Options{Role: "replica", Setting: "--replica or TRICKLE_REPLICA_DSN", MaxConns: conns})
	if err != nil {
		return Outcome{}, err
	}
	list, err := choose(ctx, choice{source: source, replica: replica, policy: p, wanted: o.Tables})
	if err != nil {
		return Outcome{}, err
	}
	if sourceID == replicaID { // a standby of the source is another
		for _, t := range list.tables {
			if t.Source == t.Replica {
				return Outcome{}, fmt.Errorf("source and replica are the same database (%s), so %s would be compared with itself: check --source and --replica", sourceID, t.Source)
			}
		}
	}
	if len(list.tables)+len(list.failed) == 0 {
		return Outcome{}, fmt.Errorf("there is nothing to compare: the source has %d tables, the replica %d, and none that the policy or --table names is in both; check that the DSNs lead to the right databases", len(list.have), len(list.there))
	}
	opts := diff.Options{Jobs: o.Jobs, Settle: o.Settle, Progress: o.Progress}
	var listed atomic.Int64
	if o.Limit != 0 {
		opts.List = func() bool { return o.Limit < 0 || listed.Load() < int64(o.Limit) }
		opts.Found = func(t diff.Table, d diff.Difference) error {
			listed.Add(1)
			return o.Printer.Found(t, shown(d, p))
		}
	}
	if o.Fix == Correct {
		if opts.Fixer, err = newFixer(ctx, s, fixing{policy: p, source: source, replica: replica, sourceID: sourceID, replicaID: replicaID}); err != nil {
			return Outcome{}, err
		}
	}
	out := Outcome{OnlySource: list.onlySource, OnlyReplica: list.onlyReplica}
	for _, f := range list.failed {
		out.Tables++
		out.Failed++
		if err := o.Printer.Missed(f.asked, f.err); err != nil {
			return out, err
		}
	}
	differ := diff.New(source, replica, opts)
	for _, t := range list.tables {
		if o.JSON == postgres.JSONAsText {
			t.Rules.JSON = o.JSON
		}
		listed.Store(0)
		r, err := differ.Table(ctx, t)
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("stopped by a signal (%w)", context.Cause(ctx))
		}
		out.add(r, err)
		if err := o.Printer.Compared(r, err); err != nil {
			return out, err
		}
		if ctx.Err() != nil {
			return out, fmt.Errorf("stopped by a signal (%w): %d of %d tables were compared to their end", context.Cause(ctx), out.Tables-out.Failed, len(list.failed)+len(list.tables))
		}
	}
	return out, nil
}

func (o *Outcome) add(r diff.Result, err error) {
	o.Tables++
	o.Rows += r.Rows
	o.Unsettled += r.Unsettled
	if err != nil {
		o.Failed++
	}
	if r.Differences() > 0 {
		o.Different++
	}
}

// shown is a difference as the policy lets it be shown; without a policy, as it is.
func shown(d diff.Difference, p *policy.Policy) diff.Difference {
	if p == nil {
		return d
	}
	for i := range d.Key {
		d.Key[i].Value = p.Privacy.Key(d.Key[i].Value)
	}
	hide := func(v []byte) []byte {
		if v == nil {
			return nil
		}
		return []byte(p.Privacy.Value(string(v)))
	}
	for i := range d.Columns {
		d.Columns[i].Source, d.Columns[i].Replica = hide(d.Columns[i].Source), hide(d.Columns[i].Replica)
	}
	return d
}
