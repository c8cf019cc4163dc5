package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
)

// Stream is a range's rows as COPY writes and reads them.
type Stream struct {
	// Columns by the source's names, in the order in which they stand in Data.
	Columns []string
	// Binary is COPY's binary format; otherwise its text format.
	Binary bool
	Data   []byte
	// Print is the thumbprint of the rows in Data.
	Print digest.Thumbprint
}

// StreamWant tells what of a range to stream.
type StreamWant struct {
	Columns []string
	Binary  bool
	Digest  digest.Kind
	Settled Settled
	// Rows and Bytes bound what is streamed; there is at least one row where the range has one.
	Rows, Bytes int
}

// Streamed is the beginning of a range as it was streamed.
type Streamed struct {
	Stream
	Covered message.Range
	More    bool
	// Whole is the thumbprint of everything in Covered, Unsettled the rows, without values, that are not in Data.
	Whole     digest.Thumbprint
	Unsettled []Row
}

// Streamable names the columns, as the source does, that a stream into this table has to have: the compared ones that can be written. Binary reports
// whether it may be in COPY's binary format: both sides have each column as one and the same type, whose binary form is alike everywhere.
func (l *Layout) Streamable() (columns []string, binary bool) {
	binary = true
	for _, n := range l.writable(inserting) {
		wire := l.Schema.GetColumns()[n]
		columns = append(columns, wire.GetName())
		oid, own := l.base(l.Columns[l.compared[n]].oid)
		binary = binary && own.String() == wire.GetDeclared() && l.sendable(oid)
	}
	return columns, binary
}

// sendable tells whether a type's binary form means the same in every database: it is one of Postgres's own, and holds no number of an object that each
// database counts for itself, as the names of tables or functions do, or arrays of types that somebody made.
func (t *Table) sendable(oid uint32) bool {
	info := t.types[oid]
	switch {
	case info.schema != "pg_catalog" || !info.sent || info.kind != 'b' && info.kind != 'r':
		return false
	case info.elem != 0:
		return t.sendable(info.elem)
	case info.kind == 'r':
		return t.sendable(info.subtype)
	default:
		// The two vectors don't read what they write where they are empty.
		return !strings.HasPrefix(info.name, "reg") && info.name != "int2vector" && info.name != "oidvector"
	}
}

// streamed are the columns of these names in this table.
func (l *Layout) streamed(names []string) ([]string, error) {
	if len(names) == 0 {
		return nil, fmt.Errorf("table %s: no column is to be streamed: %w", l.Name, ErrChanged)
	}
	out := make([]string, len(names))
	for i, name := range names {
		n := slices.IndexFunc(l.Schema.GetColumns(), func(c *tricklepb.Column) bool { return c.GetName() == name })
		if n < 0 {
			return nil, fmt.Errorf("table %s: %q is no compared column of it: %w", l.Name, name, ErrChanged)
		}
		out[i] = Quote(l.Columns[l.compared[n]].Name)
	}
	return out, nil
}

// format is the option by which COPY writes and reads a stream.
func (s Stream) format() string {
	if s.Binary {
		return " (FORMAT binary)"
	}
	return ""
}

// More reports whether a range has more than so many rows.
func (l *Layout) More(ctx context.Context, c *pgconn.PgConn, r message.Range, rows int) (bool, error) {
	if err := l.checkRange(r); err != nil {
		return false, err
	}
	p := &params{}
	more := false
	err := each(ctx, c, "SELECT count(*) > "+strconv.Itoa(rows)+"::bigint FROM (SELECT FROM "+l.rows()+" t"+l.where(p, r)+" LIMIT "+strconv.Itoa(rows+1)+") AS s", p.args, func(row [][]byte) error {
		more = isTrue(row[0])
		return nil
	})
	return more, err
}

