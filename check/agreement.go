package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
)

// replicaTable is the counterpart of one of the source's tables.
type replicaTable struct {
	source postgres.Name
	match  policy.Match
	name   postgres.Name
}

// find pairs tables. Which ones the source has is known from the source itself; else from the policy's exact names, from what detectors have
// seen, and from tables of the replica that go by the same name.
func (r *Replica) find(ctx context.Context) ([]Finding, error) {
	have, err := postgres.NewSource(r.pool).Tables(ctx)
	if err != nil {
		return nil, err
	}
	there := make(map[postgres.Name]bool, len(have))
	for _, n := range have {
		there[n] = true
	}
	names, err := r.sources(ctx, have)
	if err != nil {
		return nil, err
	}
	matched, _ := matches(r.Policy, names)
	var found []Finding
	for _, n := range names {
		m, in := matched[n]
		if !in {
			continue
		}
		t := replicaTable{source: n, match: m, name: postgres.Name{Schema: m.Replica.Schema, Table: m.Replica.Name}}
		if !there[t.name] {
			found = append(found, fail("create it there like the source's, or say under replica: in the policy what it is called", "the replica has no table %s", t.name).of(n.String()))
			continue
		}
		r.tables = append(r.tables, t)
	}
	if len(r.tables) == 0 {
		return found, &FaultError{Err: fmt.Errorf("none of the %d tables of database %s is the counterpart of one in the policy", len(have), r.identity.Database),
			Fix: "check that " + r.Setting + " leads to the right database, and replica: of the tables in the policy"}
	}
	return append(found, ok("%s of %d have a counterpart in the policy", tables(len(r.tables)), len(have))), nil
}

func (r *Replica) sources(ctx context.Context, have []postgres.Name) ([]postgres.Name, error) {
	var names []postgres.Name
	if r.Source != nil {
		for _, t := range r.Source.tables {
			names = append(names, t.name)
		}
		return names, nil
	}
	for _, t := range r.Policy.Tables {
		if pattern, err := policy.ParsePattern(t.Table); err == nil {
			if n, exact := pattern.Exact(); exact {
				names = append(names, postgres.Name{Schema: n.Schema, Table: n.Name})
			}
		}
	}
	for _, n := range have {
		if m, in := r.Policy.For(n.Schema, n.Table); in && m.Replica == (policy.Name{Schema: n.Schema, Name: n.Table}) && n.String() != r.Policy.Gate.Heartbeat.Replica {
			names = append(names, n)
		}
	}
	var seen bool
	err := r.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'trickle' AND c.relname = 'tables' AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'))`).Scan(&seen)
	if err != nil {
		return nil, err
	}
	if seen {
		rows, err := r.pool.Query(ctx, `SELECT table_name FROM trickle.tables WHERE pipeline = $1`, r.pipeline)
		if err != nil {
			return nil, err
		}
		known, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return nil, err
		}
		for _, k := range known {
			names = append(names, postgres.ParseName(k))
		}
	}
	slices.SortFunc(names, func(a, b postgres.Name) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(names), nil
}

// overTables runs a query over all tables at once: $1 and $2 are their schemas and names, v.i the position from 1 on, c the table in pg_class.
func (r *Replica) overTables(ctx context.Context, columns string, args ...any) (pgx.Rows, error) {
	schemas, names := make([]string, len(r.tables)), make([]string, len(r.tables))
	for i, t := range r.tables {
		schemas[i], names[i] = t.name.Schema, t.name.Table
	}
	return r.pool.Query(ctx, "SELECT v.i::int, "+columns+` FROM unnest($1::text[], $2::text[]) WITH ORDINALITY v(schema, name, i) JOIN pg_namespace n ON n.nspname = v.schema
		JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = v.name ORDER BY v.i`, append([]any{schemas, names}, args...)...)
}

