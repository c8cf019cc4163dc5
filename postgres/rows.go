package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
)

// Value is one column of a row in text form; nil is NULL.
type Value = []byte

// Row is one row as either side reads it.
type Row struct {
	Key     message.Key
	Present bool
	Version uint64 // xmin, 32 bits
	Digest  uint64
	Settled bool // see Settled
	Values  []Value
}

// Settled tells which rows are old enough: those whose writers had all ended before a sample was taken.
type Settled struct {
	// Xmin is pg_snapshot_xmin of the sample; 0 where there is none: nothing is settled then.
	Xmin uint64
	// Column, where set, is a timestamp column to compare with Before instead.
	Column string
	Before string
}

// keySQL is the key's columns, comma separated.
func (l *Layout) keySQL() string {
	cols := make([]string, len(l.Key))
	for i, k := range l.Key {
		cols[i] = "t." + Quote(l.Columns[k].Name)
	}
	return strings.Join(cols, ", ")
}

// where is the predicate of a range under the policy's own condition.
func (l *Layout) where(p *params, r message.Range) string {
	var conds []string
	bound := func(op string, k message.Key) {
		if k == nil {
			return
		}
		vals := make([]string, len(k))
		for i, v := range k {
			vals[i] = p.add(text(v)) + "::" + l.typeOf(l.Columns[l.Key[i]])
		}
		conds = append(conds, "("+l.keySQL()+") "+l.operator(op)+" ("+strings.Join(vals, ", ")+")")
	}
	bound(">", r.Lo)
	bound("<=", r.Hi)
	if l.condition != "" {
		conds = append(conds, "("+l.condition+")")
	}
	if len(conds) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(conds, " AND ")
}

// whereAnd puts a further condition behind where's.
func whereAnd(where string) string {
	if where == "" {
		return " WHERE "
	}
	return where + " AND "
}

// settledSQL is true for rows that every writer had left before the sample. Ages are modulo 2^32: a frozen row may keep a raw xmin that
// looks as if it were to come, which makes its age negative; that is old.
func (l *Layout) settledSQL(s Settled) string {
	switch {
	case s.Column != "":
		return "coalesce(t." + Quote(s.Column) + " < " + Literal(s.Before) + "::timestamptz, true)"
	case s.Xmin == 0:
		return "false"
	default:
		return olderSQL("t.xmin", s.Xmin)
	}
}

// olderSQL is true for what was written by a transaction before the one of that number.
func olderSQL(xmin string, than uint64) string {
	// A sample further back than ages reach would have a negative one itself: then every age from 0 on may be younger. A subquery, so
	// that it is worked out once and not for each row.
	sample := strconv.FormatUint(than, 10)
	return "(pg_catalog.age(" + xmin + ") NOT BETWEEN 0 AND (SELECT CASE WHEN pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::numeric - " + sample +
		"::numeric > 2000000000::numeric THEN 2147483646 ELSE pg_catalog.age(" + Literal(strconv.FormatUint(than&0xffffffff, 10)) + "::xid) END))"
}

// operator is an operator between values of these columns, all of the key's by default. Where it is one of Postgres's own for all of them it is named
// in full: of operators that are found by their name, one that somebody made for the very type is taken before the one for a type like it, and run
// as whoever reads. Those of other types (citext, ltree) are found by their name.
func (l *Layout) operator(op string, columns ...int) string {
	if len(columns) == 0 {
		columns = l.Key
	}
	for _, i := range columns {
		if _, info := l.base(l.Columns[i].oid); info.kind == 'b' && info.elem == 0 && info.schema != "pg_catalog" {
			return op
		}
	}
	return "OPERATOR(pg_catalog." + op + ")"
}

// checkKeys refuses keys with another number of columns than the table's key.
func (l *Layout) checkKeys(keys ...message.Key) error {
	for _, k := range keys {
		if len(k) != len(l.Key) {
			return fmt.Errorf("table %s has a key of %d columns, not %d: %w", l.Name, len(l.Key), len(k), ErrChanged)
		}
	}
	return nil
}

// checkRange is checkKeys for bounds, which may be infinite.
func (l *Layout) checkRange(r message.Range) error {
	for _, k := range []message.Key{r.Lo, r.Hi} {
		if k == nil {
			continue
		}
		if err := l.checkKeys(k); err != nil {
			return err
		}
	}
	return nil
}

