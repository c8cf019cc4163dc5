// Package digest is the arithmetic of thumbprints: what a set of rows is reduced to, and how such sums add up.
//
// It decides what "the same rows" means once each row is a 64-bit number. What always holds: a thumbprint is (count, sum of
// row digests modulo 2^64), so thumbprints of disjoint sets add up to that of their union in any order, equal changes to two
// rows do not cancel out as they would under xor, and a row counted twice shows in both numbers. Nothing here can fail.
package digest

import (
	"crypto/md5" //nolint:gosec // not for secrecy: the one hash that every Postgres computes by itself
	"encoding/binary"
	"strconv"
)

// Kind tells how rows become numbers.
type Kind int

const (
	// Record is made of the hashes that Postgres has for its types, inside it: the cheapest, only where both sides compute the same probe.
	Record Kind = 1
	// Portable is a hash of canonical text: the same on any engine, and in Row below.
	Portable Kind = 2
)

func (k Kind) String() string {
	switch k {
	case Record:
		return "record"
	case Portable:
		return "portable"
	default:
		return "unknown"
	}
}

// Thumbprint is a set of rows as its size and the sum of its row digests modulo 2^64. The zero value is the empty set's.
type Thumbprint struct {
	Rows uint64
	Sum  uint64
}

// Add returns the thumbprint of the union of two disjoint sets.
func (t Thumbprint) Add(o Thumbprint) Thumbprint {
	return Thumbprint{Rows: t.Rows + o.Rows, Sum: t.Sum + o.Sum}
}

// Row returns t with one more row in it.
func (t Thumbprint) Row(rowDigest uint64) Thumbprint {
	return Thumbprint{Rows: t.Rows + 1, Sum: t.Sum + rowDigest}
}

// Field is one column of a row in canonical text; Null leaves Text out.
type Field struct {
	Tag  string // the type's name, so that 1 as text and 1 as integer differ
	Text string
	Null bool
}

// Row is the portable digest of one row: the first 8 bytes, big-endian, of the MD5 of every field framed as
// "<tag>:<length in bytes>:<text>;" or "<tag>:-;" for NULL. The SQL in package postgres computes the same.
func Row(fields []Field) uint64 {
	var b []byte
	for _, f := range fields {
		b = append(b, f.Tag...)
		b = append(b, ':')
		if f.Null {
			b = append(b, '-', ';')
			continue
		}
		b = strconv.AppendInt(b, int64(len(f.Text)), 10)
		b = append(b, ':')
		b = append(b, f.Text...)
		b = append(b, ';')
	}
	sum := md5.Sum(b) //nolint:gosec // see the import
	return binary.BigEndian.Uint64(sum[:8])
}