// rights to read and to write.
func (r *Replica) rights(ctx context.Context) ([]Finding, error) {
	wanted := []string{"SELECT", "INSERT", "UPDATE", "DELETE"}
	if r.Policy.Detect.Action == policy.ActionReport {
		wanted = wanted[:1]
	}
	rows, err := r.overTables(ctx, `has_schema_privilege(n.oid, 'USAGE'), row_security_active(c.oid),
		coalesce((SELECT array_agg(w.r ORDER BY w.o) FROM unnest($3::text[]) WITH ORDINALITY w(r, o) WHERE NOT has_table_privilege(c.oid, w.r)), '{}')`, wanted)
	if err != nil {
		return nil, err
	}
	r.forbidden = make([]bool, len(r.tables))
	var found []Finding
	var i int
	var usage, hidden bool
	var missing []string
	_, err = pgx.ForEachRow(rows, []any{&i, &usage, &hidden, &missing}, func() error {
		t := r.tables[i-1]
		var lacks, fix []string
		if !usage {
			lacks, fix = append(lacks, "USAGE on its schema"), append(fix, grant("USAGE", "SCHEMA "+postgres.Quote(t.name.Schema), r.role))
		}
		if len(missing) > 0 {
			rights := strings.Join(missing, ", ")
			lacks, fix = append(lacks, rights), append(fix, grant(rights, t.name.SQL(), r.role))
		}
		if hidden {
			lacks, fix = append(lacks, "a way around row-level security, which would make rows look deleted"), append(fix, "ALTER ROLE "+postgres.Quote(r.role)+" BYPASSRLS")
		}
		r.forbidden[i-1] = !usage || hidden || slices.Contains(missing, "SELECT")
		if len(lacks) > 0 {
			found = append(found, fail(statements(fix...), "%s lacks %s", r.role, strings.Join(lacks, " and ")).of(t.name.String()))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return remaining(found, len(r.tables), "%s: "+r.role+" has "+strings.Join(wanted, ", ")), nil
}

// sideEffects of corrections: triggers that act on them, and foreign keys that would delete more.
func (r *Replica) sideEffects(ctx context.Context) ([]Finding, error) {
	acting := "O"
	if r.Policy.Detect.SessionReplicationRole == "replica" {
		acting = "R"
	}
	rows, err := r.overTables(ctx, `coalesce((SELECT array_agg(g.tgname::text ORDER BY g.tgname) FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled IN ('A', $3)), '{}'),
		coalesce((SELECT array_agg(format('%I of %s', k.conname, k.conrelid::regclass) ORDER BY k.conname) FROM pg_constraint k
			WHERE $3 = 'O' AND k.contype = 'f' AND k.confrelid = c.oid AND k.confdeltype IN ('c', 'n', 'd') AND k.conparentid = 0), '{}')`, acting)
	if err != nil {
		return nil, err
	}
	const replicaRole = "detect: {session_replication_role: replica} in the policy, if corrections are to be written as CDC's own workers write"
	var found []Finding
	var i int
	var triggers, cascades []string
	_, err = pgx.ForEachRow(rows, []any{&i, &triggers, &cascades}, func() error {
		object := r.tables[i-1].name.String()
		if len(triggers) > 0 {
			found = append(found, warn(replicaRole, "corrections set off triggers: %s", strings.Join(triggers, ", ")).of(object))
		}
		if len(cascades) > 0 {
			found = append(found, warn(replicaRole, "a deletion that would reach rows of another table (ON DELETE) is refused: %s", strings.Join(cascades, ", ")).of(object))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return remaining(found, len(r.tables), "%s: corrections set nothing off"), nil
}

// agreement is whether both sides' tables can be compared, and by which digest.
func (r *Replica) agreement(ctx context.Context) ([]Finding, error) {
	if r.Source == nil && r.Publisher == nil {
		return nil, &absentError{"the source is not known here", "give --source as well, or --ask to put the question to the running publisher"}
	}
	laid := make(map[postgres.Name]*postgres.Layout)
	if r.Source != nil {
		for i, t := range r.Source.tables {
			laid[t.name] = r.Source.layouts[i]
		}
	}
	r.keys = make([][]string, len(r.tables))
	r.fitted = make([]*tricklepb.Schema, len(r.tables))
	sources := make([]string, len(r.tables))
	digests := make([]bool, len(r.tables)) // portable
	var types postgres.Types
	found, err := eachTable(ctx, len(r.tables), func(ctx context.Context, i int) ([]Finding, error) {
		t := r.tables[i]
		object := t.name.String()
		if r.forbidden[i] {
			return []Finding{unknown("", "the table can't be read: see above").of(object)}, nil
		}
		var schema *tricklepb.Schema
		switch l := laid[t.source]; {
		case l != nil:
			schema = l.Schema
		case r.Source != nil:
			return []Finding{unknown("", "the source's table %s: see above", r.Source.unlaid(t.source)).of(object)}, nil
		default:
			var err error
			schema, sources[i], err = r.Publisher.Hello(ctx, t.source.String())
			if refused := refusal(nil); errors.As(err, &refused) {
				return []Finding{unknown("see what trickle check says of it beside the source", "%s", oneLine(err.Error())).of(object)}, nil
			}
			if err != nil {
				return []Finding{unknown("start the publisher, or give --source", "%s", oneLine(err.Error())).of(object)}, nil
			}
		}
		rules := r.Rules(t.match.Table)
		for _, k := range schema.GetKey() {
			if there, renamed := rules.Rename[k]; renamed {
				k = there
			}
			r.keys[i] = append(r.keys[i], k)
		}
		faults, portable, err := r.fit(ctx, fitting{t, schema, rules, r.keys[i], &types})
		digests[i] = portable
		if err == nil && len(faults) == 0 {
			r.fitted[i] = schema
		}
		return faults, err
	})
	if err != nil {
		return found, err
	}
	if i := slices.IndexFunc(sources, func(s string) bool { return s != "" }); i >= 0 {
		found = append(found, r.judgeSource(sources[i]).of("source of the publisher"))
	}
	portable := 0
	for _, p := range digests {
		if p {
			portable++
		}
	}
	agreed := "%s with the columns, types and key of the source's"
	if portable > 0 {
		found = append(found, ok("%s by portable digests, since the servers hash their types differently (another version, encoding or locale): four to five times the work of the servers' own hashes", tables(portable)).of("digest"))
	} else {
		agreed += ", whose types both servers hash alike"
	}
	return remaining(found, len(r.tables), agreed), nil
}

// refusal is an answer of the publisher that is none.
type refusal interface {
	error
	Refused() tricklepb.ErrorCode
}

// fitting is what a table of the replica is held against.
type fitting struct {
	replicaTable
	schema *tricklepb.Schema // the source's
	rules  postgres.Rules
	key    []string
	types  *postgres.Types
}

// fit lays a table out after the source's and compares what both make of the probe row.
func (r *Replica) fit(ctx context.Context, t fitting) (found []Finding, portable bool, err error) {
	object := t.name.String()
	conn, err := r.pool.Acquire(ctx)
	if err != nil {
		return nil, false, err
	}
	defer conn.Release()
	c := conn.Conn().PgConn()
	table, err := t.types.Describe(ctx, c, t.name)
	var layout *postgres.Layout
	if err == nil {
		layout, err = postgres.Fit(table, t.schema, t.rules)
	}
	if err == nil {
		err = layout.Rehearse(ctx, c)
	}
	var mismatch *postgres.MismatchError
	var noKey *postgres.NoKeyError
	switch state := postgres.State(err); {
	case err == nil:
		probe, err := layout.Probe(ctx, c)
		return nil, probe != t.schema.GetProbe(), err
	case ctx.Err() != nil:
		return nil, false, err
	case errors.As(err, &noKey):
		fix := "ALTER TABLE " + t.name.SQL() + " ADD PRIMARY KEY (" + strings.Join(quoted(t.key), ", ") + ")"
		return []Finding{fail(fix, "no primary key, and no unique index over NOT NULL columns").of(object)}, false, nil
	case errors.As(err, &mismatch) && len(mismatch.Faults) > 0:
		for _, f := range mismatch.Faults {
			found = append(found, fail(f.Fix, "%s", f.Reason).of(object))
		}
		return found, false, nil
	case errors.As(err, &mismatch):
		return []Finding{fail("give both sides the same policy", "%s", mismatch.Reason).of(object)}, false, nil
	case strings.HasPrefix(state, "42"), strings.HasPrefix(state, "22"):
		return []Finding{fail("correct where:, replica_where: or columns.compare in the table's entry in the policy", "%s", oneLine(err.Error())).of(object)}, false, nil
	default:
		return []Finding{fail("", "%s", oneLine(err.Error())).of(object)}, false, nil
	}
}
