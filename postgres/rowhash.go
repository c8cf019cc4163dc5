package postgres

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/trickle-verify/trickle/message/tricklepb"
)

// rowHash computes the record digest of rows in COPY's binary format, as the server would: see recordSQL, which it follows step by step.
type rowHash struct {
	rest  []columnHash // into the hash of a record
	links []columnHash // into the chain
	start uint64       // of the record
	marks []uint64     // of the chains behind the first
	json  jsonHash
	word  []byte
}

// columnHash hashes one column, a field of a row.
type columnHash struct {
	field              int
	kind               hashKind
	positive, negative uint64 // marks of a numeric's sign
	infinite           [2]uint64
}

// hashKind is how a value is hashed.
type hashKind int

const (
	hashInteger hashKind = iota
	hashNumeric
	hashText
	hashJSON
	hashPlainBytes
	hashPlainWord
	hashPlainInt8
	hashBool
	hashFloat
)

// plainKinds are the types that go into the hash of a record as they are. Others are left to the server.
func plainKinds(typ string) (hashKind, bool) {
	switch typ {
	case "pg_catalog.bytea", "pg_catalog.uuid":
		return hashPlainBytes, true
	case "pg_catalog.date", "pg_catalog.oid":
		return hashPlainWord, true
	case "pg_catalog.timestamp", "pg_catalog.timestamptz", "pg_catalog.time":
		return hashPlainInt8, true
	case "pg_catalog.bool":
		return hashBool, true
	case "pg_catalog.float4", "pg_catalog.float8":
		return hashFloat, true
	case jsonbType:
		return hashJSON, true
	default:
		return 0, false
	}
}

// rowHash returns what digests rows of these columns, by the source's names; nil where only the server can: a column is of another type than the usual, is
// compared as something else than it is, or is not among them, or text comes in another encoding than it is kept in.
func (l *Layout) rowHash(columns []string) *rowHash {
	if l.rules.Exact != ByType || l.encoding != "UTF8" {
		return nil
	}
	seed := l.seed()
	h := &rowHash{start: markOf(seed, "start")}
	for n, i := range l.compared {
		wire := l.Schema.GetColumns()[n]
		c := columnHash{field: slices.Index(columns, wire.GetName())}
		_, own := l.base(l.Columns[i].oid)
		if c.field < 0 || l.loose(i) || l.spellsOut(wire) {
			return nil
		}
		link, ok := c.as(n, own.String(), wire)
		switch {
		case !ok:
			return nil
		case link:
			h.links = append(h.links, c)
		default:
			h.rest = append(h.rest, c)
		}
	}
	for n := 1; n*chained < len(h.links); n++ {
		h.marks = append(h.marks, markOf(seed, chainName(n)))
	}
	return h
}

// as decides how a column of a type is hashed, and whether in the chain.
func (c *columnHash) as(n int, own string, wire *tricklepb.Column) (link, ok bool) {
	switch typ := wire.GetType(); {
	case integer(typ) && integer(own):
		c.kind = hashInteger
		return true, true
	case typ == textType && (own == textType || own == "pg_catalog.varchar"):
		c.kind = hashText
		return true, true
	case typ != own:
		return false, false
	case typ == numericType:
		c.kind = hashNumeric
		column := uint64(n)
		c.positive, c.negative = markOf(column, "positive"), markOf(column, "negative")
		c.infinite = [2]uint64{markOf(column, "infinity"), markOf(column, "-infinity")}
		return true, true
	default:
		c.kind, ok = plainKinds(typ)
		return false, ok
	}
}

// of is the digest of a row; of a field that is NULL there is nil.
func (h *rowHash) of(fields [][]byte) (uint64, error) {
	whole := h.start
	if len(h.rest) > 0 {
		whole = 0
		for i := range h.rest {
			hash, err := h.element(&h.rest[i], fields[h.rest[i].field])
			if err != nil {
				return 0, err
			}
			whole = whole*31 + hash
		}
	}
	if len(h.links) == 0 {
		return hashInt8(finishing, whole), nil
	}
	var out uint64
	for i := range h.links {
		if i > 0 && i%chained == 0 {
			out ^= hashInt8(finishing, whole)
			whole = h.marks[i/chained-1]
		}
		var err error
		if whole, err = h.link(&h.links[i], fields[h.links[i].field], whole); err != nil {
			return 0, err
		}
	}
	whole = hashInt8(finishing, whole)
	if len(h.marks) == 0 {
		return whole, nil
	}
	return hashInt8(finishing, out^whole), nil
}

// element is one column's part in the hash of a record; of NULL it is 0, but for jsonb, where something stands in for it.
func (h *rowHash) element(c *columnHash, v []byte) (uint64, error) {
	if v == nil {
		if c.kind == hashJSON {
			return h.json.of([]byte(nullDocument), h.start)
		}
		return 0, nil
	}
	switch {
	case c.kind == hashJSON && len(v) > 0 && v[0] == 1: // the version of its binary form
		return h.json.of(v[1:], h.start)
	case c.kind == hashPlainBytes:
		return hashBytes(v, h.start), nil
	case c.kind == hashPlainWord && len(v) == 4:
		return hashWord(binary.BigEndian.Uint32(v), h.start), nil
	case c.kind == hashPlainInt8 && len(v) == 8:
		return hashInt8(int64(binary.BigEndian.Uint64(v)), h.start), nil
	case c.kind == hashBool && len(v) == 1:
		return hashWord(uint32(v[0]), h.start), nil
	case c.kind == hashFloat && len(v) == 4:
		return hashFloat8(float64(math.Float32frombits(binary.BigEndian.Uint32(v))), h.start), nil
	case c.kind == hashFloat && len(v) == 8:
		return hashFloat8(math.Float64frombits(binary.BigEndian.Uint64(v)), h.start), nil
	default:
		return 0, errBinaryForm
	}
}

// link hashes a column under the hash of the one before.
func (h *rowHash) link(c *columnHash, v []byte, under uint64) (uint64, error) {
	switch c.kind {
	case hashInteger:
		n, err := integerOf(v)
		return hashInt8(n, hashInt8(n>>32, under)), err
	case hashText:
		if v == nil {
			v = []byte(nullWord)
		}
		return hashBytes(v, under), nil
	default:
		return h.numeric(c, v, under)
	}
}

// integerOf reads an integer of any width; for NULL there is what stands in for it.
func integerOf(v []byte) (int64, error) {
	switch {
	case v == nil:
		return nullInt8, nil
	case len(v) == 2:
		return int64(int16(binary.BigEndian.Uint16(v))), nil
	case len(v) == 4:
		return int64(int32(binary.BigEndian.Uint32(v))), nil
	case len(v) == 8:
		return int64(binary.BigEndian.Uint64(v)), nil
	default:
		return 0, errBinaryForm
	}
}

// numeric is numericLink.
func (h *rowHash) numeric(c *columnHash, v []byte, under uint64) (uint64, error) {
	if v == nil {
		d, err := parseDecimal([]byte(nullNumeric[1:]), h.word)
		return d.hash(under ^ c.positive), err
	}
	d, sign, err := parseNumeric(v, h.word)
	if err != nil {
		return 0, err
	}
	h.word = d.groups
	switch sign {
	case numericNaN:
		return under ^ c.positive, nil
	case numericInfinity:
		return under ^ c.infinite[0], nil
	case numericNegInfinity:
		return under ^ c.infinite[1], nil
	case numericNegative:
		return d.hash(under ^ c.negative), nil
	default:
		return d.hash(under ^ c.positive), nil
	}
}
