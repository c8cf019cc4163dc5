package postgres

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
)

// recordDigests names the way in which recordSQL makes digests; give it another name with every change.
const recordDigests = "chained hashes, XML as it is read"

// element is one thing that goes into a digest: an expression, and the type it is compared as, as it travels.
type element struct {
	expr, typ string
	// filled: it is never NULL on this side, so nothing has to stand in for NULL. The digest is the same with and without. No column that is cast is:
	// the number in a jsonb null is NULL.
	filled bool
	// finite: it is a numeric of so many digits, which holds no infinity. The digest is the same with and without.
	finite bool
}

// or is the expression with a stand-in for NULL.
func (e element) or(null string) string {
	if e.filled {
		return "(" + e.expr + ")"
	}
	return "coalesce(" + e.expr + ", " + null + ")"
}

// Stand-ins for NULL where it has to have a hash. A value that happened to be one of these would pass for NULL.
const (
	nullInt8     = 5871781006564002453
	nullInteger  = "5871781006564002453"
	nullNumeric  = "-5871781006564002453.7046029254386353131"
	nullWord     = "NULL 51c8a7c25a2d0f15"
	nullText     = "'" + nullWord + "'"
	nullDocument = `"` + nullWord + `"`
	nullJSON     = "'" + nullDocument + "'::jsonb"
)

// chained is how many columns one chain of hashes takes: each is a level of nesting for the server's parser, which has a limit.
const chained = 24

// recordSQL is 64 bits of the elements, computed with Postgres's own hashes. Integers, numerics and text go into a chain, in which each is hashed
// under the hash of the one before; the chain begins with the hash of a record of all others. That costs no more than a record of everything,
// and leaves room to mend what those hashes do not tell apart:
//
//   - bigint folds its halves onto each other (-1 is 4294967295, 1 is 2^32): the upper half is hashed too.
//   - numeric leaves out the sign, and NaN and the infinities are one: they change what the digits are hashed under.
//   - arrays leave out bounds and dimensions: these are hashed too.
//   - containers of numeric and bigint have their elements' faults: their text is hashed instead, without trailing zeros.
func (l *Layout) recordSQL(elements []element, seed uint64) string {
	var rest []string
	var links []func(under string) string
	for n, e := range elements {
		switch {
		case integer(e.typ):
			links = append(links, func(under string) string { return integerLink(e, under) })
		case e.typ == numericType:
			links = append(links, func(under string) string { return numericLink(e, under, n) })
		case e.typ == textType:
			links = append(links, func(under string) string { return textLink(e, under) })
		case e.typ == jsonbType:
			rest = append(rest, e.or(nullJSON)) // NULL and [[]] are one
		default:
			oid := l.named(e.typ)
			switch leaf := l.leaf(oid); {
			case leaf == int8Type, leaf == numericType:
				links = append(links, func(under string) string {
					return textLink(element{expr: trimmed(e.expr, leaf), filled: e.filled}, under)
				})
				continue
			case l.types[oid].elem != 0:
				links = append(links, func(under string) string { return shapeLink(e.expr, under) })
			}
			rest = append(rest, e.expr)
		}
	}
	whole := mark(seed, "start")
	if len(rest) > 0 {
		whole = "pg_catalog.hash_record_extended(ROW(" + strings.Join(rest, ", ") + "), " + whole + ")"
	}
	var chains []string
	for group := range slices.Chunk(links, chained) {
		for _, link := range group {
			whole = link(whole)
		}
		chains = append(chains, finished(whole))
		whole = mark(seed, chainName(len(chains)))
	}
	switch len(chains) {
	case 0:
		return finished(whole)
	case 1:
		return chains[0]
	default:
		return finished(strings.Join(chains, " # "))
	}
}

func chainName(n int) string { return "chain " + strconv.Itoa(n) }

// finishing is what is hashed last.
const finishing = 1597463007

// finished is the last step. A record's hash is a sum over its columns: without a step that is none, two rows that swap a value would have the same
// sum of digests as before.
func finished(hash string) string {
	return "pg_catalog.hashint8extended(" + strconv.Itoa(finishing) + ", " + hash + ")"
}

// mark is a constant that is made of what it is for.
func mark(seed uint64, purpose string) string {
	return strconv.FormatUint(markOf(seed, purpose), 10) + "::int8"
}

func markOf(seed uint64, purpose string) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%x %s", seed, purpose)
	return h.Sum64()>>1 | 1
}

func integerLink(e element, under string) string {
	v := element{expr: "(" + e.expr + ")::int8", filled: e.filled}.or(nullInteger)
	return "pg_catalog.hashint8extended(" + v + ", pg_catalog.hashint8extended(" + v + " >> 32, " + under + "))"
}

func textLink(e element, under string) string {
	return "pg_catalog.hashtextextended(" + e.or(nullText) + " COLLATE \"C\", " + under + ")"
}

// numericLink hashes the digits under what the sign says; scale() is NULL for what has no digits. The marks are those of one column: the hash of 0
// is next to the one it is hashed under, and of what has no digits it is that itself, which is what tells NaN.
func numericLink(e element, under string, column int) string {
	is := func(what string) string { return mark(uint64(column), what) }
	sign := "WHEN " + e.expr + " < 0::numeric THEN " + is("negative") + " ELSE " + is("positive") + " END"
	if e.finite {
		sign = "CASE " + sign
	} else {
		sign = "CASE WHEN pg_catalog.scale(" + e.expr + ") IS NULL THEN CASE (" + e.expr + ")::text WHEN 'Infinity' THEN " + is("infinity") + " WHEN '-Infinity' THEN " + is("-infinity") +
			" ELSE " + is("positive") + " END " + sign
	}
	return "pg_catalog.hash_numeric_extended(" + e.or(nullNumeric) + ", (" + under + ") # " + sign + ")"
}

// shapeLink hashes how many elements an array has, or, where it has other dimensions than a plain list, which.
func shapeLink(expr, under string) string {
	return "pg_catalog.hashint8extended(coalesce(CASE WHEN pg_catalog.array_ndims(" + expr + ") > 1 OR pg_catalog.array_lower(" + expr +
		", 1) <> 1 THEN pg_catalog.hashtextextended(pg_catalog.array_dims(" + expr + "), 1) ELSE pg_catalog.cardinality(" + expr + ") END, " + nullInteger + "), " + under + ")"
}

// trimmed is the text of a container of numbers of this type: numerics that differ only in their scale have one.
func trimmed(expr, leaf string) string {
	txt := "(" + expr + ")::text"
	if leaf != numericType {
		return txt
	}
	return "pg_catalog.regexp_replace(pg_catalog.regexp_replace(" + txt + ", " + Literal(`(\.[0-9]*[1-9])0+(?![0-9])`) + ", " + Literal(`\1`) + ", 'g'), " + Literal(`\.0+(?![0-9])`) + ", '', 'g')"
}

// leaf is the type of the values in an array, range or multirange, through any nesting of these and of domains, in the form that travels; "" for
// what is none of these.
func (l *Layout) leaf(oid uint32) string {
	info := l.types[oid]
	inner := info.elem
	if info.kind == 'r' || info.kind == 'm' {
		inner = info.subtype
	}
	if inner == 0 {
		return ""
	}
	inner, info = l.base(inner)
	if deeper := l.leaf(inner); deeper != "" {
		return deeper
	}
	return info.String()
}
