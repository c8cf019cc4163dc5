package check

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
)

// sourceTable is a table of the source that the policy names.
type sourceTable struct {
	name        postgres.Name
	match       policy.Match
	partitioned bool
	unlogged    bool
	usage       bool // of its schema
	selects     bool
	selectsSome bool // of its columns
	hidden      bool // row-level security acts
	keyed       bool
	children    int // that inherit from it and are no partitions
	// faceless is the first of it and its partitions without a replica identity; NULL where each has one.
	faceless []faceless
}

// faceless is a relation whose updates and deletes logical decoding can't identify.
type faceless struct {
	Name  string `json:"name"`  // quoted
	Key   bool   `json:"key"`   // it has a primary key
	Index string `json:"index"` // a unique index that would do, quoted
	How   string `json:"how"`   // relreplident
}

// tablesSQL reads all there is to know about all tables at once: a database may have thousands.
const tablesSQL = `WITH keyed AS MATERIALIZED (SELECT i.indrelid, bool_or(i.indisprimary) AS pk, bool_or(i.indisreplident) AS chosen, min(i.indexrelid) AS any_index
		FROM pg_index i WHERE ` + postgres.KeySQL + ` GROUP BY 1),
	member AS MATERIALIZED (SELECT coalesce(pg_partition_root(c.oid), c.oid) AS root, c.oid, c.relname, c.relnamespace, c.relreplident, c.relkind,
			coalesce(k.pk, false) AS pk, k.any_index, CASE c.relreplident WHEN 'f' THEN true WHEN 'd' THEN coalesce(k.pk, false) WHEN 'i' THEN coalesce(k.chosen, false) ELSE false END AS faced
		FROM pg_class c LEFT JOIN keyed k ON k.indrelid = c.oid WHERE c.relkind = 'r' AND c.relpersistence <> 't'),
	faceless AS MATERIALIZED (SELECT m.root, jsonb_agg(jsonb_build_object('name', quote_ident(n.nspname) || '.' || quote_ident(m.relname), 'key', m.pk,
			'index', coalesce((SELECT quote_ident(x.relname) FROM pg_class x WHERE x.oid = m.any_index), ''), 'how', m.relreplident::text) ORDER BY m.relname) AS list
		FROM member m JOIN pg_namespace n ON n.oid = m.relnamespace WHERE NOT m.faced GROUP BY 1),
	heirs AS MATERIALIZED (SELECT h.inhparent, count(*) AS n FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent AND p.relkind = 'r' GROUP BY 1)
	SELECT n.nspname::text, c.relname::text, c.relkind = 'p', c.relpersistence = 'u', has_schema_privilege(n.oid, 'USAGE'), has_table_privilege(c.oid, 'SELECT'),
		has_any_column_privilege(c.oid, 'SELECT'), row_security_active(c.oid), k.indrelid IS NOT NULL, coalesce(h.n, 0), coalesce(f.list, '[]')
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN keyed k ON k.indrelid = c.oid LEFT JOIN faceless f ON f.root = c.oid LEFT JOIN heirs h ON h.inhparent = c.oid
	WHERE ` + postgres.TableSQL + ` ORDER BY 1, 2`

// find reads the catalogue, and says which of the policy's entries mean nothing here.
func (s *Source) find(ctx context.Context) ([]Finding, error) {
	rows, err := s.pool.Query(ctx, tablesSQL)
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t sourceTable, err error) {
		err = row.Scan(&t.name.Schema, &t.name.Table, &t.partitioned, &t.unlogged, &t.usage, &t.selects, &t.selectsSome, &t.hidden, &t.keyed, &t.children, &t.faceless)
		return t, err
	})
	if err != nil {
		return nil, err
	}
	names := make([]postgres.Name, len(all))
	for i, t := range all {
		names[i] = t.name
	}
	matched, idle := matches(s.Policy, names)
	var found []Finding
	for _, t := range idle {
		found = append(found, fail("correct the name under tables: in the policy (upper and lower case count), or take the entry out", "matches no table of the source").of(t.Table))
	}
	for _, t := range all {
		if m, in := matched[t.name]; in {
			t.match = m
			s.tables = append(s.tables, t)
		}
	}
	if len(s.tables) == 0 {
		return found, &FaultError{Err: fmt.Errorf("none of the %d tables of database %s is in the policy", len(all), s.identity.Database),
			Fix: "check that " + s.Setting + " leads to the right database, and the names under tables: in the policy"}
	}
	return append(found, ok("%s of %d are in the policy", tables(len(s.tables)), len(all))), nil
}

