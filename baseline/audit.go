package baseline

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Audit reads an object again and finds out, without any database, whether it is what its manifest says: its size, its SHA-256, its header, that it can be
// decompressed, and how many rows it holds. What is wrong is a *CorruptError or a *ForeignError.
func (s *Store) Audit(ctx context.Context, m *Manifest, t *Table, o *Object) error {
	c, err := s.Open(ctx, m, t, o)
	if err != nil {
		return err
	}
	defer c.Close()
	count := &counter{binary: t.Binary}
	if _, err := io.Copy(count, c); err != nil {
		return err
	}
	rows, err := count.end()
	switch {
	case err != nil:
		return corrupt(o.Name, "%s", err)
	case rows != o.Rows:
		return corrupt(o.Name, "it holds %d rows and the manifest of set %s says %d", rows, m.Set, o.Rows)
	}
	return nil
}

// counter counts the rows of what COPY wrote, however it is cut. In the text format each ends in a newline, and a value's own is escaped.
type counter struct {
	binary bool

	rows  uint64
	rest  []byte // of a count or a length that is cut in two
	skip  int64  // bytes of a value, or of the header
	left  int    // fields of the row that are still to come
	begun bool
	ended bool
	last  byte
	wrong error
}

// copyHead is the length of the binary format's header: a signature of 11 bytes, flags, the length of an extension that nobody writes.
const copyHead = 11 + 4 + 4

var errNotCopy = errors.New("it is not what COPY writes")

// Write never fails; end tells what was wrong.
func (c *counter) Write(b []byte) (int, error) {
	n := len(b)
	if !c.binary {
		c.rows += uint64(bytes.Count(b, []byte{'\n'}))
		if n > 0 {
			c.last = b[n-1]
		}
		return n, nil
	}
	if !c.begun {
		c.begun, c.skip = true, copyHead
	}
	for len(b) > 0 && c.wrong == nil {
		b = c.take(b)
	}
	return n, nil
}

// take consumes a value, or as much of a number as there is.
func (c *counter) take(b []byte) []byte {
	if c.skip > 0 {
		n := min(c.skip, int64(len(b)))
		c.skip -= n
		return b[n:]
	}
	if c.ended {
		c.wrong = fmt.Errorf("%w: something stands behind its end", errNotCopy)
		return nil
	}
	size := 2 // of the count of a row's fields
	if c.left > 0 {
		size = 4 // of a value's length
	}
	n := min(size-len(c.rest), len(b))
	c.rest = append(c.rest, b[:n]...)
	if len(c.rest) == size {
		c.number()
		c.rest = c.rest[:0]
	}
	return b[n:]
}

func (c *counter) number() {
	if c.left > 0 {
		length := int32(binary.BigEndian.Uint32(c.rest))
		if length < -1 {
			c.wrong = errNotCopy
			return
		}
		c.left--
		c.skip = int64(max(length, 0))
		return
	}
	switch fields := int16(binary.BigEndian.Uint16(c.rest)); {
	case fields == -1:
		c.ended = true
	case fields < 0:
		c.wrong = errNotCopy
	default:
		c.rows++
		c.left = int(fields)
	}
}

func (c *counter) end() (uint64, error) {
	switch {
	case c.wrong != nil:
		return c.rows, c.wrong
	case c.binary && !c.ended, !c.binary && c.rows > 0 && c.last != '\n':
		return c.rows, fmt.Errorf("%w: it ends in the middle", errNotCopy)
	}
	return c.rows, nil
}
