package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// ErrNoTable is wrapped where a table does not exist (or no longer).
var ErrNoTable = errors.New("no such table")

// ErrChanged is returned by reads and writes of a table whose shape is no longer what was described: describe it again.
var ErrChanged = errors.New("the table's shape changed")

// NoKeyError refuses a table that nothing can walk.
type NoKeyError struct{ Table Name }

func (e *NoKeyError) Error() string {
	return fmt.Sprintf("table %s has no primary key and no unique index over NOT NULL columns: add one (ALTER TABLE %s ADD PRIMARY KEY …) or leave the table out",
		e.Table, e.Table.SQL())
}

// Table is a table as the catalogue has it.
type Table struct {
	Name    Name
	Columns []Column
	Key     []int   // indexes into Columns, in key order
	keys    [][]int // every key that would do, Key first
	// Rows is the planner's estimate; -1 where it was never analysed.
	Rows int64
	// signature changes with the table's shape; reads check it.
	signature string
	// partitioned: its rows are its partitions'. Any other table is read and written alone: a key is unique only within it, and tables that inherit
	// from it are tables of their own.
	partitioned bool
	types       map[uint32]typeInfo
	encoding    string // the server's, which is that of the database
}

// Column is one column of a table.
type Column struct {
	Name           string
	NotNull        bool
	Generated      bool // GENERATED ALWAYS AS (…) STORED
	IdentityAlways bool
	filled         bool   // no row holds NULL
	bounded        bool   // its type has a modifier: numeric(12,2), not numeric
	number         string // attnum: a column that was dropped and added again has another
	oid            uint32
	deterministic  bool // its collation, if any, compares bytes
}

// KeyType is the type of a column of the key, as SQL.
func (t *Table) KeyType(n int) string { return t.typeOf(t.Columns[t.Key[n]]) }

// Keyed reports whether a column, by its place in Columns, belongs to the key.
func (t *Table) Keyed(column int) bool { return slices.Contains(t.Key, column) }

// typeInfo is one row of pg_type, with what decides how a value of it is digested.
type typeInfo struct {
	schema, name string
	kind         byte // typtype
	category     byte
	elem         uint32 // of a true array
	base         uint32 // of a domain
	subtype      uint32 // of a range or multirange
	hashable     bool   // has a hash of its own with a seed
	sent         bool   // has a binary form
}

// String is the form that travels.
func (t typeInfo) String() string { return Name{Schema: t.schema, Table: t.name}.String() }

func (t typeInfo) sql() string { return Quote(t.schema) + "." + Quote(t.name) }

// signatureSQL is an expression over the parameter's table: what its columns and keys look like, and whether it is there at all.
func signatureSQL(table string) string {
	return `(SELECT md5(string_agg(pg_catalog.concat_ws(' ', a.attnum, a.attname, a.atttypid, a.atttypid::regtype, a.atttypmod, a.attcollation, a.attnotnull, a.attgenerated, a.attidentity), ',' ORDER BY a.attnum)
			|| coalesce((SELECT string_agg(pg_catalog.concat_ws(' ', i.indkey, i.indnkeyatts, i.indisprimary, i.indisreplident), ',' ORDER BY i.indkey::text) FROM pg_index i
				WHERE i.indrelid = to_regclass(` + table + `) AND ` + UniqueSQL + `), ''))
		FROM pg_attribute a WHERE a.attrelid = to_regclass(` + table + `) AND a.attnum > 0 AND NOT a.attisdropped)`
}

const (
	// UniqueSQL picks, from pg_index i, what can keep two rows from having one key, but for those in which it is NULL.
	UniqueSQL = `i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL`
	// KeySQL picks those whose columns are all NOT NULL: what a table can be walked by.
	KeySQL = UniqueSQL + ` AND NOT EXISTS (SELECT FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k(n, pos)
		JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n WHERE k.pos <= i.indnkeyatts AND NOT a.attnotnull)`
	// TableSQL picks, from pg_class c in pg_namespace n, the ordinary and partitioned tables that the policy may choose from; partitions are their root's.
	TableSQL = `c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'trickle')`
)

