package postgres

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
)

// Target is one row to be written: where it was observed as, and what it shall be.
type Target struct {
	Key     message.Key
	Version uint64 // as observed, for updates and deletes
	Digest  uint64
	Values  []Value // in the order of ColumnNames; for inserts and updates
}

// Image is a row of the replica before or after a write.
type Image struct {
	N       int    // index of the target it belongs to; -1: it was stored under a key that no target has
	JSON    string // the whole row; numbers and booleans as such, everything else as text
	KeyJSON string
	Version uint64
	Digest  uint64
}

// CheckShape fails with ErrChanged when the table no longer looks as described.
func (l *Layout) CheckShape(ctx context.Context, c *pgconn.PgConn) error {
	return each(ctx, c, "SELECT "+signatureSQL("$1"), []Arg{text(l.Name.SQL())}, func(row [][]byte) error {
		if string(row[0]) != l.signature {
			return fmt.Errorf("table %s: %w", l.Name, ErrChanged)
		}
		return nil
	})
}

// jsonOf is a JSON object of columns of t.
func (l *Layout) jsonOf(columns []int) string {
	var parts []string
	const most = 40 // a function takes at most 100 arguments
	for start := 0; start < len(columns); start += most {
		var args []string
		for _, i := range columns[start:min(start+most, len(columns))] {
			c := l.Columns[i]
			expr := "t." + Quote(c.Name)
			_, info := l.base(c.oid)
			typ := Name{info.schema, info.name}.String()
			switch {
			case integer(typ), typ == "pg_catalog.numeric", typ == "pg_catalog.bool":
			default:
				expr += "::text"
			}
			args = append(args, Literal(c.Name), expr)
		}
		parts = append(parts, "pg_catalog.jsonb_build_object("+strings.Join(args, ", ")+")")
	}
	return strings.Join(parts, " || ")
}

func (l *Layout) all() []int {
	out := make([]int, len(l.Columns))
	for i := range out {
		out[i] = i
	}
	return out
}

// writtenSQL is imageSQL of a row that this very transaction writes. Its xmin is the transaction's own ID, which is asked for instead: a row
// returned through a partitioned table can't be asked for system columns.
func (l *Layout) writtenSQL(kind digest.Kind) string {
	return strings.Replace(l.imageSQL(kind), "t.xmin::text", "(pg_catalog.pg_current_xact_id()::text::bigint & 4294967295::bigint)::text", 1)
}

func (l *Layout) imageSQL(kind digest.Kind) string {
	return l.jsonOf(l.all()) + " AS image, " + l.jsonOf(l.Key) + " AS key_json, t.xmin::text AS version, " + l.digestSQL(kind) + " AS digest"
}

func scanImage(row [][]byte) (Image, error) {
	n := 0
	var err error
	if row[0] != nil {
		if n, err = strconv.Atoi(string(row[0])); err != nil {
			return Image{}, fmt.Errorf("reading a position: %w", err)
		}
	}
	version, err := strconv.ParseUint(string(row[3]), 10, 64)
	if err != nil {
		return Image{}, fmt.Errorf("reading xmin: %w", err)
	}
	d, err := strconv.ParseInt(string(row[4]), 10, 64)
	if err != nil {
		return Image{}, fmt.Errorf("reading a row digest: %w", err)
	}
	return Image{N: n - 1, JSON: string(row[1]), KeyJSON: string(row[2]), Version: version, Digest: uint64(d)}, nil
}

func keysOf(targets []Target) []message.Key {
	keys := make([]message.Key, len(targets))
	for i, t := range targets {
		keys[i] = t.Key
	}
	return keys
}

func (l *Layout) images(ctx context.Context, c *pgconn.PgConn, sql string, p *params) ([]Image, error) {
	var out []Image
	err := each(ctx, c, sql, p.args, func(row [][]byte) error {
		img, err := scanImage(row)
		out = append(out, img)
		return err
	})
	return out, err
}

// Lock locks those of the targets that still are what was observed, version and digest, and returns their images. A row that
// somebody else is writing is not waited for: it will be found changed.
func (l *Layout) Lock(ctx context.Context, c *pgconn.PgConn, targets []Target, kind digest.Kind) ([]Image, error) {
	if err := l.checkKeys(keysOf(targets)...); err != nil {
		return nil, err
	}
	p := &params{}
	from, on := l.unnest(p, keysOf(targets))
	versions, digests := make([][]byte, len(targets)), make([][]byte, len(targets))
	for i, t := range targets {
		versions[i] = strconv.AppendUint(nil, t.Version, 10)
		digests[i] = strconv.AppendInt(nil, int64(t.Digest), 10)
	}
	sql := "SELECT v.n, " + l.imageSQL(kind) + " FROM " + from + " JOIN " + l.rows() + " t ON " + on +
		" WHERE t.xmin::text = (" + p.add(Array(versions)) + "::text[])[v.n] AND " + l.digestSQL(kind) + " = (" + p.add(Array(digests)) + "::bigint[])[v.n]" +
		" FOR UPDATE OF t SKIP LOCKED"
	return l.images(ctx, c, sql, p)
}

// writable are the compared columns that may be written, as indexes into compared; the key comes along only where withKey.
func (l *Layout) writable(op operation) []int {
	var out []int
	for n, i := range l.compared {
		c := l.Columns[i]
		if c.Generated {
			continue
		}
		if op == updating && (c.IdentityAlways || l.isKey(i)) {
			continue
		}
		out = append(out, n)
	}
	return out
}

type operation int

const (
	inserting operation = iota
	updating
)

