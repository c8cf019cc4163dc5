package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
)

// Exporter copies a table's ranges out, as COPY writes them, and digests their rows on the way.
//
// Where it can, it computes the record digest itself, from the rows that the server sends: that halves what an export costs the source. Whether it comes to what the server comes to is tried
// on rows of each range first; once it did not, the server computes the digests of every range from there on. It may be used by several at once.
type Exporter struct {
	layout  *Layout
	columns []string
	binary  bool
	digest  digest.Kind
	there   atomic.Bool // the server digests
}

// ExportWant tells how a table is exported.
type ExportWant struct {
	Columns []string // by the source's names
	Binary  bool     // in COPY's binary format, see Streamable; otherwise its text format
	Digest  digest.Kind
}

// Exporter makes one.
func (l *Layout) Exporter(w ExportWant) *Exporter {
	e := &Exporter{layout: l, columns: w.Columns, binary: w.Binary, digest: w.Digest}
	e.there.Store(!w.Binary || w.Digest != digest.Record || l.rowHash(w.Columns) == nil)
	return e
}

// ErrDigestThere is returned by Export where a value came that is not digested here. The server digests from then on: begin the range anew.
var ErrDigestThere = errors.New("only the server can digest this")

// Exported is what a range came to.
type Exported struct {
	Print digest.Thumbprint // of the very rows that were written
	Bytes int64             // that were written
}

// triedRows are those of a range on which the digests are tried.
const triedRows = 64

// Export copies a range's rows to a writer, whole, in no particular order, within the connection's transaction, which reads otherwise than by bitmaps no more. What it wrote is of use only where there is no error.
func (e *Exporter) Export(ctx context.Context, c *pgconn.PgConn, r message.Range, to io.Writer) (Exported, error) {
	l := e.layout
	if err := l.checkRange(r); err != nil {
		return Exported{}, err
	}
	columns, err := l.streamed(e.columns)
	if err != nil {
		return Exported{}, err
	}
	list := "t." + strings.Join(columns, ", t.")
	p := &params{inline: true} // COPY takes no parameters
	from := " FROM " + l.rows() + " t" + l.where(p, r)
	if !e.there.Load() {
		if err := e.try(ctx, c, list+from); err != nil {
			return Exported{}, err
		}
	}
	if err := script(ctx, c, tuning+byBitmap); err != nil {
		return Exported{}, fmt.Errorf("preparing to export %s: %w", l.Name, err)
	}
	s := &exportSplitter{to: to, binary: e.binary, columns: len(columns), there: e.there.Load()}
	if s.there {
		list = l.digestSQL(e.digest) + ", " + list
	} else {
		s.hash = l.rowHash(e.columns)
	}
	if _, err := c.CopyTo(ctx, s, "COPY (SELECT "+list+from+") TO STDOUT"+Stream{Binary: e.binary}.format()); err != nil {
		return Exported{}, err
	}
	if err := s.end(); errors.Is(err, errBinaryForm) {
		e.there.Store(true)
		return Exported{}, fmt.Errorf("table %s: %w: %w", l.Name, ErrDigestThere, err)
	} else if err != nil {
		return Exported{}, fmt.Errorf("table %s: %w", l.Name, err)
	}
	return Exported{Print: s.print, Bytes: s.written}, nil
}

// byBitmap has a range's blocks read once each, in the heap's order: where that has nothing to do with the key's, going from row to row costs twice as much, and sorting the rows half more.
const byBitmap = "; SET LOCAL enable_seqscan = off; SET LOCAL enable_indexscan = off"

// try digests some rows on both sides.
func (e *Exporter) try(ctx context.Context, c *pgconn.PgConn, list string) error {
	s := &exportSplitter{to: io.Discard, binary: true, columns: len(e.columns), there: true, hash: e.layout.rowHash(e.columns)}
	if err := script(ctx, c, "SET LOCAL enable_indexscan = on"); err != nil { // for some rows of the range not all of it is looked up
		return fmt.Errorf("preparing to export %s: %w", e.layout.Name, err)
	}
	sql := "COPY (SELECT " + e.layout.digestSQL(e.digest) + ", " + list + " LIMIT " + strconv.Itoa(triedRows) + ") TO STDOUT (FORMAT binary)"
	if _, err := c.CopyTo(ctx, s, sql); err != nil {
		return err
	}
	err := s.end()
	if errors.Is(err, errBinaryForm) || err == nil && s.differ > 0 {
		e.there.Store(true)
		return nil
	}
	if err != nil {
		return fmt.Errorf("table %s: %w", e.layout.Name, err)
	}
	return nil
}

// Here tells whether it computes the digests itself.
func (e *Exporter) Here() bool { return !e.there.Load() }

// looked is how many rows of a large range are looked at before all are.
const looked = 1000

// Untouched is Unchanged for a range of many rows: one of which rows all over it were written is mostly found out by some of them, and the others are not read. How many rows there
// are is then not counted. The connection's transaction reads by bitmaps from then on.
func (l *Layout) Untouched(ctx context.Context, c *pgconn.PgConn, r message.Range, known Known) (rows uint64, unchanged bool, err error) {
	if err := l.checkRange(r); err != nil {
		return 0, false, err
	}
	if known.Print.Rows > looked {
		if err := script(ctx, c, "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_indexscan = on"); err != nil {
			return 0, false, err
		}
		p := &params{}
		touched := false
		sql := "SELECT EXISTS (SELECT FROM (SELECT t.xmin AS x FROM " + l.rows() + " t" + l.where(p, r) + " LIMIT " + strconv.Itoa(looked) + ") AS s WHERE NOT " + olderSQL("s.x", known.Xmin) + ")"
		err := each(ctx, c, sql, p.args, func(row [][]byte) error {
			touched = isTrue(row[0])
			return nil
		})
		if err != nil || touched {
			return known.Print.Rows, false, err
		}
	}
	if err := script(ctx, c, tuning+"; SET LOCAL enable_bitmapscan = on"+byBitmap); err != nil {
		return 0, false, err
	}
	return l.Unchanged(ctx, c, r, known)
}
