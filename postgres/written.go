package postgres

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
)

// Loading copies ranges into a table that may have no index yet, and sums what it wrote. It belongs to one connection and one table.
type Loading struct {
	layout *Layout
	stream Stream
	// staged are the declared types of the stream's columns, where these go through a table of their own.
	staged []string
	// at is the heap's block in which this connection wrote last, where it goes on if that has room.
	at int64
}

// NewLoading prepares to load streams of these columns, which are declared so at the source (in the form that travels). Where the table has them otherwise they are
// read as they were and then cast.
func (l *Layout) NewLoading(s Stream, declared []string) *Loading {
	load := &Loading{layout: l, stream: s, at: -1}
	if own, _ := l.Streamable(); !slices.Equal(own, s.Columns) || !l.declares(s.Columns, declared) {
		load.staged = declared
	}
	return load
}

// Staged tells whether rows go through a temporary table, for which a right is needed.
func (g *Loading) Staged() bool { return g.staged != nil }

// declares tells whether the table has each column as the type that it has at the source.
func (l *Layout) declares(columns, declared []string) bool {
	for i, name := range columns {
		n := l.exported(name)
		if n < 0 {
			return false
		}
		if _, own := l.base(l.Columns[l.compared[n]].oid); own.String() != declared[i] {
			return false
		}
	}
	return true
}

// exported finds a column by the source's name among the compared ones, -1 where it is none.
func (l *Layout) exported(name string) int {
	for n, c := range l.Schema.GetColumns() {
		if c.GetName() == name {
			return n
		}
	}
	return -1
}

// Load copies a range in and returns the thumbprint of the very rows that the table holds of it now, in the connection's transaction, which has written nothing else to it.
func (g *Loading) Load(ctx context.Context, c *pgconn.PgConn, r message.Range, kind digest.Kind, data io.Reader) (print digest.Thumbprint, err error) {
	l := g.layout
	from := int64(0)
	if !l.partitioned {
		if from, err = l.length(ctx, c); err != nil {
			return print, err
		}
	}
	var rows int
	if g.staged == nil {
		rows, err = l.LoadFrom(ctx, c, g.stream, data)
	} else {
		rows, err = g.stage(ctx, c, data)
	}
	if err != nil || rows == 0 {
		return print, err
	}
	if l.partitioned {
		print, _, err = l.Own(ctx, c, r, kind)
		return print, err
	}
	// COPY begins in the block where this connection wrote last, or in the table's last one, and goes on behind the end.
	if g.at >= 0 {
		from = min(from, g.at)
	}
	return g.own(ctx, c, max(0, from-1), wrote{rows: uint64(rows), kind: kind})
}

type wrote struct {
	rows uint64
	kind digest.Kind
}

// own sums the rows that this transaction has written, of which there are so many: first from that block on. Where the server has used room further up, as its map of free space
// may have it do, those are not all, and the rest of the heap is read too.
func (g *Loading) own(ctx context.Context, c *pgconn.PgConn, from int64, w wrote) (print digest.Thumbprint, err error) {
	l := g.layout
	xmin, err := ownXID(ctx, c)
	if err != nil {
		return print, err
	}
	last := int64(-1)
	read := func(blocks string) error {
		sql := "SELECT count(*), coalesce(sum(" + l.summedSQL(w.kind) + "), 0), pg_catalog.max(t.ctid) FROM ONLY " + l.Name.SQL() + " t WHERE " + blocks +
			" AND t.xmin OPERATOR(pg_catalog.=) '" + xmin + "'::pg_catalog.xid"
		return each(ctx, c, sql, nil, func(row [][]byte) error {
			part, err := thumbprintOf(row[0], row[1])
			if err != nil || part.Rows == 0 {
				return err
			}
			print = print.Add(part)
			block, _, _ := strings.Cut(strings.TrimPrefix(string(row[2]), "("), ",")
			n, err := strconv.ParseInt(block, 10, 64)
			last = max(last, n)
			return err
		})
	}
	mark := fmt.Sprintf("'(%d,0)'::tid", from)
	if err := read("t.ctid >= " + mark); err != nil {
		return print, err
	}
	if print.Rows < w.rows && from > 0 {
		if err := read("t.ctid < " + mark); err != nil {
			return print, err
		}
	}
	g.at = last
	return print, nil
}

// length is the heap's, in blocks.
func (l *Layout) length(ctx context.Context, c *pgconn.PgConn) (n int64, err error) {
	err = each(ctx, c, "SELECT pg_catalog.pg_relation_size($1::pg_catalog.regclass) / pg_catalog.current_setting('block_size')::int8", []Arg{text(l.Name.SQL())}, func(row [][]byte) error {
		n, err = strconv.ParseInt(string(row[0]), 10, 64)
		return err
	})
	return n, err
}

// staging is the temporary table's name: one for each table of the replica, on each connection.
func (g *Loading) staging() string {
	h := fnv.New64a()
	h.Write([]byte(g.layout.Name.SQL()))
	return Quote("trickle staging " + strconv.FormatUint(h.Sum64(), 36))
}

// stage copies rows into a temporary table that has the source's types, and from there into the table, cast to its own.
func (g *Loading) stage(ctx context.Context, c *pgconn.PgConn, data io.Reader) (int, error) {
	l := g.layout
	var columns, into, from []string
	for i, name := range g.stream.Columns {
		typ := ""
		// A type that only the source has is read as text. What is in binary form is of types that every database has.
		err := each(ctx, c, "SELECT coalesce(pg_catalog.to_regtype($1)::text, 'text')", []Arg{text(ParseName(g.staged[i]).SQL())}, func(row [][]byte) error {
			typ = string(row[0])
			return nil
		})
		if err != nil {
			return 0, err
		}
		column := "c" + strconv.Itoa(i)
		columns = append(columns, column+" "+typ)
		n := l.exported(name)
		if n < 0 {
			return 0, fmt.Errorf("table %s: %q is no compared column of it: %w", l.Name, name, ErrChanged)
		}
		own := l.Columns[l.compared[n]]
		if own.Generated {
			continue // the server computes it, and the sum tells whether to the same value
		}
		_, info := l.base(own.oid)
		into, from = append(into, Quote(own.Name)), append(from, "s."+column+"::"+info.sql())
	}
	if err := run(ctx, c, "CREATE TEMPORARY TABLE IF NOT EXISTS "+g.staging()+" ("+strings.Join(columns, ", ")+") ON COMMIT DELETE ROWS"); err != nil {
		return 0, fmt.Errorf("making a temporary table for %s: %w", l.Name, err)
	}
	if _, err := copyIn(ctx, c, "COPY pg_temp."+g.staging()+" FROM STDIN"+g.stream.format(), data); err != nil {
		return 0, err
	}
	tag, err := c.ExecParams(ctx, "INSERT INTO "+l.Name.SQL()+" ("+strings.Join(into, ", ")+") OVERRIDING SYSTEM VALUE SELECT "+strings.Join(from, ", ")+" FROM pg_temp."+g.staging()+" s", nil, nil, nil, nil).Close()
	return int(tag.RowsAffected()), err
}
