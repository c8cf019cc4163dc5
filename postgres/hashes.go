package postgres

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
)

// These are the hashes of Postgres's types as its functions named …_extended compute them on a little-endian machine, over values in their binary form. A value
// that is not in that form hashes to something all the same: whoever calls checks its length first.

// hashState is what a hash begins with: three words, stirred by a seed that is not 0.
func hashState(length uint32, seed uint64) (a, b, c uint32) {
	a = 0x9e3779b9 + length + 3923095
	b, c = a, a
	if seed != 0 {
		return stir(a+uint32(seed>>32), b+uint32(seed), c)
	}
	return a, b, c
}

func stir(a, b, c uint32) (uint32, uint32, uint32) {
	a -= c
	a ^= bits.RotateLeft32(c, 4)
	c += b
	b -= a
	b ^= bits.RotateLeft32(a, 6)
	a += c
	c -= b
	c ^= bits.RotateLeft32(b, 8)
	b += a
	a -= c
	a ^= bits.RotateLeft32(c, 16)
	c += b
	b -= a
	b ^= bits.RotateLeft32(a, 19)
	a += c
	c -= b
	c ^= bits.RotateLeft32(b, 4)
	b += a
	return a, b, c
}

func settle(a, b, c uint32) uint64 {
	c ^= b
	c -= bits.RotateLeft32(b, 14)
	a ^= c
	a -= bits.RotateLeft32(c, 11)
	b ^= a
	b -= bits.RotateLeft32(a, 25)
	c ^= b
	c -= bits.RotateLeft32(b, 16)
	a ^= c
	a -= bits.RotateLeft32(c, 4)
	b ^= a
	b -= bits.RotateLeft32(a, 14)
	c ^= b
	c -= bits.RotateLeft32(b, 24)
	return uint64(b)<<32 | uint64(c)
}

// hashBytes is that of text, bytea and uuid.
func hashBytes(k []byte, seed uint64) uint64 {
	a, b, c := hashState(uint32(len(k)), seed)
	for len(k) >= 12 {
		a, b, c = stir(a+binary.LittleEndian.Uint32(k), b+binary.LittleEndian.Uint32(k[4:]), c+binary.LittleEndian.Uint32(k[8:]))
		k = k[12:]
	}
	// What is left goes into the words from below, but for the lowest byte of the last, which stands for the length.
	var tail [12]byte
	copy(tail[:], k)
	a += binary.LittleEndian.Uint32(tail[:])
	b += binary.LittleEndian.Uint32(tail[4:])
	c += binary.LittleEndian.Uint32(tail[8:]) << 8
	return settle(a, b, c)
}

// hashWord is that of date, oid and bool.
func hashWord(k uint32, seed uint64) uint64 {
	a, b, c := hashState(4, seed)
	return settle(a+k, b, c)
}

// hashInt8 is that of bigint, timestamp and time.
func hashInt8(v int64, seed uint64) uint64 {
	high := uint32(uint64(v) >> 32)
	if v < 0 {
		high = ^high
	}
	return hashWord(uint32(v)^high, seed)
}

// hashFloat8 is that of both floats.
func hashFloat8(v float64, seed uint64) uint64 {
	var k [8]byte
	switch {
	case v == 0:
		return seed
	case math.IsNaN(v):
		binary.LittleEndian.PutUint64(k[:], 0x7ff8000000000000)
	default:
		binary.LittleEndian.PutUint64(k[:], math.Float64bits(v))
	}
	return hashBytes(k[:], seed)
}

// decimal is a numeric in groups of four digits, as Postgres keeps it: two bytes each, the lower first. The first group stands for 10000^weight.
type decimal struct {
	groups []byte
	weight int
}

func (d decimal) hash(seed uint64) uint64 {
	g := d.groups
	for len(g) > 0 && g[0] == 0 && g[1] == 0 {
		g = g[2:]
		d.weight--
	}
	if len(g) == 0 {
		return seed - 1
	}
	for g[len(g)-2] == 0 && g[len(g)-1] == 0 {
		g = g[:len(g)-2]
	}
	return hashBytes(g, seed) ^ uint64(d.weight)
}

// What the sign of a numeric's binary form says.
const (
	numericNegative    = 0x4000
	numericNaN         = 0xc000
	numericInfinity    = 0xd000
	numericNegInfinity = 0xf000
)

var errBinaryForm = errors.New("a value is not in the binary form of its type")

// parseNumeric takes a numeric's binary form apart, into the scratch.
func parseNumeric(v, scratch []byte) (d decimal, sign uint16, err error) {
	if len(v) < 8 {
		return d, 0, errBinaryForm
	}
	d.weight, sign = int(int16(binary.BigEndian.Uint16(v[2:]))), binary.BigEndian.Uint16(v[4:])
	groups := v[8:]
	if len(groups) != 2*int(binary.BigEndian.Uint16(v)) {
		return d, 0, errBinaryForm
	}
	d.groups = scratch[:0]
	for i := 0; i < len(groups); i += 2 {
		d.groups = append(d.groups, groups[i+1], groups[i])
	}
	return d, sign, nil
}

// parseDecimal takes the digits of a number in JSON apart, whatever its sign, into the scratch.
func parseDecimal(v, scratch []byte) (decimal, error) {
	point := len(v)
	for i, c := range v {
		if c == '.' {
			point = i
		} else if c < '0' || c > '9' {
			return decimal{}, errBinaryForm
		}
	}
	d := decimal{groups: scratch[:0], weight: (point+3)/4 - 1}
	for i := point - (point+3)/4*4; i < point; i += 4 {
		d.groups = appendGroup(d.groups, v, max(i, 0), i+4)
	}
	for i := point + 1; i < len(v); i += 4 {
		d.groups = appendGroup(d.groups, v, i, i+4)
	}
	return d, nil
}

// appendGroup appends the digits of [from, to), with zeros where the text has ended.
func appendGroup(groups, v []byte, from, to int) []byte {
	n := uint16(0)
	for i := from; i < to; i++ {
		n *= 10
		if i < len(v) {
			n += uint16(v[i] - '0')
		}
	}
	return append(groups, byte(n), byte(n>>8))
}
