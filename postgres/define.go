package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/message/tricklepb"
)

// DefinitionPath is the search_path under which definitions are read, and under which they mean the same elsewhere: names are written out with their schemas
// but for what is Postgres's own, and nothing else can be found in its place.
const DefinitionPath = "pg_catalog, pg_temp"

// Define reads what makes the layout's table in another database. It reads the catalogue only, in the connection's transaction where it is in one.
func Define(ctx context.Context, c *pgconn.PgConn, l *Layout) (d Definition, err error) {
	err = underPath(ctx, c, func() error {
		r := &defining{c: c, layout: l, made: make(map[string]string)}
		if err := r.columns(ctx); err != nil {
			return err
		}
		if err := r.indexes(ctx); err != nil {
			return err
		}
		if err := r.constraints(ctx); err != nil {
			return err
		}
		d = r.out
		return nil
	})
	if err != nil {
		return Definition{}, fmt.Errorf("reading what defines %s: %w", l.Name, err)
	}
	return d, nil
}

// underPath runs fn with the pinned search_path, and puts back what was.
func underPath(ctx context.Context, c *pgconn.PgConn, fn func() error) (err error) {
	if c.TxStatus() == 'I' {
		if err := script(ctx, c, "BEGIN READ ONLY"); err != nil {
			return err
		}
		defer func() {
			if ended := script(ctx, c, "ROLLBACK"); err == nil {
				err = ended
			}
		}()
	}
	before := ""
	err = each(ctx, c, "SELECT pg_catalog.current_setting('search_path')", nil, func(row [][]byte) error {
		before = string(row[0])
		return nil
	})
	if err != nil {
		return err
	}
	set := func(path string) error {
		return each(ctx, c, "SELECT pg_catalog.set_config('search_path', $1, true)", []Arg{text(path)}, func([][]byte) error { return nil })
	}
	if err := set(DefinitionPath); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err // the transaction failed, and with it what was set
	}
	return set(before)
}

// defining is a definition as it comes about.
type defining struct {
	c      *pgconn.PgConn
	layout *Layout
	out    Definition
	made   map[string]string // by type or collation: why it can't be made, "" for what is in out or needs no making
}

// need is what an index, a constraint or an expression refers to.
type need struct {
	columns []string
	missing []string // what it refers to and no definition makes
}

// needs reads what an object of the catalogue refers to, and sees to it that types and extensions are in the definition.
func (r *defining) needs(ctx context.Context, class string, oids ...string) (n need, err error) {
	type ref struct{ kind, what string }
	var refs []ref
	err = each(ctx, r.c, `SELECT DISTINCT CASE WHEN d.refclassid = 'pg_class'::regclass THEN 'column' WHEN e.oid IS NOT NULL THEN 'extension' WHEN d.refclassid = 'pg_type'::regclass THEN 'type'
				WHEN d.refclassid = 'pg_collation'::regclass THEN 'collation' ELSE 'other' END,
			CASE WHEN d.refclassid = 'pg_class'::regclass THEN a.attname WHEN e.oid IS NOT NULL THEN e.extname::text WHEN d.refclassid IN ('pg_type'::regclass, 'pg_collation'::regclass) THEN d.refobjid::text
				ELSE pg_catalog.pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) END
		FROM pg_depend d LEFT JOIN pg_depend x ON x.classid = d.refclassid AND x.objid = d.refobjid AND x.deptype = 'e' AND x.refclassid = 'pg_extension'::regclass
			LEFT JOIN pg_extension e ON e.oid = x.refobjid LEFT JOIN pg_attribute a ON d.refclassid = 'pg_class'::regclass AND a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
		WHERE d.classid = $1::regclass AND d.objid::text || ' ' || d.objsubid = ANY ($2::text[]) AND d.deptype IN ('n', 'a')
			AND (d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_opclass'::regclass, 'pg_opfamily'::regclass, 'pg_type'::regclass, 'pg_collation'::regclass,
					'pg_ts_config'::regclass, 'pg_ts_dict'::regclass)
				OR d.refclassid = 'pg_class'::regclass AND d.refobjid = to_regclass($3) AND d.refobjsubid > 0) ORDER BY 1, 2`,
		[]Arg{text(class), Array(bytesOf(oids)), text(r.layout.Name.SQL())}, func(row [][]byte) error {
			refs = append(refs, ref{string(row[0]), string(row[1])})
			return nil
		})
	if err != nil {
		return n, err
	}
	for _, f := range refs {
		why := ""
		switch f.kind {
		case "column":
			n.columns = append(n.columns, f.what)
		case "extension":
			err = r.extension(ctx, f.what)
		case "type":
			why, err = r.typ(ctx, f.what)
		case "collation":
			why, err = r.collation(ctx, f.what)
		default:
			why = f.what
		}
		if err != nil {
			return n, err
		}
		if why != "" {
			n.missing = append(n.missing, why)
		}
	}
	return n, nil
}