func tables(n int) string {
	if n == 1 {
		return "1 table"
	}
	return fmt.Sprintf("%d tables", n)
}

// rights to read, table by table.
func (s *Source) rights(context.Context) ([]Finding, error) {
	var found []Finding
	s.forbidden = make([]bool, len(s.tables))
	for i, t := range s.tables {
		var lacks, fix []string
		if !t.usage {
			lacks, fix = append(lacks, "USAGE on its schema"), append(fix, grant("USAGE", "SCHEMA "+postgres.Quote(t.name.Schema), s.role))
		}
		if !t.selects && !t.selectsSome {
			lacks, fix = append(lacks, "SELECT"), append(fix, grant("SELECT", t.name.SQL(), s.role))
		}
		if t.hidden {
			lacks, fix = append(lacks, "a way around row-level security, which would make rows look deleted"), append(fix, "ALTER ROLE "+postgres.Quote(s.role)+" BYPASSRLS")
		}
		if len(lacks) > 0 {
			s.forbidden[i] = true
			found = append(found, fail(statements(fix...), "%s lacks %s", s.role, strings.Join(lacks, " and ")).of(t.name.String()))
		}
	}
	return s.rest(found, "%s may be read by "+s.role), nil
}

// rest says of how many tables nothing was found.
func (s *Source) rest(found []Finding, format string) []Finding {
	return remaining(found, len(s.tables), format)
}

func remaining(found []Finding, all int, format string) []Finding {
	objects := make(map[string]bool)
	for _, f := range found {
		if f.Verdict != OK {
			objects[f.Object] = true
		}
	}
	if left := all - len(objects); left > 0 {
		found = append(found, ok(format, tables(left)))
	}
	return found
}

// keys are what ranges are cut by and rows are told apart by.
func (s *Source) keys(ctx context.Context) ([]Finding, error) {
	var found []Finding
	for _, t := range s.tables {
		if t.keyed {
			continue
		}
		fix, err := s.keyFor(ctx, t.name)
		if err != nil {
			return found, err
		}
		found = append(found, fail(fix, "no primary key, and no unique index over NOT NULL columns: it is left out").of(t.name.String()))
	}
	return s.rest(found, "%s with a key"), nil
}

// keyFor is what would give a table a key: the columns of a unique index that may be NULL, or a column that the statistics say is unique.
func (s *Source) keyFor(ctx context.Context, name postgres.Name) (string, error) {
	var nullable []string
	err := s.pool.QueryRow(ctx, `SELECT (SELECT array_agg(a.attname::text ORDER BY k.pos) FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(n, pos)
			JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n WHERE k.pos <= i.indnkeyatts AND NOT a.attnotnull)
		FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = $2 AND `+postgres.UniqueSQL+`
		ORDER BY i.indnkeyatts, i.indexrelid LIMIT 1`, name.Schema, name.Table).Scan(&nullable)
	if err == nil {
		return "ALTER TABLE " + name.SQL() + " ALTER COLUMN " + strings.Join(quoted(nullable), " SET NOT NULL, ALTER COLUMN ") + " SET NOT NULL", nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return "", err
	}
	var column string
	err = s.pool.QueryRow(ctx, `SELECT a.attname::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_stats t ON t.schemaname = $1 AND t.tablename = $2 AND t.attname = a.attname
		WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped AND (t.n_distinct = -1 AND t.null_frac = 0 OR a.attname = 'id')
		ORDER BY a.attname <> 'id', a.attnum LIMIT 1`, name.Schema, name.Table).Scan(&column)
	if errors.Is(err, pgx.ErrNoRows) {
		return "ALTER TABLE " + name.SQL() + " ADD PRIMARY KEY (…) over the columns that tell its rows apart, on both sides, or leave the table out of the policy", nil
	}
	return "ALTER TABLE " + name.SQL() + " ADD PRIMARY KEY (" + postgres.Quote(column) + ")", err
}

func quoted(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = postgres.Quote(n)
	}
	return out
}

