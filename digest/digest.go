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
	"strings"
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

// Column is a field of a row from a value in Postgres's text form and its type as a schema names it ("pg_catalog.numeric"): values that are equal by type
// become the same text, so 1.0 and 1.00 do, and -0 and 0. It knows numbers, texts, booleans, uuid, bytea, dates and times as Postgres writes them; it does not
// know what Postgres makes of bpchar, inet, json and arrays of numbers, nor does it hold where a policy compares by bytes: there leave the column out.
func Column(typ, text string) Field {
	f := Field{Tag: typ[strings.LastIndexByte(typ, '.')+1:], Text: text}
	switch f.Tag {
	case "int2", "int4", "int8":
		f.Tag = "int" // integers are equal at any width
	case "bool":
		f.Text = map[string]string{"t": "true", "f": "false"}[text[:min(1, len(text))]]
	case "numeric":
		if strings.Contains(text, ".") {
			f.Text = strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
		}
	case "float4", "float8":
		if text == "-0" {
			f.Text = "0"
		}
	}
	return f
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
