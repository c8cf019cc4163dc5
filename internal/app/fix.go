package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/detector"
	"github.com/trickle-verify/trickle/diff"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/gate"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/replica"
	"github.com/trickle-verify/trickle/scanner"
	"github.com/trickle-verify/trickle/scheduler"
	"github.com/trickle-verify/trickle/sidechannel"
)

// fixing is what a fixer is built upon.
type fixing struct {
	policy              *policy.Policy // nil: the defaults
	source, replica     *pgxpool.Pool
	sourceID, replicaID postgres.Identity
}

// fixer corrects rows with the detector's own steps: observe, refetch behind the fence, compare-and-set with a journal entry, confirm. It asks a scanner in this process
// instead of one behind a queue.
type fixer struct {
	fixing
	settings Settings
	ledger   *ledger.Ledger
	run      string // names this run in the journal, as a resync's id would
	tables   map[string]*fixTable
	braked   string // why deletes are held; empty: none was yet
}

// fixTable is a table with the rules that it was compared by.
type fixTable struct {
	replica   *replica.Replica
	source    *detector.Source
	corrector *detector.Corrector
}

// defaultPolicy stands in where diff has none; its limits are the defaults of the policy.
const defaultPolicy = "pipeline: diff\ntables: [{table: public.*}]\ngate: {assume_lag: 1s}\n"

func newFixer(ctx context.Context, s Settings, f fixing) (*fixer, error) {
	if f.replicaID.Standby {
		return nil, fmt.Errorf("the replica %s is a standby, which can't be written: point --replica at a primary, or leave --fix out", f.replicaID)
	}
	if f.sourceID.Standby {
		return nil, fmt.Errorf("the source %s is a standby, which may be behind what CDC has delivered, so nothing can be corrected from it: point --source at the primary, or leave --fix out", f.sourceID)
	}
	if f.policy == nil {
		p, _, err := policy.Parse("the built-in policy", []byte(defaultPolicy))
		if err != nil {
			return nil, err
		}
		f.policy = p
	}
	if f.policy.Detect.Action == policy.ActionReport {
		return nil, errors.New("the policy says detect.action: report, so nothing is corrected: leave --fix out, or change it to correct")
	}
	x := &fixer{fixing: f, settings: s, ledger: ledger.New(f.replica, f.policy.Pipeline), run: "diff-" + newID(), tables: make(map[string]*fixTable)}
	if err := x.ledger.Migrate(ctx); err != nil {
		return nil, err
	}
	if err := x.believe(ctx); err != nil {
		return nil, err
	}
	return x, nil
}

// believe refuses a source that this replica is not fed from, before anything is read.
func (f *fixer) believe(ctx context.Context) error {
	source := f.sourceID.String()
	if source == f.replicaID.String() {
		return fmt.Errorf("source and replica are one database (%s): --fix needs two; leave it out", source)
	}
	pinned, err := f.ledger.Pin(ctx, source)
	if err != nil || pinned == source {
		return err
	}
	return fmt.Errorf("the source is %s, but pipeline %q corrected this replica from %s before: check --source; if it was replaced on purpose, run trickle-consumer pin --source %s with a policy of that pipeline",
		source, f.policy.Pipeline, pinned, source)
}

// table wires the steps for one table.
func (f *fixer) table(t diff.Table) *fixTable {
	name := t.Source.String()
	if ready := f.tables[name]; ready != nil {
		return ready
	}
	p := *f.policy
	p.Tables = []policy.Table{entryOf(t)}
	scan := scanner.New(&p, scanner.Parts{
		Source: postgres.NewSource(f.source), Identity: f.sourceID, Codec: f.settings.codec(), Samples: new(scheduler.Samples), Log: f.settings.Log,
	})
	rep := replica.New(f.replica, f.ledger, replica.Options{
		Map:   func(string) (replica.Mapping, bool) { return replica.Mapping{Name: t.Replica, Rules: t.Rules}, true },
		Write: func() replica.Writing { return writing(&p) },
	})
	quiet := slog.New(slog.DiscardHandler) // the result says what was fixed, and the journal which rows
	src := detector.NewSource(detector.Parts{
		Replica: rep, Ledger: f.ledger, Asker: direct{scan}, Gate: gate.New(p.Gate, gate.Parts{}), Log: quiet, Self: f.replicaID.String(),
	})
	ready := &fixTable{replica: rep, source: src, corrector: &detector.Corrector{Replica: rep, Ledger: f.ledger, Source: src, Log: quiet}}
	f.tables[name] = ready
	return ready
}