// Thumbprint reads a range's rows as a count and a sum, without those left out.
func (l *Layout) Thumbprint(ctx context.Context, c *pgconn.PgConn, r message.Range, leftOut []message.Key, kind digest.Kind) (digest.Thumbprint, error) {
	if err := errors.Join(l.checkRange(r), l.checkKeys(leftOut...)); err != nil {
		return digest.Thumbprint{}, err
	}
	p := &params{}
	where := l.where(p, r)
	sql := "SELECT count(*), coalesce(sum(" + l.summedSQL(kind) + "), 0) FROM " + l.rows() + " t" + where
	if len(leftOut) > 0 {
		join := " WHERE "
		if where != "" {
			join = " AND "
		}
		from, on := l.unnest(p, leftOut)
		sql += join + "NOT EXISTS (SELECT FROM " + from + " WHERE " + on + ")"
	}
	var print digest.Thumbprint
	err := each(ctx, c, sql, p.args, func(row [][]byte) error {
		var err error
		print, err = thumbprintOf(row[0], row[1])
		return err
	})
	return print, err
}

// thumbprintOf reduces Postgres's exact sum modulo 2^64, which is where a uint64 wraps around by itself.
func thumbprintOf(count, sum []byte) (digest.Thumbprint, error) {
	n, err := strconv.ParseUint(string(count), 10, 64)
	if err != nil {
		return digest.Thumbprint{}, fmt.Errorf("reading a count: %w", err)
	}
	digits, negative := bytes.CutPrefix(sum, []byte("-"))
	var total uint64
	for _, d := range digits {
		if d < '0' || d > '9' {
			return digest.Thumbprint{}, fmt.Errorf("reading a sum of digests: %q is no integer", sum)
		}
		total = total*10 + uint64(d-'0')
	}
	if negative {
		total = -total
	}
	return digest.Thumbprint{Rows: n, Sum: total}, nil
}

// unnest makes keys a table v(k0, k1, …, n) and the condition that joins it with t.
func (l *Layout) unnest(p *params, keys []message.Key) (from, on string) {
	args := make([]string, len(l.Key))
	cols := make([]string, len(l.Key))
	conds := make([]string, len(l.Key))
	for i, k := range l.Key {
		vals := make([][]byte, len(keys))
		for j, key := range keys {
			vals[j] = []byte(key[i])
		}
		c := l.Columns[k]
		args[i] = "pg_catalog.unnest(" + p.add(Array(vals)) + "::text[])"
		cols[i] = "k" + strconv.Itoa(i)
		value := "v." + cols[i] + "::" + l.typeOf(c)
		if _, info := l.base(c.oid); info.kind == 'e' {
			// The other side may have a label that this one has not: no row has it here.
			value = "(SELECT e FROM pg_catalog.unnest(pg_catalog.enum_range(NULL::" + info.sql() + ")) AS e WHERE e::text = v." + cols[i] + ")"
		}
		conds[i] = "t." + Quote(c.Name) + " " + l.operator("=", k) + " " + value
	}
	return "ROWS FROM (" + strings.Join(args, ", ") + ") WITH ORDINALITY AS v(" + strings.Join(cols, ", ") + ", n)", strings.Join(conds, " AND ")
}

// Want tells which parts of a row to read besides key, version and digest.
type Want struct {
	Digest  digest.Kind
	Settled Settled
	Values  bool
}

// columns is the select list that scan reads.
func (l *Layout) columns(w Want) string {
	sql := l.keySQL() + ", t.xmin, " + l.digestSQL(w.Digest) + ", " + l.settledSQL(w.Settled)
	if w.Values {
		for _, i := range l.compared {
			sql += ", t." + Quote(l.Columns[i].Name)
		}
	}
	return sql
}

func (l *Layout) scan(raw [][]byte, w Want) (Row, error) {
	n := len(l.Key)
	if raw[n] == nil {
		return Row{}, nil
	}
	row := Row{Key: keyOf(raw[:n]), Present: true, Settled: isTrue(raw[n+2])}
	var err error
	if row.Version, err = strconv.ParseUint(string(raw[n]), 10, 64); err != nil {
		return Row{}, fmt.Errorf("reading xmin: %w", err)
	}
	d, err := strconv.ParseInt(string(raw[n+1]), 10, 64)
	if err != nil {
		return Row{}, fmt.Errorf("reading a row digest: %w", err)
	}
	row.Digest = uint64(d)
	if w.Values {
		row.Values = make([]Value, len(raw)-n-3)
		for i, v := range raw[n+3:] {
			if v != nil {
				row.Values[i] = append(make([]byte, 0, len(v)), v...)
			}
		}
	}
	return row, nil
}

