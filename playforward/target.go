package playforward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
)

// target is a table of the replica, and what the policy says of it.
type target struct {
	source      postgres.Name
	name        postgres.Name
	missing     bool // the replica has no such table
	partitioned bool
	referenced  bool // by a foreign key
	columns     map[string]*column
	keys        [][]string // unique, by the source's names of their columns; the best first
	exclude     []string
	where       string
	all         []string // columns that the replica does not compute itself, as it calls them
	acting      string   // a foreign key that deletes or changes rows of a table, or forbids it, when rows of this one are deleted; empty: none
	parents     []string // tables that it refers to, as the replica calls them
}

// column is one of the replica's.
type column struct {
	source, name string
	typ          debezium.Type
	cast         string // what its text is read as
	generated    bool
	always       bool // GENERATED ALWAYS AS IDENTITY: an insert may set it, an update may not
	large        bool // it may be kept apart (TOAST), so that an update may leave it out
	unmarked     bool // and Debezium then writes NULL
	operator     string
}

// reshape is how long the shapes of tables are taken as known.
const reshape = 30 * time.Second

// shape forgets what the replica's tables look like from time to time, as somebody may have added a column.
func (a *Applier) shape(ctx context.Context) error {
	if time.Since(a.shaped) < reshape {
		return nil
	}
	a.shaped = time.Now()
	for name, t := range a.tables {
		if t == nil {
			delete(a.tables, name)
			continue
		}
		if err := a.describe(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// target finds the replica's table for one of the source's, nil where the policy names none.
func (a *Applier) target(ctx context.Context, source postgres.Name) (*target, error) {
	if t, ok := a.tables[source.String()]; ok {
		return t, nil
	}
	t := place(a.options.Rules(), source)
	if t == nil {
		a.tables[source.String()] = nil
		a.warn("outside "+source.String(), "events of a table that the policy does not name are left out", "table", source.String())
		return nil, nil
	}
	if err := a.describe(ctx, t); err != nil {
		return nil, err
	}
	a.tables[source.String()] = t
	return t, nil
}

// place is what the policy says about a table, nil where it says nothing.
func place(p *policy.Policy, source postgres.Name) *target {
	if h := p.Gate.Heartbeat; h.Enabled && postgres.ParseName(h.Table) == source {
		return &target{source: source, name: postgres.ParseName(cmp.Or(h.Replica, h.Table))}
	}
	m, ok := p.For(source.Schema, source.Table)
	if !ok {
		return nil
	}
	t := &target{source: source, name: postgres.Name{Schema: m.Replica.Schema, Table: m.Replica.Name}, exclude: m.Table.Columns.Exclude, where: cmp.Or(m.Table.ReplicaWhere, m.Table.Where)}
	t.columns = make(map[string]*column, len(m.Table.Columns.Rename))
	for from, to := range m.Table.Columns.Rename {
		t.columns[from] = &column{source: from, name: to}
	}
	return t
}

// sources turns a column of the replica into the source's name of it.
func (t *target) sources() map[string]string {
	of := make(map[string]string, len(t.columns))
	for from, c := range t.columns {
		of[c.name] = from
	}
	return of
}

const columnsSQL = `WITH RECURSIVE rel AS (SELECT c.oid, c.relkind FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass($1) AND c.relkind IN ('r', 'p')),
	col AS (SELECT a.attnum, a.attname, a.atttypid AS typ, a.atttypmod AS mod, a.attgenerated <> '' AS generated, a.attidentity = 'a' AS always, a.attstorage <> 'p' AS large, a.attstorage IN ('x', 'e') AS wide, false AS domain
			FROM pg_catalog.pg_attribute a JOIN rel ON a.attrelid = rel.oid WHERE a.attnum > 0 AND NOT a.attisdropped
		UNION ALL
		SELECT col.attnum, col.attname, t.typbasetype, CASE WHEN t.typtypmod <> -1 THEN t.typtypmod ELSE col.mod END, col.generated, col.always, col.large, col.wide, true
			FROM col JOIN pg_catalog.pg_type t ON t.oid = col.typ WHERE t.typtype = 'd')
	SELECT col.attname, n.nspname, t.typname, t.typtype = 'e', t.typtype = 'b', col.mod, col.generated, col.always, col.large, col.wide, col.domain,
		coalesce(e.nspname, ''), coalesce(e.typname, ''), coalesce(e.typtype = 'e', false), coalesce(e.domain, false), coalesce(e.delimiter, '')
	FROM col JOIN pg_catalog.pg_type t ON t.oid = col.typ AND t.typtype <> 'd' JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
	LEFT JOIN LATERAL (WITH RECURSIVE d AS (
			SELECT e.oid, e.typname, e.typnamespace, e.typtype, e.typbasetype, e.typdelim::text AS delimiter, false AS domain FROM pg_catalog.pg_type e WHERE e.oid = t.typelem AND e.typarray = t.oid
			UNION ALL SELECT b.oid, b.typname, b.typnamespace, b.typtype, b.typbasetype, d.delimiter, true FROM d JOIN pg_catalog.pg_type b ON b.oid = d.typbasetype WHERE d.typtype = 'd')
		SELECT d.*, en.nspname FROM d JOIN pg_catalog.pg_namespace en ON en.oid = d.typnamespace WHERE d.typtype <> 'd') e ON true
	ORDER BY col.attnum`

// describe reads what the replica's table looks like.
func (a *Applier) describe(ctx context.Context, t *target) error {
	fail := func(err error) error { return fmt.Errorf("describing %s in the replica: %w", t.name, err) }
	of := t.sources()
	columns := make(map[string]*column)
	rows, err := a.conn.Query(ctx, columnsSQL, t.name.SQL())
	if err != nil {
		return fail(err)
	}
	var name, schema, typ, eSchema, eType, delimiter string
	var enum, plain, generated, always, large, wide, domain, eEnum, eDomain bool
	var mod int
	t.all = nil
	_, err = pgx.ForEachRow(rows, []any{&name, &schema, &typ, &enum, &plain, &mod, &generated, &always, &large, &wide, &domain, &eSchema, &eType, &eEnum, &eDomain, &delimiter}, func() error {
		if !generated {
			t.all = append(t.all, name)
		}
		c := &column{source: name, name: name, generated: generated, always: always, large: large, operator: "OPERATOR(pg_catalog.=)"}
		if from, ok := of[name]; ok {
			c.source = from
		} else if renamed, ok := t.columns[name]; ok && renamed.name != name {
			return nil // the source's column of this name is another here
		}
		own := postgres.Name{Schema: schema, Table: typ}
		c.typ = debezium.Type{Name: own.String(), Modifier: mod, Enum: enum, Domain: domain}
		c.cast = own.SQL()
		switch {
		case eType != "":
			c.typ.Elem = &debezium.Type{Name: postgres.Name{Schema: eSchema, Table: eType}.String(), Modifier: mod, Enum: eEnum, Domain: eDomain, Delimiter: delimiter[0]}
		case schema != "pg_catalog" && plain:
			c.operator = "=" // which Postgres itself does not have for it
		case schema == "pg_catalog" && typ == "money":
			c.cast = "numeric::" + c.cast // whose point is no matter of the server's locale
		}
		c.unmarked = wide && !c.typ.Marked()
		columns[c.source] = c
		return nil
	})
	if err != nil {
		return fail(err)
	}
	for from, c := range t.columns { // what is renamed stays so, there or not
		if _, ok := columns[from]; !ok {
			columns[from] = &column{source: from, name: c.name}
		}
	}
	t.missing = !slices.ContainsFunc(slicesOf(columns), func(c *column) bool { return c.cast != "" })
	t.columns = columns
	return a.describeKeys(ctx, t, fail)
}

func slicesOf(m map[string]*column) (out []*column) {
	for _, c := range m {
		out = append(out, c)
	}
	return out
}

func (a *Applier) describeKeys(ctx context.Context, t *target, fail func(error) error) error {
	of := t.sources()
	t.keys, t.parents = nil, nil
	rows, err := a.conn.Query(ctx, `SELECT ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k(n, pos) JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n
			WHERE k.pos <= i.indnkeyatts ORDER BY k.pos)
		FROM pg_catalog.pg_index i WHERE i.indrelid = pg_catalog.to_regclass($1) AND `+postgres.KeySQL+` ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indnkeyatts, i.indexrelid`, t.name.SQL())
	if err != nil {
		return fail(err)
	}
	var names []string
	_, err = pgx.ForEachRow(rows, []any{&names}, func() error {
		key := make([]string, len(names))
		for i, n := range names {
			key[i] = cmp.Or(of[n], n)
		}
		t.keys = append(t.keys, key)
		return nil
	})
	if err != nil {
		return fail(err)
	}
	var parents []string
	err = a.conn.QueryRow(ctx, `SELECT coalesce((SELECT relkind = 'p' FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass($1)), false),
			EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE contype = 'f' AND confrelid = pg_catalog.to_regclass($1)),
			ARRAY(SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(p.relname) FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class p ON p.oid = k.confrelid
				JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace WHERE k.contype = 'f' AND k.conrelid = pg_catalog.to_regclass($1) AND k.confrelid <> k.conrelid),
			coalesce((SELECT k.conname || ' of ' || k.conrelid::regclass FROM pg_catalog.pg_constraint k WHERE k.contype = 'f' AND k.confdeltype <> 'a' AND k.confrelid = pg_catalog.to_regclass($1) LIMIT 1), '')`, t.name.SQL()).
		Scan(&t.partitioned, &t.referenced, &parents, &t.acting)
	if err != nil {
		return fail(err)
	}
	for _, p := range parents {
		t.parents = append(t.parents, postgres.ParseName(p).String())
	}
	return nil
}

// rows names the table where rows are changed or deleted; tables that inherit from it are tables of their own.
func (t *target) rows() string {
	if t.partitioned {
		return t.name.SQL()
	}
	return "ONLY " + t.name.SQL()
}

// writable is the replica's column for one of the source's, nil where there is none that is written.
func (t *target) writable(source string) *column {
	if c := t.columns[source]; c != nil && c.cast != "" && !c.generated && !slices.Contains(t.exclude, source) {
		return c
	}
	return nil
}

// usable says why nothing can be written to the table.
func (t *target) usable() error {
	switch {
	case t.missing:
		return fmt.Errorf("the replica has no table %s for %s: make it, or take the table out of the policy", t.name, t.source)
	case len(t.keys) == 0:
		return fmt.Errorf("table %s of the replica has no primary key and no unique index over NOT NULL columns: add one over the source's key", t.name)
	}
	return nil
}

// keyFor picks the key that events of a row are applied by: the one that the record's key names, else the first.
func (t *target) keyFor(names []string) []string {
	for _, k := range t.keys {
		if sorted := slices.Sorted(slices.Values(k)); slices.Equal(sorted, names) {
			return k
		}
	}
	return t.keys[0]
}

// large tells whether an update may leave values out.
func (t *target) large(key []string) bool {
	for from, c := range t.columns {
		if c.large && t.writable(from) != nil && !slices.Contains(key, from) {
			return true
		}
	}
	return false
}

// ordered sorts tables so that those which others refer to come first.
func ordered(tables []*target) []*target {
	slices.SortFunc(tables, func(a, b *target) int { return strings.Compare(a.name.String(), b.name.String()) })
	by := make(map[string]*target, len(tables))
	for _, t := range tables {
		by[t.name.String()] = t
	}
	var out []*target
	seen := make(map[*target]bool, len(tables))
	var visit func(t *target)
	visit = func(t *target) {
		if t == nil || seen[t] {
			return
		}
		seen[t] = true
		for _, p := range t.parents {
			visit(by[p])
		}
		out = append(out, t)
	}
	for _, t := range tables {
		visit(t)
	}
	return out
}

// warn says something once.
func (a *Applier) warn(id, what string, args ...any) {
	if !a.said[id] {
		a.said[id] = true
		a.options.Log.Warn(what, args...)
	}
}

var errNoKey = errors.New("the event does not hold the columns of the replica's key; add a unique index over the columns of the record's key, or have the source send more (REPLICA IDENTITY FULL)")

// unnest makes values a table w of text columns: the statement's part and the names of the columns.
func unnest(args *[][]byte, values [][][]byte) (from string) {
	parts, names := make([]string, len(values)), make([]string, len(values))
	for i, v := range values {
		*args = append(*args, postgres.Array(v))
		parts[i] = "pg_catalog.unnest($" + strconv.Itoa(len(*args)) + "::text[])"
		names[i] = slot(i)
	}
	return "ROWS FROM (" + strings.Join(parts, ", ") + `) WITH ORDINALITY AS w(` + strings.Join(append(names, `"trickle n"`), ", ") + ")"
}

// slot names a column of w, as no column of a table is called.
func slot(i int) string { return `"trickle ` + strconv.Itoa(i) + `"` }
