package postgres

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message/tricklepb"
)

// Rules are what the policy says about comparing one table. Columns go by the source's names.
type Rules struct {
	Exclude     []string
	Compare     map[string]string // column: looser type
	Rename      map[string]string // column: what the replica calls it
	Exact       Exactness
	JSON        JSONness
	Where       string
	QuietColumn string
	// ReplicaWhere is Where in the replica's own words; empty: Where, as it is.
	ReplicaWhere string
}

// there is what the replica calls a column.
func (r Rules) there(column string) string {
	if name, ok := r.Rename[column]; ok {
		return name
	}
	return column
}

// Exactness tells when two values are the same.
type Exactness int

const (
	// ByType takes what the type calls equal: numeric 1.0 and 1.00.
	ByType Exactness = iota
	// ByBytes takes only equal text forms.
	ByBytes
)

// MismatchError says that the two sides can't be compared, and why.
type MismatchError struct {
	Table  Name
	Reason string
	// Faults are what it is made of, where Fit found it; one for each column and one for the key.
	Faults []Fault
}

// Fault is one thing that keeps a replica's table from being compared.
type Fault struct {
	Reason string
	// Fix is the SQL that mends it in the replica.
	Fix string
}

func mismatch(table Name, faults []Fault) error {
	reasons := make([]string, len(faults))
	for i, f := range faults {
		reasons[i] = f.Reason
	}
	return &MismatchError{Table: table, Reason: strings.Join(reasons, "; "), Faults: faults}
}

func (e *MismatchError) Error() string { return fmt.Sprintf("table %s: %s", e.Table, e.Reason) }

// Layout is a table made ready to be read: the compared columns in the source's order, and the SQL that digests them.
type Layout struct {
	*Table
	Schema *tricklepb.Schema
	rules  Rules
	// condition is the policy's condition in this side's words.
	condition string
	// compared are indexes into Columns, in the order of Schema.Columns.
	compared []int
	record   string
	portable string
	probe    string
}

// NewLayout lays the source's table out under the policy's rules.
func NewLayout(t *Table, rules Rules) (*Layout, error) {
	l := &Layout{Table: t, rules: rules, condition: rules.Where, Schema: &tricklepb.Schema{}}
	for _, name := range rules.Exclude {
		if t.column(name) < 0 {
			return nil, &MismatchError{Table: t.Name, Reason: fmt.Sprintf("columns.exclude names %q, which is no column of it", name)}
		}
	}
	for name := range rules.Compare {
		if t.column(name) < 0 {
			return nil, &MismatchError{Table: t.Name, Reason: fmt.Sprintf("columns.compare names %q, which is no column of it", name)}
		}
	}
	for name := range rules.Rename {
		if t.column(name) < 0 {
			return nil, &MismatchError{Table: t.Name, Reason: fmt.Sprintf("columns.rename names %q, which is no column of it", name)}
		}
	}
	if rules.QuietColumn != "" && t.column(rules.QuietColumn) < 0 {
		return nil, &MismatchError{Table: t.Name, Reason: fmt.Sprintf("quiet_column names %q, which is no column of it", rules.QuietColumn)}
	}
	for i, c := range t.Columns {
		if slices.Contains(rules.Exclude, c.Name) {
			if slices.Contains(t.Key, i) {
				return nil, &MismatchError{Table: t.Name, Reason: fmt.Sprintf("columns.exclude names %q, which belongs to the key", c.Name)}
			}
			continue
		}
		typ := t.comparedAs(c)
		if loose, ok := rules.Compare[c.Name]; ok {
			typ = loose
		}
		l.compared = append(l.compared, i)
		_, declared := t.base(c.oid)
		l.Schema.Columns = append(l.Schema.Columns, &tricklepb.Column{Name: c.Name, Type: typ, Declared: declared.String()})
	}
	if err := l.oneToOne(); err != nil {
		return nil, err
	}
	for _, k := range t.Key {
		l.Schema.Key = append(l.Schema.Key, t.Columns[k].Name)
	}
	l.Schema.Where, l.Schema.Exact, l.Schema.JsonAsText = rules.Where, rules.Exact == ByBytes, rules.JSON == JSONAsText
	h := fnv.New64a()
	h.Write([]byte(recordDigests)) // sums that were kept from an older digest are not this one's
	for n, c := range l.Schema.GetColumns() {
		// The number too: a column that takes the place of a dropped one may hold other values in rows whose version is what it was.
		fmt.Fprintf(h, "%q %q %s;", c.GetName(), c.GetType(), t.Columns[l.compared[n]].number)
	}
	fmt.Fprintf(h, "%q %q %d %d", l.Schema.GetKey(), rules.Where, rules.Exact, rules.JSON)
	l.Schema.Fingerprint = h.Sum64()
	l.build()
	return l, nil
}

