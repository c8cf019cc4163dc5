package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
)

// Sums reads the thumbprints of ranges that follow each other with one statement, so that a range costs a descent of the index and no more.
func (l *Layout) Sums(ctx context.Context, c *pgconn.PgConn, ranges []message.Range, kind digest.Kind) ([]digest.Thumbprint, error) {
	out := make([]digest.Thumbprint, 0, len(ranges))
	one := func(r message.Range) error {
		print, err := l.Thumbprint(ctx, c, r, nil, kind)
		out = append(out, print)
		return err
	}
	rest := ranges
	if len(rest) > 0 && rest[0].Lo == nil {
		if err := one(rest[0]); err != nil {
			return nil, err
		}
		rest = rest[1:]
	}
	open := len(rest) > 0 && rest[len(rest)-1].Hi == nil
	if open {
		rest = rest[:len(rest)-1]
	}
	if len(rest) > 0 {
		if err := l.checkRange(rest[0]); err != nil {
			return nil, err
		}
		p := &params{}
		sql := "SELECT x.c, x.s FROM " + l.bounds(p, rest) + ", LATERAL (SELECT count(*), coalesce(sum(" + l.summedSQL(kind) + "), 0) FROM " + l.rows() + " t WHERE " +
			l.between() + ") AS x(c, s) ORDER BY v.n"
		err := each(ctx, c, sql, p.args, func(row [][]byte) error {
			print, err := thumbprintOf(row[0], row[1])
			out = append(out, print)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if open {
		if err := one(ranges[len(ranges)-1]); err != nil {
			return nil, err
		}
	}
	if len(out) != len(ranges) {
		return nil, fmt.Errorf("table %s: %d sums for %d ranges", l.Name, len(out), len(ranges))
	}
	return out, nil
}

// bounds makes ranges with two ends a table v(lo0, …, hi0, …, n) of text.
func (l *Layout) bounds(p *params, ranges []message.Range) string {
	var args, names []string
	column := func(name string, of func(message.Range) string) {
		vals := make([][]byte, len(ranges))
		for i, r := range ranges {
			vals[i] = []byte(of(r))
		}
		args = append(args, p.add(Array(vals))+"::text[]")
		names = append(names, name)
	}
	for i := range l.Key {
		column("lo"+strconv.Itoa(i), func(r message.Range) string { return r.Lo[i] })
		column("hi"+strconv.Itoa(i), func(r message.Range) string { return r.Hi[i] })
	}
	return "unnest(" + strings.Join(args, ", ") + ") WITH ORDINALITY AS v(" + strings.Join(append(names, "n"), ", ") + ")"
}

// between is the condition for a row of t to be in the range v.
func (l *Layout) between() string {
	lo, hi := make([]string, len(l.Key)), make([]string, len(l.Key))
	for i, k := range l.Key {
		typ := l.typeOf(l.Columns[k])
		lo[i], hi[i] = "v.lo"+strconv.Itoa(i)+"::"+typ, "v.hi"+strconv.Itoa(i)+"::"+typ
	}
	cond := "(" + l.keySQL() + ") " + l.operator(">") + " (" + strings.Join(lo, ", ") + ") AND (" + l.keySQL() + ") " + l.operator("<=") + " (" + strings.Join(hi, ", ") + ")"
	return cond + l.and()
}

// and is the policy's condition as a further one, "" where there is none.
func (l *Layout) and() string {
	if l.condition == "" {
		return ""
	}
	return " AND (" + l.condition + ")"
}

// summedSQL is the digest for a sum, which would leave NULL out as if the row had agreed: what stands in for it is not a number, and says so. Its part
// of the key, which is empty, keeps the planner from reading that number ahead of time. That costs next to nothing, where counting the digests besides
// would compute each of them twice.
func (l *Layout) summedSQL(kind digest.Kind) string {
	return "coalesce(" + l.digestSQL(kind) + ", pg_catalog.concat(" + Literal("a row of "+l.Name.String()+" has no digest: a column or cast of it is NULL where it says that it can't be") +
		", pg_catalog.left(t." + Quote(l.Columns[l.Key[0]].Name) + "::text, 0))::bigint)"
}

// Buckets divide a table by a hash of the key, which needs no order: not the heap's, nor one that both sides' collations agree upon.
type Buckets struct {
	// Mask is their number, a power of two, less one.
	Mask int64
	// Blocks [From, To) of the heap, or of each partition's, are read; To 0: all.
	From, To int64
}

// heap is the condition for the blocks, "" for all.
func (b Buckets) heap() string {
	if b.To == 0 {
		return ""
	}
	return fmt.Sprintf(" AND t.ctid >= '(%d,0)'::tid AND t.ctid < '(%d,0)'::tid", b.From, b.To)
}

// SumBuckets reads the heap in its own order and adds each bucket's rows to sums, which has Mask+1 elements.
func (l *Layout) SumBuckets(ctx context.Context, c *pgconn.PgConn, b Buckets, kind digest.Kind) ([]digest.Thumbprint, error) {
	sums := make([]digest.Thumbprint, b.Mask+1)
	// OFFSET 0 keeps the planner from looking through the subquery: it would see the key, expect as many groups as rows, and sort.
	sql := "SELECT b, count(*), sum(d) FROM (SELECT " + l.keyHash(kind) + " & " + strconv.FormatInt(b.Mask, 10) + "::bigint AS b, " + l.summedSQL(kind) + " AS d FROM " + l.rows() +
		" t WHERE true" + b.heap() + l.and() + " OFFSET 0) AS s GROUP BY b"
	err := each(ctx, c, sql, nil, func(row [][]byte) error {
		n, err := strconv.ParseInt(string(row[0]), 10, 64)
		if err != nil || n < 0 || n > b.Mask {
			return fmt.Errorf("reading the number of a bucket: %q", row[0])
		}
		sums[n], err = thumbprintOf(row[1], row[2])
		return err
	})
	return sums, err
}

// Part is what List lists: ranges, or buckets.
type Part struct {
	Ranges  []message.Range
	Mask    int64
	Buckets []int64
}

// Entry is a row as List shows it.
type Entry struct {
	// Hash is of the key; both sides have the same for the same key, whatever its text looks like.
	Hash   uint64
	Digest uint64
	Key    message.Key
}

// List hands every row of the part to fn, in the order of Hash as a signed number. The entry is the callee's.
func (l *Layout) List(ctx context.Context, c *pgconn.PgConn, part Part, kind digest.Kind, fn func(Entry) error) error {
	p := &params{}
	columns, names := l.keyHash(kind)+", "+l.digestSQL(kind)+", "+l.keySQL(), "hash, digest"
	for i := range l.Key {
		names += ", k" + strconv.Itoa(i)
	}
	var from string
	switch ends := finite(part.Ranges); {
	case len(part.Ranges) == 1 && !ends:
		from = "(SELECT " + columns + " FROM " + l.rows() + " t" + l.where(p, part.Ranges[0]) + ")"
	case len(part.Ranges) > 0 && ends:
		from = l.bounds(p, part.Ranges) + ", LATERAL (SELECT " + columns + " FROM " + l.rows() + " t WHERE " + l.between() + ")"
	case len(part.Ranges) > 0:
		return fmt.Errorf("table %s: a range without an end is listed alone", l.Name)
	default:
		numbers := make([][]byte, len(part.Buckets))
		for i, b := range part.Buckets {
			numbers[i] = number(b)
		}
		from = "(SELECT " + columns + " FROM " + l.rows() + " t WHERE (" + l.keyHash(kind) + " & " + strconv.FormatInt(part.Mask, 10) + "::bigint) = ANY (" +
			p.add(Array(numbers)) + "::bigint[])" + l.and() + ")"
	}
	sql := "SELECT x.* FROM " + from + " AS x(" + names + ") ORDER BY x.hash"
	formats := make([]int16, 2+len(l.Key))
	formats[0], formats[1] = 1, 1 // binary: two numbers that people never see
	r := c.ExecParams(ctx, sql, p.args, nil, nil, formats)
	var failed error
	for failed == nil && r.NextRow() {
		raw := r.Values()
		if len(raw[0]) != 8 || len(raw[1]) != 8 {
			failed = fmt.Errorf("table %s: %w", l.Name, errNoDigest)
			break
		}
		e := Entry{Hash: binary.BigEndian.Uint64(raw[0]), Digest: binary.BigEndian.Uint64(raw[1]), Key: keyOf(raw[2:])}
		failed = fn(e)
	}
	_, err := r.Close()
	if failed != nil {
		return failed
	}
	return err
}

// finite tells whether every range has two ends.
func finite(ranges []message.Range) bool {
	for _, r := range ranges {
		if r.Lo == nil || r.Hi == nil {
			return false
		}
	}
	return true
}

// keySeed seeds the key's hash, so that it is not the row's digest where the key is all of the row.
const keySeed = 7046029254386353131

// keyHash is 64 bits of the compared key.
func (l *Layout) keyHash(kind digest.Kind) string {
	var record []element
	var portable []string
	for _, k := range l.Key {
		n := slices.Index(l.compared, k)
		wire := l.Schema.GetColumns()[n]
		expr := l.compareExpr(l.Columns[k], wire)
		typ := l.hashedAs(wire)
		record = append(record, element{expr: expr, typ: typ, filled: !l.loose(k)})
		if whole := l.unfolded(expr, typ); whole != "" {
			record = append(record, element{expr: whole, typ: textType, filled: !l.loose(k)})
		}
		portable = append(portable, l.portableExpr(expr, wire.GetType()))
	}
	if kind == digest.Portable {
		return portableHash(portable)
	}
	return l.recordSQL(record, keySeed)
}

// unfolded is text that differs where two values of a type do whose hash folds 64 bits of time onto 32, "" for other types: among some hundred
// thousand keys there would be pairs of one hash, and a key would be taken for another.
func (l *Layout) unfolded(expr, typ string) string {
	oid := l.named(typ)
	of := l.leaf(oid)
	if of == "" {
		_, info := l.base(oid)
		of = info.String()
	}
	switch of {
	case "pg_catalog.time", "pg_catalog.timestamp", "pg_catalog.timestamptz":
		return "(" + expr + ")::text"
	case "pg_catalog.interval":
		if of != typ {
			return ""
		}
		// A month is 30 days and a year 360, as where intervals are compared; epoch counts 365.25 for each year.
		return "(extract(epoch FROM " + expr + ") - 453600::numeric * extract(year FROM " + expr + "))::text"
	default:
		return ""
	}
}

// portableHash is the first 64 bits of the MD5 of framed fields.
func portableHash(fields []string) string {
	return "('x' || pg_catalog.substr(pg_catalog.md5(" + strings.Join(fields, " || ") + "), 1, 16))::bit(64)::bigint"
}

// Ordered tells whether ranges of the key can be read on both sides alike and at the cost of their rows: the key sorts the same in every database,
// since no column of it depends on a collation, on the order in which an enum's labels were made, or on object IDs, none is text of an
// encoding that nobody knows, and none is compared as another type; and an index has its columns first, in its order.
func (l *Layout) Ordered(ctx context.Context, c *pgconn.PgConn) (bool, error) {
	names, numbers := make([][]byte, len(l.Key)), make([][]byte, len(l.Key))
	for i, k := range l.Key {
		column := l.Columns[k]
		_, info := l.base(column.oid)
		// jsonb sorts its strings by the database's collation and does not say so in the catalogue.
		if !l.stable(column.oid) || info.schema != "pg_catalog" || info.name == "jsonb" || l.loose(k) {
			return false, nil
		}
		names[i], numbers[i] = []byte(column.Name), []byte(column.number)
	}
	ordered := false
	err := each(ctx, c, `SELECT bool_and(a.attcollation = 0 OR current_setting('server_encoding') <> 'SQL_ASCII' AND (l.collname IN ('C', 'POSIX')
					OR l.collname = 'default' AND d.datcollate IN ('C', 'POSIX') AND coalesce(pg_catalog.to_jsonb(d) ->> 'datlocprovider', 'c') = 'c'))
				AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = to_regclass($1) AND i.indisvalid AND i.indisready AND i.indpred IS NULL
					AND i.indnkeyatts >= pg_catalog.cardinality($3::int2[]) AND (i.indkey::int2[])[0:pg_catalog.cardinality($3::int2[]) - 1] = $3::int2[]
					AND NOT EXISTS (SELECT FROM pg_catalog.generate_subscripts($3::int2[], 1) AS n JOIN pg_attribute k ON k.attrelid = i.indrelid AND k.attnum = i.indkey[n - 1]
						WHERE i.indcollation[n - 1] <> k.attcollation OR i.indoption[n - 1] & 1 <> i.indoption[0] & 1
						OR NOT EXISTS (SELECT FROM pg_opclass o JOIN pg_opclass d USING (opcfamily) JOIN pg_am m ON m.oid = d.opcmethod
							WHERE o.oid = i.indclass[n - 1] AND d.opcdefault AND m.amname = 'btree')))
			FROM pg_attribute a LEFT JOIN pg_collation l ON l.oid = a.attcollation, pg_database d
			WHERE d.datname = current_database() AND a.attrelid = to_regclass($1) AND a.attname = ANY ($2::text[])`,
		[]Arg{text(l.Name.SQL()), Array(names), Array(numbers)}, func(row [][]byte) error {
			ordered = isTrue(row[0])
			return nil
		})
	if err != nil {
		return false, fmt.Errorf("looking at the order of %s's key: %w", l.Name, err)
	}
	return ordered, nil
}

// loose tells whether the policy has a column compared as another type than its own.
func (l *Layout) loose(column int) bool {
	for n, i := range l.compared {
		if i == column {
			_, ok := l.rules.Compare[l.Schema.GetColumns()[n].GetName()]
			return ok
		}
	}
	return false
}