// Stream reads the beginning of a range, in key order, as COPY writes it. Each row is digested by the statement that copies it, so the digests
// are those of the very rows. What is not settled is listed apart, read in the same snapshot.
func (l *Layout) Stream(ctx context.Context, c *pgconn.PgConn, r message.Range, w StreamWant) (Streamed, error) {
	out := Streamed{Stream: Stream{Columns: w.Columns, Binary: w.Binary}, Covered: r}
	if err := l.checkRange(r); err != nil {
		return out, err
	}
	columns, err := l.streamed(w.Columns)
	if err != nil {
		return out, err
	}
	size, err := l.size(ctx, c)
	if err != nil {
		return out, fmt.Errorf("measuring %s: %w", l.Name, err)
	}
	// What lies beyond the limit of bytes is read for nothing, so the statement's own limit is put where the planner's statistics expect it, and some more.
	limit := min(w.Rows, max(1, 2*w.Bytes/size.width))
	settled := l.settledSQL(w.Settled)
	p := &params{inline: true} // COPY takes no parameters
	sql := "COPY (SELECT " + settled + ", " + l.digestSQL(w.Digest) + ", t." + strings.Join(columns, ", t.") + " FROM " + l.rows() + " t" + l.where(p, r) +
		" ORDER BY " + l.keySQL() + " LIMIT " + strconv.Itoa(limit+1) + ") TO STDOUT" + out.format()
	s := &splitter{binary: w.Binary, columns: len(columns), mostRows: limit, mostBytes: w.Bytes}
	if _, err := c.CopyTo(ctx, s, sql); err != nil {
		return out, err
	}
	if out.Data, err = s.end(); err != nil {
		return out, fmt.Errorf("table %s: %w", l.Name, err)
	}
	out.Print, out.Whole, out.More = s.settled, s.all, s.full
	if s.full {
		p := &params{}
		err := each(ctx, c, "SELECT "+l.keySQL()+" FROM "+l.rows()+" t"+l.where(p, r)+" ORDER BY "+l.keySQL()+" OFFSET "+strconv.FormatUint(s.all.Rows-1, 10)+" LIMIT 1", p.args, func(row [][]byte) error {
			out.Covered.Hi = keyOf(row)
			return nil
		})
		if err != nil {
			return out, err
		}
	}
	if out.Print.Rows == out.Whole.Rows {
		return out, nil
	}
	want := Want{Digest: w.Digest, Settled: w.Settled}
	p = &params{}
	err = each(ctx, c, "SELECT "+l.columns(want)+" FROM "+l.rows()+" t"+whereAnd(l.where(p, out.Covered))+"NOT "+settled, p.args, func(raw [][]byte) error {
		row, err := l.scan(raw, want)
		out.Unsettled = append(out.Unsettled, row)
		return err
	})
	if err == nil && uint64(len(out.Unsettled)) != out.Whole.Rows-out.Print.Rows {
		err = fmt.Errorf("table %s: %d rows are not settled where %d were streamed of %d", l.Name, len(out.Unsettled), out.Print.Rows, out.Whole.Rows)
	}
	return out, err
}

// errRules refuses to stream past a rewrite rule, which COPY does not see.
var errRules = &pgconn.PgError{Code: "0A000", Message: "the table has rewrite rules, which COPY would not follow"}

// Load copies a stream in, and returns how many rows the server took.
func (l *Layout) Load(ctx context.Context, c *pgconn.PgConn, s Stream) (int, error) {
	return l.LoadFrom(ctx, c, s, bytes.NewReader(s.Data))
}

// LoadFrom copies in what is read, in the stream's place of Data. The reader's error goes before the server's, which only says that there was one.
func (l *Layout) LoadFrom(ctx context.Context, c *pgconn.PgConn, s Stream, data io.Reader) (int, error) {
	columns, err := l.streamed(s.Columns)
	if err != nil {
		return 0, err
	}
	rules := false
	err = each(ctx, c, "SELECT relhasrules FROM pg_class WHERE oid = to_regclass($1)", []Arg{text(l.Name.SQL())}, func(row [][]byte) error {
		rules = isTrue(row[0])
		return nil
	})
	if err != nil {
		return 0, err
	}
	if rules {
		return 0, errRules
	}
	return copyIn(ctx, c, "COPY "+l.Name.SQL()+" ("+strings.Join(columns, ", ")+") FROM STDIN"+s.format(), data)
}

// copyIn runs a COPY.
func copyIn(ctx context.Context, c *pgconn.PgConn, sql string, data io.Reader) (int, error) {
	r := &rememberer{from: data}
	tag, err := c.CopyFrom(ctx, r, sql)
	if r.failed != nil {
		err = r.failed
	}
	return int(tag.RowsAffected()), err
}

// rememberer keeps the error that a reader ended with.
type rememberer struct {
	from   io.Reader
	failed error
}

func (r *rememberer) Read(b []byte) (int, error) {
	n, err := r.from.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		r.failed = err
	}
	return n, err
}

// Own sums the rows of a range that this very transaction has written, and returns the xmin that they bear.
func (l *Layout) Own(ctx context.Context, c *pgconn.PgConn, r message.Range, kind digest.Kind) (print digest.Thumbprint, xmin uint64, err error) {
	err = each(ctx, c, "SELECT pg_catalog.pg_current_xact_id()::text", nil, func(row [][]byte) error {
		xid, err := strconv.ParseUint(string(row[0]), 10, 64)
		xmin = xid & 0xffffffff
		return err
	})
	if err != nil {
		return print, 0, err
	}
	p := &params{}
	err = each(ctx, c, "SELECT count(*), coalesce(sum("+l.summedSQL(kind)+"), 0) FROM "+l.rows()+" t"+whereAnd(l.where(p, r))+writtenBy(xmin), p.args, func(row [][]byte) error {
		print, err = thumbprintOf(row[0], row[1])
		return err
	})
	return print, xmin, err
}

// Undo is the statement that takes back what a transaction has inserted into a range: all rows of it that nobody has written since.
func (l *Layout) Undo(r message.Range, xmin uint64) string {
	p := &params{inline: true}
	return "DELETE FROM " + l.rows() + " t" + whereAnd(l.where(p, r)) + writtenBy(xmin)
}

func writtenBy(xmin uint64) string {
	return "t.xmin OPERATOR(pg_catalog.=) '" + strconv.FormatUint(xmin, 10) + "'::pg_catalog.xid"
}