// Fit lays the replica's table out after the source's schema: every compared column must be there, as a type that compares
// with the source's, and the key must be unique. Columns that only the replica has are left alone.
func Fit(t *Table, schema *tricklepb.Schema, rules Rules) (*Layout, error) {
	l := &Layout{Table: t, rules: rules, condition: rules.Where, Schema: schema}
	if rules.ReplicaWhere != "" {
		l.condition = rules.ReplicaWhere
	}
	if rules.Where != schema.GetWhere() || (rules.Exact == ByBytes) != schema.GetExact() || (rules.JSON == JSONAsText) != schema.GetJsonAsText() {
		return nil, &MismatchError{Table: t.Name, Reason: fmt.Sprintf("the publisher's policy has where: %q and the detector's %q, or their compare or jsonb differs: give both sides the same policy",
			schema.GetWhere(), rules.Where)}
	}
	if err := l.oneToOne(); err != nil {
		return nil, err
	}
	var faults []Fault
	for _, c := range schema.GetColumns() {
		there := rules.there(c.GetName())
		declares := ParseName(c.GetDeclared()).SQL()
		i := t.column(there)
		if i < 0 {
			reason := fmt.Sprintf("the replica lacks column %q: add it, name it under columns.exclude, or say under columns.rename what it is called there", there)
			if there != c.GetName() {
				reason = fmt.Sprintf("the replica lacks column %q, which columns.rename says is the source's %q: add it, or correct the name", there, c.GetName())
			}
			faults = append(faults, Fault{reason, fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s", t.Name.SQL(), Quote(there), declares)})
			continue
		}
		loose, ok := rules.Compare[c.GetName()]
		if ok && loose != c.GetType() {
			faults = append(faults, Fault{Reason: fmt.Sprintf("column %q is compared as %s at the source and as %s here by columns.compare: give both sides the same policy", c.GetName(), c.GetType(), loose)})
		}
		if !ok {
			own := t.comparedAs(t.Columns[i])
			_, declared := t.base(t.Columns[i].oid)
			// One type on both sides is compared as the source does, though this server might not hash it: then the probe says so.
			if own != c.GetType() && !(integer(own) && integer(c.GetType())) && declared.String() != c.GetDeclared() {
				faults = append(faults, Fault{
					Reason: fmt.Sprintf("column %q is %s at the source, compared as %s, and %s here, compared as %s: change one, or name a type that both can be cast to under columns.compare",
						c.GetName(), c.GetDeclared(), c.GetType(), declared, own),
					Fix: fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s TYPE %s USING %s::%s", t.Name.SQL(), Quote(there), declares, Quote(there), declares),
				})
			}
		}
		l.compared = append(l.compared, i)
	}
	key := make([]int, 0, len(schema.GetKey()))
	for _, name := range schema.GetKey() {
		key = append(key, t.column(rules.there(name)))
	}
	sorted := slices.Sorted(slices.Values(key))
	if !slices.Contains(key, -1) && !slices.ContainsFunc(t.keys, func(own []int) bool { return slices.Equal(slices.Sorted(slices.Values(own)), sorted) }) {
		faults = append(faults, Fault{fmt.Sprintf("the source's key is (%s), but the replica's is another: add a unique index on it there", strings.Join(schema.GetKey(), ", ")), t.uniqueOver(key)})
	}
	if len(faults) > 0 {
		return nil, mismatch(t.Name, faults)
	}
	fitted := *t
	fitted.Key = key
	l.Table = &fitted
	l.build()
	return l, nil
}

// uniqueOver is the SQL that makes columns a key.
func (t *Table) uniqueOver(key []int) string {
	var alter, columns []string
	for _, i := range key {
		name := Quote(t.Columns[i].Name)
		columns = append(columns, name)
		if !t.Columns[i].NotNull {
			alter = append(alter, "ALTER COLUMN "+name+" SET NOT NULL")
		}
	}
	index := "CREATE UNIQUE INDEX ON " + t.Name.SQL() + " (" + strings.Join(columns, ", ") + ")"
	if len(alter) == 0 {
		return index
	}
	return "ALTER TABLE " + t.Name.SQL() + " " + strings.Join(alter, ", ") + "; " + index
}

// oneToOne refuses renames that make two compared columns one.
func (l *Layout) oneToOne() error {
	of := make(map[string]string)
	for _, c := range l.Schema.GetColumns() {
		there := l.rules.there(c.GetName())
		if other, ok := of[there]; ok {
			return &MismatchError{Table: l.Name, Reason: fmt.Sprintf("columns.rename makes %q and %q both %q in the replica: rename or exclude one", other, c.GetName(), there)}
		}
		of[there] = c.GetName()
	}
	return nil
}

// hashedText is what decides, besides the types, whether two servers hash a text alike: the bytes that their encoding makes of it, and, where the
// probe's text can't hold all letters for it, the locale by which some types fold case.
const hashedText = `'probe ' || pg_catalog.getdatabaseencoding()::text || CASE WHEN pg_catalog.getdatabaseencoding() = 'UTF8'::name THEN '' ELSE
	(SELECT ' ' || d.datctype::text FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) END`

// probeSeed seeds the probe's digest.
const probeSeed = 32776894263553125

// seed of the record digest: made of the columns and what is taken of them, so that values of one schema never have the digest they should under another.
func (l *Layout) seed() uint64 {
	h := fnv.New64a()
	for _, c := range l.Schema.GetColumns() {
		fmt.Fprintf(h, "%q %q;", c.GetName(), c.GetType())
	}
	fmt.Fprintf(h, "%t", l.Schema.GetJsonAsText())
	return h.Sum64()
}

// build makes the digest expressions over the alias t.
func (l *Layout) build() {
	var elements, probe []element
	var portable []string
	for n, i := range l.compared {
		wire := l.Schema.GetColumns()[n]
		expr := l.compareExpr(l.Columns[i], wire)
		typ := l.hashedAs(wire)
		elements = append(elements, element{expr: expr, typ: typ, filled: l.Columns[i].filled && !l.loose(i), finite: l.Columns[i].bounded && !l.loose(i)})
		if lit := l.probeOf(typ); lit != "" {
			probe = append(probe, element{expr: lit, typ: typ})
		}
		portable = append(portable, l.portableExpr(expr, wire.GetType()))
	}
	l.record = l.recordSQL(elements, l.seed())
	l.portable = portableHash(portable)
	slices.SortFunc(probe, func(a, b element) int { return strings.Compare(a.expr, b.expr) })
	l.probe = l.recordSQL(append(slices.Compact(probe), element{expr: hashedText, typ: textType}), probeSeed)
}

// hashedAs is the type whose hash the record digest takes of a column.
func (l *Layout) hashedAs(wire *tricklepb.Column) string {
	if l.spellsOut(wire) {
		return textType
	}
	return l.madeInto(wire)
}

// madeInto is the type that a column's values are cast to, whatever is then taken of them.
func (l *Layout) madeInto(wire *tricklepb.Column) string {
	loose, ok := l.rules.Compare[wire.GetName()]
	switch {
	case l.rules.Exact == ByBytes:
		return textType
	case !ok:
		return wire.GetType()
	}
	oid := l.spelt(loose)
	if oid == 0 {
		return loose
	}
	return l.comparedAs(Column{oid: oid, deterministic: true})
}

// compareExpr is a column as it is hashed.
func (l *Layout) compareExpr(c Column, wire *tricklepb.Column) string {
	expr := l.castExpr(c, wire)
	if l.spellsOut(wire) {
		return "(" + expr + `)::text COLLATE "C"`
	}
	return expr
}

// castExpr is a column as the type it is compared as.
func (l *Layout) castExpr(c Column, wire *tricklepb.Column) string {
	col := "t." + Quote(c.Name)
	_, own := l.base(c.oid)
	if own.String() == xmlType {
		// As it is read: a cast would show the encoding that a document once had and that nobody else is told, CDC neither.
		col = "pg_catalog.textin(pg_catalog.xml_out(" + col + "))"
	}
	loose, ok := l.rules.Compare[wire.GetName()]
	switch {
	case ok:
		col += "::" + loose
		switch typ := l.madeInto(wire); typ {
		case textType:
			return "(" + col + `)::text COLLATE "C"`
		case loose:
			return col
		default:
			return "(" + col + ")::" + ParseName(typ).SQL()
		}
	case l.rules.Exact == ByBytes, wire.GetType() == textType:
		return col + `::text COLLATE "C"`
	case integer(own.String()) && integer(wire.GetType()):
		return col + l.plainly(c) // a wider one than the source's may hold what the source's can't
	case own.String() == wire.GetType():
		return col + l.plainly(c)
	default:
		return col + "::" + ParseName(wire.GetType()).SQL()
	}
}

// plainly is the cast that takes a domain off a column, "" where there is none.
func (l *Layout) plainly(c Column) string {
	if l.types[c.oid].kind != 'd' {
		return ""
	}
	_, own := l.base(c.oid)
	return "::" + own.sql()
}

// probeOf is the probe literal of a compared type, "" where there is none.
func (l *Layout) probeOf(typ string) string {
	switch {
	case typ == textType:
		return Literal(l.spelling(probeText)) + "::text"
	case integer(typ):
		return "42::int8"
	default:
		return l.Table.probe(l.named(typ))
	}
}

// portableExpr frames one column as digest.Row does: tag, length in bytes, canonical text.
func (l *Layout) portableExpr(expr, typ string) string {
	tag := typ[strings.LastIndexByte(typ, '.')+1:]
	canonical := expr + "::text"
	switch {
	case tag == "int2", tag == "int4", tag == "int8":
		tag = "int"
	case l.rules.Exact == ByBytes:
	case tag == "numeric":
		canonical = "pg_catalog.trim_scale(" + expr + ")::text"
	case tag == "float4", tag == "float8":
		canonical = "(" + expr + " + 0::" + tag + ")::text" // -0 and 0 are equal
	case l.leaf(l.named(typ)) == numericType:
		canonical = trimmed(expr, numericType)
	}
	return l.utf8("coalesce(" + Literal(tag+":") + " || pg_catalog.octet_length(" + l.utf8(canonical) + ")::text || ':' || " + canonical + " || ';', " + Literal(tag+":-;") + ")")
}

func (l *Layout) digestSQL(kind digest.Kind) string {
	if kind == digest.Portable {
		return l.portable
	}
	return l.record
}

// Probe computes the digest of the probe row on a server: where both sides' are equal they hash these types alike.
func (l *Layout) Probe(ctx context.Context, c *pgconn.PgConn) (uint64, error) {
	var probe uint64
	err := each(ctx, c, "SELECT "+l.probe, nil, func(row [][]byte) error {
		v, err := strconv.ParseInt(string(row[0]), 10, 64)
		probe = uint64(v)
		return err
	})
	if s := State(err); s == "42883" || s == "22P05" {
		// A type has no hash here, a hash function has another name, or a literal has characters that this server's encoding lacks: another digest
		// than the source's, whatever that is, and not 0.
		return ^l.Schema.GetProbe(), nil
	}
	if err != nil {
		return 0, fmt.Errorf("probing the row digest of %s: %w", l.Name, err)
	}
	return probe, nil
}

// ColumnNames are the compared columns' names, in the order of values.
func (l *Layout) ColumnNames() []string {
	out := make([]string, len(l.compared))
	for n, i := range l.compared {
		out[n] = l.Columns[i].Name
	}
	return out
}