// replicaIdentity is what logical decoding tells rows apart by.
func (s *Source) replicaIdentity(context.Context) ([]Finding, error) {
	var found []Finding
	for _, t := range s.tables {
		if len(t.faceless) == 0 {
			continue
		}
		var fix, which []string
		for _, f := range t.faceless {
			how := "FULL"
			switch {
			case f.Key:
				how = "DEFAULT"
			case f.Index != "":
				how = "USING INDEX " + f.Index
			}
			fix, which = append(fix, "ALTER TABLE "+f.Name+" REPLICA IDENTITY "+how), append(which, f.Name)
		}
		detail := "no replica identity"
		if t.partitioned {
			detail += " (" + strings.Join(which, ", ") + ")"
		}
		if len(s.carried.of(t.name)) > 0 {
			found = append(found, fail(statements(fix...), "%s, and it is published: an UPDATE or DELETE of it is an error at the source", detail).of(t.name.String()))
			continue
		}
		found = append(found, warn(statements(fix...), "%s: CDC by logical decoding does not carry its updates and deletes", detail).of(t.name.String()))
	}
	return s.rest(found, "%s with a replica identity"), nil
}

// carriage is whether CDC brings what is written.
func (s *Source) carriage(context.Context) ([]Finding, error) {
	var found []Finding
	for _, t := range s.tables {
		object := t.name.String()
		if t.unlogged {
			found = append(found, fail("ALTER TABLE "+t.name.SQL()+" SET LOGGED, or leave it out of the policy", "unlogged: nothing of it is in the log, so CDC never carries it").of(object))
			continue
		}
		if t.children > 0 {
			found = append(found, warn("name the children in the policy too, or make them partitions", "%s from it: each is verified by itself, and only where the policy names it",
				inherits(t.children)).of(object))
		}
		found = append(found, s.carried.judge(t)...)
	}
	if len(s.carried.publications) == 0 {
		return s.rest(found, "%s in the log; the database has no publication to look into"), nil
	}
	return s.rest(found, "%s published"), nil
}

func inherits(n int) string {
	if n == 1 {
		return "1 table inherits"
	}
	return fmt.Sprintf("%d tables inherit", n)
}

// readable lays each table out as the publisher does, and runs the digest and the policy's condition over no row of it.
func (s *Source) readable(ctx context.Context) ([]Finding, error) {
	s.layouts = make([]*postgres.Layout, len(s.tables))
	var types postgres.Types
	source := postgres.NewSource(s.pool)
	found, err := eachTable(ctx, len(s.tables), func(ctx context.Context, i int) ([]Finding, error) {
		t := s.tables[i]
		if s.forbidden[i] || !t.keyed {
			return []Finding{unknown("", "the table %s: see above", s.unlaid(t.name)).of(t.name.String())}, nil
		}
		l, err := source.DescribeWith(ctx, &types, t.name, s.Rules(t.match.Table))
		if err == nil {
			err = source.Rehearse(ctx, l)
		}
		if err != nil {
			return s.unreadable(ctx, t, err)
		}
		s.layouts[i] = l
		return nil, nil
	})
	if err != nil {
		return found, err
	}
	return s.rest(found, "%s laid out, with the policy's columns and conditions"), nil
}

// unlaid says what keeps a table from being laid out, which an earlier check has told at length.
func (s *Source) unlaid(name postgres.Name) string {
	for i, t := range s.tables {
		if t.name == name && !s.forbidden[i] && !t.keyed {
			return "has no key"
		}
	}
	return "can't be read"
}

func (s *Source) unreadable(ctx context.Context, t sourceTable, err error) ([]Finding, error) {
	var mismatch *postgres.MismatchError
	object := t.name.String()
	switch state := postgres.State(err); {
	case ctx.Err() != nil:
		return nil, err
	case errors.As(err, &mismatch):
		return []Finding{fail("correct the table's entry in the policy", "%s", mismatch.Reason).of(object)}, nil
	case state == "42501":
		return []Finding{fail(grant("SELECT", t.name.SQL(), s.role), "%s may not read all that is compared: %s", s.role, oneLine(err.Error())).of(object)}, nil
	case state == "55P03":
		return []Finding{unknown("run it again once the lock is gone", "somebody holds a lock on it: %s", oneLine(err.Error())).of(object)}, nil
	case strings.HasPrefix(state, "42"), strings.HasPrefix(state, "22"):
		return []Finding{fail("correct where:, columns.compare or quiet_column in the table's entry in the policy", "%s", oneLine(err.Error())).of(object)}, nil
	default:
		return []Finding{fail("", "%s", oneLine(err.Error())).of(object)}, nil
	}
}
