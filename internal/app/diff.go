package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/diff"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/scanner"
)

// DiffOptions are what trickle diff is asked for.
type DiffOptions struct {
	// Tables are patterns of source tables; none: every table that both sides have, or that the policy names.
	Tables []string
	Jobs   int
	Settle time.Duration
	Fix    Fixing
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
}

// Outcome is what comparing came to.
type Outcome struct {
	Tables, Failed, Different int
	Rows                      int64
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
	if sourceID.String() == replicaID.String() {
		for _, t := range list.tables {
			if t.Source == t.Replica {
				return Outcome{}, fmt.Errorf("source and replica are the same database (%s), so %s would be compared with itself: check --source and --replica", sourceID, t.Source)
			}
		}
	}
	opts := diff.Options{Jobs: o.Jobs, Settle: o.Settle, Progress: o.Progress}
	listed := 0
	if o.Limit != 0 {
		opts.List = func() bool { return o.Limit < 0 || listed < o.Limit }
		opts.Found = func(t diff.Table, d diff.Difference) error {
			listed++
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
		if err := o.Printer.Compared(diff.Result{Table: f.table}, f.err); err != nil {
			return out, err
		}
	}
	differ := diff.New(source, replica, opts)
	for _, t := range list.tables {
		listed = 0
		r, err := differ.Table(ctx, t)
		if ctx.Err() != nil {
			return out, interrupted(ctx, out, r)
		}
		out.Tables++
		out.Rows += r.Rows
		if err != nil {
			out.Failed++
		}
		if r.Differences() > 0 {
			out.Different++
		}
		if err := o.Printer.Compared(r, err); err != nil {
			return out, err
		}
	}
	if out.Tables == 0 {
		return out, errors.New("there is nothing to compare: the two databases have no table in common that the policy or --table names; see the tables on each side with psql's \\dt *.*")
	}
	return out, nil
}

// interrupted says what was compared when somebody stopped it.
func interrupted(ctx context.Context, o Outcome, r diff.Result) error {
	return fmt.Errorf("%w after %d tables compared, and %d rows of %s with %d differences", context.Cause(ctx), o.Tables-o.Failed, r.Rows, r.Table.Source, r.Differences())
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

// choice is what the tables are chosen by.
type choice struct {
	source, replica *pgxpool.Pool
	policy          *policy.Policy // may be nil
	wanted          []string
}

// chosen are the tables to compare.
type chosen struct {
	tables                  []diff.Table
	failed                  []failure // asked for, and can't be compared
	onlySource, onlyReplica []string
}

type failure struct {
	table diff.Table
	err   error
}

// choose pairs the tables of both sides.
func choose(ctx context.Context, c choice) (chosen, error) {
	var out chosen
	have, err := postgres.NewSource(c.source).Tables(ctx)
	if err != nil {
		return out, fmt.Errorf("source: %w", err)
	}
	there, err := postgres.NewSource(c.replica).Tables(ctx)
	if err != nil {
		return out, fmt.Errorf("replica: %w", err)
	}
	wanted := make([]*want, len(c.wanted))
	for i, w := range c.wanted {
		if wanted[i], err = newWant(w); err != nil {
			return out, err
		}
	}
	mapped := make(map[postgres.Name]bool)
	for _, name := range have {
		asked := len(wanted) == 0
		exact := false
		for _, w := range wanted {
			if w.pattern.Match(name.Schema, name.Table) {
				w.met, asked = true, true
				exact = exact || w.exact
			}
		}
		t := diff.Table{Source: name, Replica: name}
		if c.policy != nil {
			m, ok := c.policy.For(name.Schema, name.Table)
			if !ok && asked && exact {
				out.failed = append(out.failed, failure{t, fmt.Errorf("table %s is in no entry of the policy: add one, or leave --policy out", name)})
			}
			if !ok {
				continue
			}
			t.Replica, t.Rules = postgres.Name{Schema: m.Replica.Schema, Table: m.Replica.Name}, scanner.Rules(m.Table)
			exact = exact || m.Table.Table == (policy.Name{Schema: name.Schema, Name: name.Table}).String()
		}
		mapped[t.Replica] = true
		switch {
		case !asked:
		case slices.Contains(there, t.Replica):
			out.tables = append(out.tables, t)
		case exact:
			out.failed = append(out.failed, failure{t, fmt.Errorf("the replica has no table %s: create it there, or say under replica: in a policy what it is called: %w", t.Replica, postgres.ErrNoTable)})
		default:
			out.onlySource = append(out.onlySource, name.String())
		}
	}
	for _, w := range wanted {
		if !w.met {
			out.failed = append(out.failed, failure{w.table, fmt.Errorf("the source has no table that --table %s names: give schema.name as the catalogue has it, with * for any run of characters: %w", w.text, postgres.ErrNoTable)})
		}
	}
	if len(wanted) == 0 {
		for _, name := range there {
			if !mapped[name] && c.policy == nil {
				out.onlyReplica = append(out.onlyReplica, name.String())
			}
		}
	}
	return out, nil
}

// want is one --table.
type want struct {
	text    string
	pattern policy.Pattern
	table   diff.Table
	exact   bool
	met     bool
}

func newWant(text string) (*want, error) {
	w := &want{text: text}
	var err error
	if w.pattern, err = policy.ParsePattern(text); err != nil {
		// A name without a schema is one of public.
		if w.pattern, err = policy.ParsePattern("public." + text); err != nil {
			return nil, fmt.Errorf("--table %w", err)
		}
	}
	name, exact := w.pattern.Exact()
	w.exact = exact
	w.table.Source = postgres.Name{Schema: name.Schema, Table: name.Name}
	if !exact {
		w.table.Source = postgres.ParseName(text)
	}
	w.table.Replica = w.table.Source
	return w, nil
}