// Page is a range read in key order, up to a limit.
type Page struct {
	Rows []Row
	// Covered is the part of the range that Rows is all of.
	Covered message.Range
	// More says that the limit cut the range at Covered.Hi.
	More bool
}

// pageBytes bounds the values of one page; a page always has a row.
const pageBytes = 16 << 20

func size(raw [][]byte) int {
	n := 0
	for _, v := range raw {
		n += len(v)
	}
	return n
}

// Range reads a range's rows in key order, at most limit of them (0: all) and, with values, at most 16 MiB and a row.
func (l *Layout) Range(ctx context.Context, c *pgconn.PgConn, r message.Range, limit int, w Want) (Page, error) {
	if err := l.checkRange(r); err != nil {
		return Page{}, err
	}
	p := &params{}
	sql := "SELECT " + l.columns(w) + " FROM " + l.rows() + " t" + l.where(p, r) + " ORDER BY " + l.keySQL()
	if limit > 0 {
		sql += " LIMIT " + strconv.Itoa(limit+1)
	}
	page := Page{Covered: r}
	bytes := 0
	err := each(ctx, c, sql, p.args, func(raw [][]byte) error {
		if page.More {
			return nil
		}
		if n := len(page.Rows); limit > 0 && n == limit || w.Values && bytes > pageBytes {
			page.More = true
			page.Covered.Hi = page.Rows[n-1].Key
			return nil
		}
		bytes += size(raw)
		row, err := l.scan(raw, w)
		page.Rows = append(page.Rows, row)
		return err
	})
	return page, err
}

// Rows reads the rows of keys: one for each key, in that order, not Present where the table, whatever the policy's condition, has none. With values it
// stops behind 16 MiB: then there are fewer rows than keys, but at least one.
func (l *Layout) Rows(ctx context.Context, c *pgconn.PgConn, keys []message.Key, w Want) ([]Row, error) {
	if err := l.checkKeys(keys...); err != nil {
		return nil, err
	}
	p := &params{}
	from, on := l.unnest(p, keys)
	// The policy's condition is left out on purpose. It says what is looked at, range by range; what is done about a key that was found must
	// not depend on it, or a row that left the condition at the source would look deleted there.
	// The planner takes unnest for 100 rows whatever it holds; for a few keys the index is right, and for many it still is.
	sql := "SELECT v.n, " + l.columns(w) + " FROM " + from + " LEFT JOIN " + l.rows() + " t ON " + on + " ORDER BY v.n"
	rows := make([]Row, len(keys))
	for i, k := range keys {
		rows[i].Key = k
	}
	bytes := 0
	err := each(ctx, c, sql, p.args, func(raw [][]byte) error {
		n, err := strconv.Atoi(string(raw[0]))
		if err != nil {
			return fmt.Errorf("reading a position: %w", err)
		}
		if n > len(rows) {
			return nil
		}
		if bytes += size(raw); w.Values && bytes > pageBytes {
			rows = rows[:n]
		}
		row, err := l.scan(raw[1:], w)
		if row.Present {
			row.Key = keys[n-1] // in the asker's words, so that it finds its own
			rows[n-1] = row
		}
		return err
	})
	return rows, err
}

// mostBoundaries bounds one answer of Boundaries; what is left is one piece, which is read page by page.
const mostBoundaries = 100_000

// Boundaries cuts a range into pieces of about rows rows: the upper bounds of all but the last piece.
func (l *Layout) Boundaries(ctx context.Context, c *pgconn.PgConn, r message.Range, rows int) ([]message.Key, error) {
	if err := l.checkRange(r); err != nil {
		return nil, err
	}
	p := &params{}
	names := make([]string, len(l.Key))
	for i := range l.Key {
		names[i] = "k" + strconv.Itoa(i)
	}
	list := strings.Join(names, ", ")
	sql := "SELECT " + list + " FROM (SELECT " + l.keySQL() + ", row_number() OVER (ORDER BY " + l.keySQL() + ") FROM " + l.rows() + " t" + l.where(p, r) +
		") AS s(" + list + ", n) WHERE n % " + strconv.Itoa(rows) + "::bigint = 0::bigint ORDER BY n LIMIT " + strconv.Itoa(mostBoundaries)
	var keys []message.Key
	err := each(ctx, c, sql, p.args, func(raw [][]byte) error {
		keys = append(keys, keyOf(raw))
		return nil
	})
	return keys, err
}