func (l *Layout) isKey(column int) bool {
	for _, k := range l.Key {
		if k == column {
			return true
		}
	}
	return false
}

// targetsSQL makes the targets a table w(n, c0, c1, …) of their values as text, in the order of the given columns.
func (l *Layout) targetsSQL(p *params, targets []Target, columns []int) (string, error) {
	args := make([]string, len(columns))
	names := make([]string, len(columns))
	for j, n := range columns {
		vals := make([][]byte, len(targets))
		for i, t := range targets {
			if len(t.Values) != len(l.compared) {
				return "", fmt.Errorf("table %s: a row of %d values for %d columns: %w", l.Name, len(t.Values), len(l.compared), ErrChanged)
			}
			vals[i] = t.Values[n]
		}
		args[j] = "pg_catalog.unnest(" + p.add(Array(vals)) + "::text[])"
		names[j] = "c" + strconv.Itoa(n)
	}
	return "ROWS FROM (" + strings.Join(args, ", ") + ") WITH ORDINALITY AS w(" + strings.Join(append(names, "n"), ", ") + ")", nil
}

// cast reads a value as the column's own type, so that the server names the value that does not fit.
func (l *Layout) cast(n int) string {
	_, info := l.base(l.Columns[l.compared[n]].oid)
	return "w.c" + strconv.Itoa(n) + "::" + info.sql()
}

// Update sets the compared columns of rows that the caller has locked and returns what they are now.
func (l *Layout) Update(ctx context.Context, c *pgconn.PgConn, targets []Target, kind digest.Kind) ([]Image, error) {
	set := l.writable(updating)
	if len(set) == 0 {
		return nil, nil
	}
	p := &params{}
	from, on := l.unnest(p, keysOf(targets))
	with, err := l.targetsSQL(p, targets, set)
	if err != nil {
		return nil, err
	}
	assign := make([]string, len(set))
	for j, n := range set {
		assign[j] = Quote(l.Columns[l.compared[n]].Name) + " = " + l.cast(n)
	}
	sql := "UPDATE " + l.rows() + " t SET " + strings.Join(assign, ", ") + " FROM " + from + " JOIN " + with + " ON w.n = v.n WHERE " + on +
		" RETURNING v.n, " + l.writtenSQL(kind)
	return l.images(ctx, c, sql, p)
}

// Insert inserts rows whose key is absent and returns what they are now; a row whose key is there by now is left alone.
func (l *Layout) Insert(ctx context.Context, c *pgconn.PgConn, targets []Target, kind digest.Kind) ([]Image, error) {
	cols := l.writable(inserting)
	given := slices.Clone(cols)
	for n, column := range l.compared {
		if l.isKey(column) && !slices.Contains(given, n) {
			given = append(given, n) // a generated key finds its target all the same
		}
	}
	p := &params{}
	with, err := l.targetsSQL(p, targets, given)
	if err != nil {
		return nil, err
	}
	names, casts := make([]string, len(cols)), make([]string, len(cols))
	for j, n := range cols {
		names[j] = Quote(l.Columns[l.compared[n]].Name)
		casts[j] = l.cast(n)
	}
	var key, returning, join []string
	for i, k := range l.Key {
		name := Quote(l.Columns[k].Name)
		key = append(key, name)
		returning = append(returning, "t."+name+" AS k"+strconv.Itoa(i))
		for n, column := range l.compared {
			if column == k {
				join = append(join, "d.k"+strconv.Itoa(i)+" "+l.operator("=", k)+" "+l.cast(n))
			}
		}
	}
	sql := "WITH w AS (SELECT * FROM " + with + "), d AS (INSERT INTO " + l.Name.SQL() + " AS t (" + strings.Join(names, ", ") + ") OVERRIDING SYSTEM VALUE SELECT " +
		strings.Join(casts, ", ") + " FROM w ORDER BY w.n ON CONFLICT (" + strings.Join(key, ", ") + ") DO NOTHING RETURNING " + strings.Join(returning, ", ") + ", " + l.writtenSQL(kind) +
		") SELECT w.n, d.image, d.key_json, d.version, d.digest FROM d LEFT JOIN w ON " + strings.Join(join, " AND ")
	return l.images(ctx, c, sql, p)
}

// Delete deletes rows that the caller has locked.
func (l *Layout) Delete(ctx context.Context, c *pgconn.PgConn, targets []Target) (int, error) {
	p := &params{}
	from, on := l.unnest(p, keysOf(targets))
	r := c.ExecParams(ctx, "DELETE FROM "+l.rows()+" t USING "+from+" WHERE "+on, p.args, nil, nil, nil).Read()
	return int(r.CommandTag.RowsAffected()), r.Err
}

// Reinsertable reports whether a row may be deleted only to be inserted again: no foreign key points at the table, where a delete would
// cascade or be refused, and every column that can be written is compared, so that an insert brings all of it back.
func (l *Layout) Reinsertable(ctx context.Context, c *pgconn.PgConn) (bool, error) {
	for i, column := range l.Columns {
		if !column.Generated && !slices.Contains(l.compared, i) {
			return false, nil
		}
	}
	referenced := false
	err := each(ctx, c, `SELECT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = pg_catalog.to_regclass($1))`, []Arg{text(l.Name.SQL())}, func(row [][]byte) error {
		referenced = isTrue(row[0])
		return nil
	})
	return !referenced, err
}

// InsertOnly reports whether a compared column can be given a value by an insert and not by an update: GENERATED ALWAYS AS IDENTITY.
func (l *Layout) InsertOnly() bool {
	return slices.ContainsFunc(l.compared, func(i int) bool { return l.Columns[i].IdentityAlways && !l.isKey(i) })
}
