package postgres

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/trickle-verify/trickle/digest"
)

// splitter takes rows as COPY writes them, however they are cut, and splits two columns off each: whether the row is settled, and its digest. It sums the
// digests, keeps the settled rows without these columns, up to its bounds, and drops what comes behind.
type splitter struct {
	binary              bool
	columns             int // behind the two
	mostRows, mostBytes int

	rest   []byte // of a row that has not come whole
	begun  bool   // binary: the header has come
	ended  bool   // binary: the trailer has come
	out    []byte
	bytes  int
	failed error

	settled, all digest.Thumbprint
	full         bool // there were more rows than the bounds allow
}

// The header and trailer of COPY's binary format: a signature, no flags, no extension; a count of fields that no row has.
const (
	copySignature = "PGCOPY\n\xff\r\n\x00"
	copyHeader    = copySignature + "\x00\x00\x00\x00\x00\x00\x00\x00"
	copyTrailer   = "\xff\xff"
)

var errCopyFormat = errors.New("what COPY wrote is not in the format that it was asked for")

// Write takes the next bytes. It never fails, so that the connection lives on; end tells what went wrong.
func (s *splitter) Write(p []byte) (int, error) {
	if s.failed == nil {
		s.take(p)
	}
	return len(p), nil
}

func (s *splitter) take(p []byte) {
	buf := p
	if len(s.rest) > 0 {
		s.rest = append(s.rest, p...)
		buf = s.rest
	}
	for s.failed == nil {
		n := s.next(buf)
		if n == 0 {
			break
		}
		buf = buf[n:]
	}
	s.rest = append(s.rest[:0], buf...)
}

// end returns the rows that were kept.
func (s *splitter) end() ([]byte, error) {
	if s.failed == nil && (len(s.rest) > 0 || s.binary && !s.ended) {
		s.failed = fmt.Errorf("%w: it ends in the middle", errCopyFormat)
	}
	if s.binary {
		if s.out == nil {
			s.out = []byte(copyHeader)
		}
		s.out = append(s.out, copyTrailer...)
	}
	return s.out, s.failed
}

// next takes one row off the buffer and returns its length, 0 where it is not whole.
func (s *splitter) next(buf []byte) int {
	if s.binary {
		return s.nextBinary(buf)
	}
	n := bytes.IndexByte(buf, '\n') + 1
	if n == 0 {
		return 0
	}
	settled, rest, ok := bytes.Cut(buf[:n], []byte{'\t'})
	sum, rest, ok2 := bytes.Cut(rest, []byte{'\t'})
	d, err := strconv.ParseInt(string(sum), 10, 64)
	switch {
	case !ok || !ok2 || len(settled) != 1:
		s.failed = errCopyFormat
	case err != nil:
		s.failed = errNoDigest
	default:
		s.add(splitRow{isTrue(settled), uint64(d), rest})
	}
	return n
}

var errNoDigest = errors.New("a row has no digest: a column or cast of it is NULL where it says that it can't be; compare it as text (columns.compare) or leave it out (columns.exclude)")

func (s *splitter) nextBinary(buf []byte) int {
	if !s.begun {
		if len(buf) < len(copyHeader) {
			return 0
		}
		if string(buf[:len(copySignature)]) != copySignature {
			s.failed = errCopyFormat
			return 0
		}
		s.begun = true
		return len(copyHeader)
	}
	if len(buf) < 2 {
		return 0
	}
	fields := int(int16(binary.BigEndian.Uint16(buf)))
	if fields == -1 {
		s.ended = true
		return 2
	}
	if fields != s.columns+2 {
		s.failed = fmt.Errorf("%w: a row of %d fields", errCopyFormat, fields)
		return 0
	}
	at, second := 2, 0
	for i := range fields {
		if len(buf) < at+4 {
			return 0
		}
		if length := int(int32(binary.BigEndian.Uint32(buf[at:]))); length > 0 {
			at += length
		}
		at += 4
		if len(buf) < at {
			return 0
		}
		if i == 1 {
			second = at
		}
	}
	// Two for the count, five for the boolean, twelve for the digest.
	if second != 2+5+12 {
		s.failed = errNoDigest
		return 0
	}
	if s.out == nil {
		s.out = append(s.out, copyHeader...)
	}
	s.add(splitRow{buf[6] == 1, binary.BigEndian.Uint64(buf[11:]), buf[second:at]})
	return at
}

// splitRow is a row whose first two columns were split off.
type splitRow struct {
	settled bool
	digest  uint64
	rest    []byte
}

// add counts a row and keeps what is left of it where it is settled.
func (s *splitter) add(r splitRow) {
	if s.full = s.full || s.all.Rows > 0 && (s.all.Rows >= uint64(s.mostRows) || s.bytes+len(r.rest) > s.mostBytes); s.full {
		return
	}
	s.all = s.all.Row(r.digest)
	s.bytes += len(r.rest)
	if !r.settled {
		return
	}
	s.settled = s.settled.Row(r.digest)
	if need := len(r.rest) + 2; cap(s.out)-len(s.out) < need {
		s.out = slices.Grow(s.out, max(need, len(s.out))) // append alone would grow it, and copy it, in many small steps
	}
	if s.binary {
		s.out = binary.BigEndian.AppendUint16(s.out, uint16(s.columns))
	}
	s.out = append(s.out, r.rest...)
}