func bytesOf(s []string) [][]byte {
	out := make([][]byte, len(s))
	for i, v := range s {
		out[i] = []byte(v)
	}
	return out
}

// lacks says what of its needs a definition does not have, "" where it has all.
func (r *defining) lacks(n need) string {
	var out []string
	for _, name := range n.columns {
		if !slices.ContainsFunc(r.layout.Schema.GetColumns(), func(c *tricklepb.Column) bool { return c.GetName() == name }) {
			out = append(out, "column "+Quote(name)+", which is not exported")
		}
	}
	for _, m := range n.missing {
		out = append(out, m+", which trickle does not make")
	}
	return strings.Join(out, "; ")
}

func (r *defining) leaveOut(what, why string) {
	r.out.LeftOut = append(r.out.LeftOut, what+": it needs "+why)
}

// columns defines the compared columns, in their order.
func (r *defining) columns(ctx context.Context) error {
	type column struct{ number, name, typ, collation, generated, expr, attrdef, class string }
	read := make(map[string]column)
	err := each(ctx, r.c, `SELECT a.attnum, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), coalesce(pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(l.collname), ''),
			a.attgenerated, coalesce(pg_catalog.pg_get_expr(d.adbin, d.adrelid), ''), coalesce(d.oid, 0), a.attrelid
		FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_attrdef d ON a.attgenerated <> '' AND d.adrelid = a.attrelid AND d.adnum = a.attnum
			LEFT JOIN pg_collation l ON l.oid = a.attcollation AND a.attcollation <> t.typcollation LEFT JOIN pg_namespace n ON n.oid = l.collnamespace
		WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped`, []Arg{text(r.layout.Name.SQL())}, func(row [][]byte) error {
		c := column{
			number: string(row[0]), name: string(row[1]), typ: string(row[2]), collation: string(row[3]), generated: string(row[4]), expr: string(row[5]),
			attrdef: string(row[6]), class: string(row[7]),
		}
		read[c.number] = c
		return nil
	})
	if err != nil {
		return err
	}
	for _, i := range r.layout.compared {
		own := r.layout.Columns[i]
		c, ok := read[own.number]
		if !ok || c.name != own.Name {
			return fmt.Errorf("column %q: %w", own.Name, ErrChanged)
		}
		sql := c.typ
		if c.collation != "" {
			sql += " COLLATE " + c.collation
		}
		n, err := r.needs(ctx, "pg_class", c.class+" "+c.number)
		if err != nil {
			return err
		}
		if c.generated != "" {
			of, err := r.needs(ctx, "pg_attrdef", c.attrdef+" 0")
			if err != nil {
				return err
			}
			n.columns, n.missing = append(n.columns, of.columns...), append(n.missing, of.missing...)
			sql += " GENERATED ALWAYS AS (" + c.expr + ")" + map[string]string{"s": " STORED", "v": " VIRTUAL"}[c.generated]
		}
		n.columns = slices.DeleteFunc(n.columns, func(name string) bool { return name == c.name }) // its own line in the catalogue refers to itself where it is generated
		if why := r.lacks(n); why != "" {
			r.out.Unmakeable = append(r.out.Unmakeable, "column "+Quote(c.name)+" needs "+why)
		}
		if own.filled {
			sql += " NOT NULL"
		}
		r.out.Columns = append(r.out.Columns, DefinedColumn{Name: c.name, SQL: sql})
	}
	return nil
}

