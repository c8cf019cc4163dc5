package postgres

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"

	"github.com/trickle-verify/trickle/digest"
)

// exportSplitter takes rows as COPY writes them, however they are cut, digests them, or splits the digest off that the server put before them, and hands them on without it.
type exportSplitter struct {
	to      io.Writer
	binary  bool
	columns int      // without the digest
	there   bool     // the server puts a digest before each row
	hash    *rowHash // nil: only the server digests

	rest    []byte // of a row that has not come whole
	begun   bool   // binary: the header has come
	ended   bool   // binary: the trailer has come
	out     []byte
	fields  [][]byte
	failed  error
	print   digest.Thumbprint
	differ  int // rows that both digested, and not alike
	written int64
}

// handedOn is how much is gathered before it is written.
const handedOn = 128 << 10

// Write takes the next bytes. It never fails, so that the connection lives on; end tells what went wrong.
func (s *exportSplitter) Write(p []byte) (int, error) {
	if s.failed == nil {
		s.take(p)
	}
	return len(p), nil
}

func (s *exportSplitter) take(p []byte) {
	buf := p
	if len(s.rest) > 0 {
		s.rest = append(s.rest, p...)
		buf = s.rest
	}
	for s.failed == nil && len(buf) > 0 {
		n := s.next(buf)
		if n == 0 {
			break
		}
		buf = buf[n:]
	}
	s.rest = append(s.rest[:0], buf...)
	if len(s.out) >= handedOn {
		s.flush()
	}
}

func (s *exportSplitter) flush() {
	if s.failed != nil {
		return
	}
	n, err := s.to.Write(s.out)
	s.written += int64(n)
	s.failed, s.out = err, s.out[:0]
}

// end writes what is left.
func (s *exportSplitter) end() error {
	if s.failed == nil && (len(s.rest) > 0 || s.binary && !s.ended) {
		s.failed = fmt.Errorf("%w: it ends in the middle", errCopyFormat)
	}
	s.flush()
	return s.failed
}

// next takes one row off the buffer and returns its length, 0 where it is not whole.
func (s *exportSplitter) next(buf []byte) int {
	if s.binary {
		return s.nextBinary(buf)
	}
	n := bytes.IndexByte(buf, '\n') + 1
	if n == 0 {
		return 0
	}
	sum, rest, ok := bytes.Cut(buf[:n], []byte{'\t'})
	d, err := strconv.ParseInt(string(sum), 10, 64)
	switch {
	case !ok:
		s.failed = errCopyFormat
	case err != nil:
		s.failed = errNoDigest
	default:
		s.print = s.print.Row(uint64(d))
		s.out = append(s.out, rest...)
	}
	return n
}

func (s *exportSplitter) nextBinary(buf []byte) int {
	if !s.begun {
		if len(buf) < len(copyHeader) {
			return 0
		}
		if string(buf[:len(copyHeader)]) != copyHeader {
			s.failed = errCopyFormat
			return 0
		}
		s.begun = true
		s.out = append(s.out, copyHeader...)
		return len(copyHeader)
	}
	if len(buf) < 2 {
		return 0
	}
	fields := int(int16(binary.BigEndian.Uint16(buf)))
	if fields == -1 {
		s.ended = true
		s.out = append(s.out, copyTrailer...)
		return 2
	}
	extra := 0
	if s.there {
		extra = 1
	}
	if s.ended || fields != s.columns+extra {
		s.failed = fmt.Errorf("%w: a row of %d fields", errCopyFormat, fields)
		return 0
	}
	n := s.cut(buf, fields)
	if n > 0 {
		s.row(buf[:n])
	}
	return n
}

// cut finds the fields of a row, and returns its length, 0 where it is not whole.
func (s *exportSplitter) cut(buf []byte, fields int) int {
	at := 2
	s.fields = s.fields[:0]
	for range fields {
		if len(buf) < at+4 {
			return 0
		}
		length := int(int32(binary.BigEndian.Uint32(buf[at:])))
		at += 4
		if length < 0 {
			s.fields = append(s.fields, nil)
			continue
		}
		if len(buf) < at+length {
			return 0
		}
		s.fields = append(s.fields, buf[at:at+length:at+length])
		at += length
	}
	return at
}

// row digests a row whose fields were found, and keeps it.
func (s *exportSplitter) row(row []byte) {
	fields := s.fields
	var theirs, ours uint64
	if s.there {
		if len(fields[0]) != 8 {
			s.failed = errNoDigest
			return
		}
		theirs, fields, row = binary.BigEndian.Uint64(fields[0]), fields[1:], row[2+4+8:]
		s.out = binary.BigEndian.AppendUint16(s.out, uint16(s.columns))
	}
	if s.hash != nil {
		if ours, s.failed = s.hash.of(fields); s.failed != nil {
			return
		}
	}
	switch {
	case !s.there:
		theirs = ours
	case s.hash != nil && ours != theirs:
		s.differ++
	}
	s.print = s.print.Row(theirs)
	s.out = append(s.out, row...)
}