// entryOf is a policy entry with these rules.
func entryOf(t diff.Table) policy.Table {
	e := policy.Table{
		Table: policy.Name{Schema: t.Source.Schema, Name: t.Source.Table}.String(), Replica: policy.Name{Schema: t.Replica.Schema, Name: t.Replica.Table}.String(),
		Columns: policy.Columns{Exclude: t.Rules.Exclude, Compare: t.Rules.Compare, Rename: t.Rules.Rename}, Where: t.Rules.Where, ReplicaWhere: t.Rules.ReplicaWhere,
		QuietColumn: t.Rules.QuietColumn,
	}
	if t.Rules.Exact == postgres.ByBytes {
		e.Compare = "bytes"
	}
	if t.Rules.JSON == postgres.JSONAsText {
		e.JSONB = "text"
	}
	return e
}

// direct asks a scanner in this process.
type direct struct{ scanner *scanner.Scanner }

func (d direct) Ask(ctx context.Context, env *tricklepb.Envelope) (*tricklepb.Envelope, error) {
	reply := d.scanner.Answer(ctx, env)
	if e := reply.GetErrorReply(); e != nil {
		return nil, &sidechannel.Error{Code: e.GetCode(), Reason: e.GetReason()}
	}
	return reply, ctx.Err()
}

// fixRounds is how often a row that CDC writes in between is tried.
const fixRounds = 3

// Fix corrects those of the rows that still differ.
func (f *fixer) Fix(ctx context.Context, t diff.Table, rows []diff.Wrong) (diff.Fixed, error) {
	out := diff.Fixed{Unfixed: make(map[string]int64)}
	x := f.table(t)
	keys := make([]message.Key, 0, len(rows))
	for _, r := range rows {
		if r.Kind == drift.Extra && f.braked != "" {
			out.Unfixed[f.braked]++ // deletes wait for a person, so there is nothing to try
			continue
		}
		keys = append(keys, r.Key)
	}
	if len(keys) == 0 {
		return out, nil
	}
	agreed, err := x.source.Table(ctx, t.Source.String(), 0)
	if err != nil {
		return out, fmt.Errorf("fixing %s: %w", t.Source, err)
	}
	if err := f.ledger.Table(ctx, t.Source.String(), t.Replica.String()); err != nil {
		return out, err
	}
	for range fixRounds {
		observed, err := x.replica.Observe(ctx, agreed.Name, keys, agreed.Kind)
		if err != nil {
			return out, fmt.Errorf("fixing %s: %w", t.Source, err)
		}
		fetched, err := x.source.Refetch(ctx, agreed, keys, detector.Refetching{})
		if err != nil {
			return out, fmt.Errorf("fixing %s: %w", t.Source, err)
		}
		var changes []drift.Change
		for i := range keys {
			if (drift.Sighting{Replica: observed[i], Source: fetched[i]}).Equal() {
				out.Unfixed["both sides agree by now: CDC brought it, or it is outside of where on one side"]++
				continue
			}
			changes = append(changes, drift.Change{Replica: observed[i], Source: fetched[i], ResyncID: f.run})
		}
		if len(changes) == 0 {
			return out, nil
		}
		outcomes, err := x.corrector.Correct(ctx, agreed, changes)
		if err != nil {
			return out, fmt.Errorf("fixing %s: %w", t.Source, err)
		}
		keys = keys[:0:0]
		for i, o := range outcomes {
			switch o.Result {
			case drift.Written:
				out.Rows++
			case drift.Moved:
				keys = append(keys, changes[i].Replica.Key)
			case drift.Held:
				f.braked = f.held(ctx)
				out.Unfixed[f.braked]++
			case drift.Failed:
				out.Unfixed[f.reason(o.Err)]++
			}
		}
		if len(keys) == 0 {
			return out, nil
		}
	}
	out.Unfixed["somebody else keeps writing it"] += int64(len(keys))
	return out, nil
}

// reason is why the replica refused a row. A server's message may hold a value of it, unless it is about a constraint.
func (f *fixer) reason(err error) string {
	var server *pgconn.PgError
	if !errors.As(err, &server) || server.ConstraintName != "" || f.settings.PolicyFile == "" || f.policy.Privacy.Values == "show" {
		return err.Error()
	}
	return "the replica refuses a value (SQLSTATE " + server.Code + "; its log has more, or set privacy.values: show)"
}

// held is why the brake holds a correction.
func (f *fixer) held(ctx context.Context) string {
	reason, err := f.ledger.Braked(ctx)
	if err != nil || reason == "" {
		reason = "the limit in detect.brake is reached"
	}
	next := "look at the source first: a truncated table and a wrong restore look just like this. If they are right, run trickle-consumer brake --release, or raise it in the policy"
	if f.settings.PolicyFile == "" {
		next = "look at the source first: a truncated table and a wrong restore look just like this. If they are right, give a --policy whose detect.brake.deletes allows them"
	}
	return "the brake is on: " + reason + "; " + next
}