// Describe reads a table's shape. It fails with ErrNoTable or a *NoKeyError.
func Describe(ctx context.Context, c *pgconn.PgConn, name Name) (*Table, error) {
	return new(Types).Describe(ctx, c, name)
}

// DescribeUnkeyed reads the shape of a table whose key is yet to be made, of these columns.
func DescribeUnkeyed(ctx context.Context, c *pgconn.PgConn, name Name, key []string) (*Table, error) {
	return new(Types).describe(ctx, c, name, func(t *Table) error {
		t.Key = make([]int, len(key))
		for i, column := range key {
			if t.Key[i] = t.column(column); t.Key[i] < 0 {
				return fmt.Errorf("table %s has no column %q, of which its key is to be: %w", name, column, ErrChanged)
			}
		}
		t.keys = append(t.keys, t.Key)
		return nil
	})
}

// describe reads all of a table's shape but its types.
func describe(ctx context.Context, c *pgconn.PgConn, name Name) (*Table, error) {
	t := &Table{Name: name, encoding: c.ParameterStatus("server_encoding")}
	found := false
	err := each(ctx, c, `SELECT c.reltuples::bigint, `+signatureSQL("$1")+`, c.relkind = 'p' FROM pg_class c
		WHERE c.oid = to_regclass($1) AND c.relkind IN ('r', 'p')`, []Arg{text(name.SQL())}, func(row [][]byte) error {
		found = true
		t.Rows, _ = strconv.ParseInt(string(row[0]), 10, 64)
		t.signature = string(row[1])
		t.partitioned = isTrue(row[2])
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("describing %s: %w", name, err)
	}
	if !found {
		return nil, fmt.Errorf("table %s: %w", name, ErrNoTable)
	}
	numbers := make(map[string]int)
	err = each(ctx, c, `SELECT a.attnum, a.attname, a.atttypid::bigint, a.attnotnull, a.attgenerated <> '', a.attidentity = 'a', coalesce(l.collisdeterministic, true),
			a.attnotnull AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND NOT k.convalidated AND a.attnum = ANY (k.conkey)),
			a.atttypmod <> -1
		FROM pg_attribute a LEFT JOIN pg_collation l ON l.oid = a.attcollation
		WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`, []Arg{text(name.SQL())}, func(row [][]byte) error {
		numbers[string(row[0])] = len(t.Columns)
		oid, _ := strconv.ParseUint(string(row[2]), 10, 32)
		t.Columns = append(t.Columns, Column{
			Name: string(row[1]), number: string(row[0]), oid: uint32(oid), NotNull: isTrue(row[3]), Generated: isTrue(row[4]),
			IdentityAlways: isTrue(row[5]), deterministic: isTrue(row[6]), filled: isTrue(row[7]), bounded: isTrue(row[8]),
		})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("describing the columns of %s: %w", name, err)
	}
	// The primary key; else the replica identity; else the narrowest unique index whose columns are all NOT NULL.
	err = each(ctx, c, `SELECT i.indkey::text, i.indnkeyatts FROM pg_index i
		WHERE i.indrelid = to_regclass($1) AND `+KeySQL+`
		ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indnkeyatts, i.indexrelid`, []Arg{text(name.SQL())}, func(row [][]byte) error {
		n, _ := strconv.Atoi(string(row[1]))
		key := make([]int, n)
		for i, num := range strings.Fields(string(row[0]))[:n] {
			key[i] = numbers[num]
		}
		t.keys = append(t.keys, key)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking for the key of %s: %w", name, err)
	}
	if len(t.keys) > 0 {
		t.Key = t.keys[0]
	}
	return t, nil
}

// loadTypes reads pg_type, once per description. The row types of other tables are left out: there are two for each of them, and a database may have
// thousands.
func (t *Table) loadTypes(ctx context.Context, c *pgconn.PgConn) error {
	t.types = make(map[uint32]typeInfo)
	return each(ctx, c, `WITH RECURSIVE h AS MATERIALIZED (SELECT o.opcintype AS oid FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod AND m.amname = 'hash'
			JOIN pg_amproc p ON p.amprocfamily = o.opcfamily AND p.amproclefttype = o.opcintype AND p.amprocrighttype = o.opcintype AND p.amprocnum = 2 WHERE o.opcdefault),
		used(oid) AS (SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
			UNION SELECT n.oid FROM used u JOIN pg_type t ON t.oid = u.oid LEFT JOIN pg_range r ON t.oid IN (r.rngtypid, r.rngmultitypid)
				CROSS JOIN LATERAL (VALUES (t.typelem), (t.typbasetype), (r.rngsubtype)) n(oid) WHERE n.oid <> 0::oid),
		kept AS (SELECT t.* FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem AND e.typarray = t.oid LEFT JOIN pg_class c ON c.oid = coalesce(e.typrelid, t.typrelid)
			WHERE coalesce(c.relkind, 'c') = 'c' OR t.oid IN (SELECT oid FROM used))
		SELECT t.oid::bigint, n.nspname, t.typname, t.typtype, t.typcategory,
			coalesce((SELECT e.oid::bigint FROM pg_type e WHERE e.oid = t.typelem AND e.typarray = t.oid), 0), t.typbasetype::bigint,
			coalesce((SELECT r.rngsubtype::bigint FROM pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)), 0),
			t.oid IN (SELECT oid FROM h) OR t.typcategory = 'S' AND EXISTS (SELECT FROM pg_cast k JOIN h ON h.oid = k.casttarget WHERE k.castsource = t.oid AND k.castmethod = 'b'),
			t.typsend <> 0 AND t.typreceive <> 0
		FROM kept t JOIN pg_namespace n ON n.oid = t.typnamespace`, []Arg{text(t.Name.SQL())}, func(row [][]byte) error {
		num := func(i int) uint32 {
			v, _ := strconv.ParseUint(string(row[i]), 10, 32)
			return uint32(v)
		}
		t.types[num(0)] = typeInfo{
			schema: string(row[1]), name: string(row[2]), kind: row[3][0], category: row[4][0],
			elem: num(5), base: num(6), subtype: num(7), hashable: isTrue(row[8]), sent: isTrue(row[9]),
		}
		return nil
	})
}

func isTrue(b []byte) bool { return len(b) == 1 && b[0] == 't' }

// typeOf resolves a column's type name for casts: quoted, without a length, and without a domain, whose collation may be another than the column's.
// Integers are read as the widest: the other side's may be wider, and the index serves all widths.
func (t *Table) typeOf(c Column) string {
	_, info := t.base(c.oid)
	if integer(info.String()) {
		return `"pg_catalog"."int8"`
	}
	return info.sql()
}

// rows names the table where rows are read, changed or deleted.
func (t *Table) rows() string {
	if t.partitioned {
		return t.Name.SQL()
	}
	return "ONLY " + t.Name.SQL()
}

// column finds a column by name, -1 where there is none.
func (t *Table) column(name string) int {
	return slices.IndexFunc(t.Columns, func(c Column) bool { return c.Name == name })
}

// Tables lists the tables of a database that the policy may choose from, whether the user may read them or not.
func Tables(ctx context.Context, c *pgconn.PgConn) ([]Name, error) {
	var names []Name
	err := each(ctx, c, "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE "+TableSQL+" ORDER BY 1, 2", nil, func(row [][]byte) error {
		names = append(names, Name{Schema: string(row[0]), Table: string(row[1])})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing the tables: %w", err)
	}
	return names, nil
}