// indexes defines these, and the constraints that have one: the key first, so that it is not among the others.
func (r *defining) indexes(ctx context.Context) error {
	key := make([]string, len(r.layout.Key))
	for i, k := range r.layout.Key {
		key[i] = r.layout.Columns[k].number
	}
	type indexed struct {
		oid, name, body, constraint, constraintOID string
		unique, valid, keyed                       bool
		columns                                    []string
	}
	var indexes []indexed
	// The text of an index begins with what only tells which it is, and where.
	err := each(ctx, r.c, `SELECT i.indexrelid, c.relname, pg_catalog.substr(pg_catalog.pg_get_indexdef(i.indexrelid), pg_catalog.length('CREATE ' || CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END || 'INDEX '
				|| pg_catalog.quote_ident(c.relname) || ' ON ' || CASE WHEN t.relkind = 'p' THEN 'ONLY ' ELSE '' END || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.relname) || ' USING ') + 1),
			i.indisunique, i.indisvalid, `+KeySQL+` AND i.indnkeyatts = pg_catalog.cardinality($2::int2[]) AND (i.indkey::int2[])[0:i.indnkeyatts - 1] = $2::int2[],
			coalesce(pg_catalog.pg_get_constraintdef(k.oid), ''), coalesce(k.oid, 0), pg_catalog.to_json(ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attnum = ANY (i.indkey::int2[])))
		FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace
			LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
		WHERE i.indrelid = to_regclass($1) ORDER BY i.indisprimary DESC, i.indisreplident DESC, c.relname`,
		[]Arg{text(r.layout.Name.SQL()), text("{" + strings.Join(key, ",") + "}")}, func(row [][]byte) error {
			i := indexed{
				oid: string(row[0]), name: string(row[1]), body: string(row[2]), unique: isTrue(row[3]), valid: isTrue(row[4]), keyed: isTrue(row[5]),
				constraint: string(row[6]), constraintOID: string(row[7]),
			}
			err := json.Unmarshal(row[8], &i.columns)
			indexes = append(indexes, i)
			return err
		})
	if err != nil {
		return err
	}
	for _, i := range indexes {
		p := DefinedPart{Name: i.name, Kind: Index, Body: i.body}
		switch {
		case i.constraint != "":
			p.Kind, p.Body = Constraint, i.constraint
		case i.unique:
			p.Kind = UniqueIndex
		}
		what := p.Kind + " " + Quote(i.name)
		if !i.valid {
			r.out.LeftOut = append(r.out.LeftOut, what+": it is not valid at the source")
			continue
		}
		n, err := r.needs(ctx, "pg_class", i.oid+" 0")
		if err != nil {
			return err
		}
		of, err := r.needs(ctx, "pg_constraint", i.constraintOID+" 0")
		if err != nil {
			return err
		}
		n.columns, n.missing = append(append(n.columns, of.columns...), i.columns...), append(n.missing, of.missing...)
		slices.Sort(n.columns)
		n.columns = slices.Compact(n.columns)
		why := r.lacks(n)
		switch {
		case i.keyed && r.out.Key.Body == "":
			if why != "" {
				// What it includes besides the key, or how it compares: the key itself holds without.
				r.leaveOut("what "+what+" has besides the key", why)
				p.Body = r.plainKey(p.Kind, strings.HasPrefix(i.constraint, "PRIMARY"))
			}
			r.out.Key = p
		case why != "":
			r.leaveOut(what, why)
		case p.Kind == Index:
			r.out.Ready = append(r.out.Ready, p)
		default:
			r.out.Later = append(r.out.Later, p)
		}
	}
	return nil
}

// plainKey is the body of a key of the key's columns and no more.
func (r *defining) plainKey(kind string, primary bool) string {
	columns := make([]string, len(r.layout.Key))
	for i, k := range r.layout.Key {
		columns[i] = Quote(r.layout.Columns[k].Name)
	}
	list := "(" + strings.Join(columns, ", ") + ")"
	switch {
	case kind == UniqueIndex:
		return "btree " + list
	case primary:
		return "PRIMARY KEY " + list
	default:
		return "UNIQUE " + list
	}
}

// constraints defines CHECKs and foreign keys.
func (r *defining) constraints(ctx context.Context) error {
	type constraint struct {
		oid, name, text, refers, written string
		to                               []string
	}
	var all []constraint
	err := each(ctx, r.c, `SELECT k.oid, k.conname, pg_catalog.pg_get_constraintdef(k.oid), coalesce(n.nspname, ''), coalesce(f.relname, ''), coalesce(k.confrelid::regclass::text, ''),
			pg_catalog.to_json(ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY AS x(num, pos) JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = x.num ORDER BY x.pos))
		FROM pg_constraint k LEFT JOIN pg_class f ON f.oid = k.confrelid LEFT JOIN pg_namespace n ON n.oid = f.relnamespace
		WHERE k.conrelid = to_regclass($1) AND k.contype IN ('c', 'f') AND k.conparentid = 0 ORDER BY k.contype, k.conname`,
		[]Arg{text(r.layout.Name.SQL())}, func(row [][]byte) error {
			c := constraint{oid: string(row[0]), name: string(row[1]), text: string(row[2]), written: string(row[5])}
			if len(row[4]) > 0 {
				c.refers = Name{Schema: string(row[3]), Table: string(row[4])}.String()
			}
			err := json.Unmarshal(row[6], &c.to)
			all = append(all, c)
			return err
		})
	if err != nil {
		return err
	}
	for _, c := range all {
		p := DefinedPart{Name: c.name, Kind: Constraint, Body: c.text}
		if c.refers != "" {
			body, tail, found := strings.Cut(c.text, " REFERENCES "+c.written+"(")
			if !found {
				return fmt.Errorf("foreign key %q reads %q, which names no table %s", c.name, c.text, c.written)
			}
			p.Kind, p.Body, p.Refers, p.To, p.Tail = ForeignKey, body, c.refers, c.to, "("+tail
		}
		n, err := r.needs(ctx, "pg_constraint", c.oid+" 0")
		if err != nil {
			return err
		}
		if why := r.lacks(n); why != "" {
			r.leaveOut(p.Kind+" "+Quote(c.name), why)
			continue
		}
		if c.refers == "" {
			r.out.Ready = append(r.out.Ready, p)
		} else {
			r.out.Later = append(r.out.Later, p)
		}
	}
	return nil
}
