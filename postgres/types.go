package postgres

import (
	"regexp"
	"strings"
	"unicode"
)

// probes are the literals that the probe row holds, by type name, for the types whose category does not settle it. A type
// without a probe literal never goes into a record digest as it is: nobody could tell whether both sides hash it alike, or it has a bad hash
// (that of pg_lsn folds the halves onto each other, so that 0/1 is 1/0; that of timetz is that of NULL at midnight in UTC).
func probeByName(name string) string {
	switch name {
	case "uuid":
		return "00112233-4455-6677-8899-aabbccddeeff"
	case "bytea":
		return `\x00ff10`
	case "jsonb":
		return `{"a": [1, 2.50, null], "b": "ü"}`
	case "macaddr":
		return "08:00:2b:01:02:03"
	case "macaddr8":
		return "08:00:2b:01:02:03:04:05"
	default:
		return ""
	}
}

// probeText has what citext folds by the database's locale: letters of both cases, the i of Turkish, and those that are several in another case.
const probeText = "Probe Üü Iİıi ßẞ Σσς"

// spelling is a literal without the characters that the server's encoding may lack.
func (t *Table) spelling(lit string) string {
	if t.encoding == "UTF8" {
		return lit
	}
	return strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII {
			return -1
		}
		return r
	}, lit)
}

// utf8 is a text with the bytes that it has in UTF8, whatever the server's encoding: as text where they are these already. In SQL_ASCII nobody can
// tell what the bytes stand for.
func (t *Table) utf8(expr string) string {
	if t.encoding == "UTF8" || t.encoding == "SQL_ASCII" {
		return expr
	}
	return "pg_catalog.convert_to(" + expr + ", 'UTF8')"
}

func probeByCategory(category byte) string {
	switch category {
	case 'N':
		return "42"
	case 'S':
		return probeText
	case 'D':
		return "2001-02-03 04:05:06+00"
	case 'T':
		return "1 day 02:03:04"
	case 'B':
		return "true"
	case 'I':
		return "10.1.2.3"
	default:
		return ""
	}
}

// probe returns a literal of the type as an SQL expression, "" where there is none.
func (t *Table) probe(oid uint32) string {
	info := t.types[oid]
	lit := ""
	switch {
	case info.kind == 'd':
		return t.probe(info.base)
	case info.kind == 'b' && info.elem != 0:
		elem := t.probe(info.elem)
		if elem != "" && t.types[info.elem].kind == 'd' {
			return "ARRAY[" + elem + "]" // of its base type, which is hashed alike: the domain may not take the literal
		}
		if elem != "" {
			return "ARRAY[" + elem + "::" + t.types[info.elem].sql() + "]::" + info.sql()
		}
		return ""
	case info.kind == 'r':
		if sub := t.probe(info.subtype); sub != "" && t.types[info.subtype].kind != 'd' {
			return info.sql() + "(" + sub + ", " + sub + ", '[]')"
		}
		return ""
	case info.kind == 'm':
		return Literal("{}") + "::" + info.sql()
	case info.String() == "pg_catalog.timetz":
	case info.category == 'U':
		lit = probeByName(info.name)
	default:
		lit = probeByCategory(info.category)
	}
	if lit == "" {
		return ""
	}
	return Literal(t.spelling(lit)) + "::" + info.sql()
}

// stable reports whether a type's hash depends on nothing but the value, so that two databases of one major version agree on it. An
// enum hashes its OID, a composite may hold one, an alias type (regclass) the OID of what it names: none of these has a hash of its
// own type in the catalogue, which is what hashable asks.
func (t *Table) stable(oid uint32) bool {
	info := t.types[oid]
	switch {
	case info.kind == 'd':
		return t.stable(info.base)
	case info.kind == 'b' && info.elem != 0:
		return t.stable(info.elem)
	case info.kind == 'r', info.kind == 'm':
		return info.subtype != 0 && t.stable(info.subtype)
	case info.kind == 'b':
		return info.hashable && t.probe(oid) != ""
	default:
		return false
	}
}

// base resolves domains.
func (t *Table) base(oid uint32) (uint32, typeInfo) {
	info := t.types[oid]
	for info.kind == 'd' {
		oid = info.base
		info = t.types[oid]
	}
	return oid, info
}

const (
	textType    = "pg_catalog.text"
	jsonbType   = "pg_catalog.jsonb"
	xmlType     = "pg_catalog.xml"
	int8Type    = "pg_catalog.int8"
	numericType = "pg_catalog.numeric"
)

// comparedAs is the type a column is compared as, in the form that travels ("pg_catalog.numeric"): its own, without domain, where that is
// stable; jsonb for json; text for everything else.
func (t *Table) comparedAs(c Column) string {
	oid, info := t.base(c.oid)
	switch {
	case info.schema == "pg_catalog" && info.name == "json":
		return jsonbType
	case !c.deterministic, !t.stable(oid), info.name == "varchar" && info.schema == "pg_catalog":
		return textType
	default:
		return info.String()
	}
}

// named finds a type by the form that travels, 0 where there is none.
func (t *Table) named(typ string) uint32 {
	want := ParseName(typ)
	for oid, info := range t.types {
		if info.schema == want.Schema && info.name == want.Table {
			return oid
		}
	}
	return 0
}

// spelt finds the type that a policy names, "numeric(12,2)", without its modifiers; 0 where only the server can read it.
func (t *Table) spelt(name string) uint32 {
	name, array := strings.CutSuffix(strings.Join(strings.Fields(modifiers.ReplaceAllString(name, "")), " "), "[]")
	lower := strings.ToLower(name)
	if internal, ok := spellings()[lower]; ok {
		lower = internal
	}
	oid := t.named("pg_catalog." + lower)
	if oid == 0 {
		oid = t.named(name)
	}
	if !array || oid == 0 {
		return oid
	}
	for list, info := range t.types {
		if info.elem == oid {
			return list
		}
	}
	return 0
}

var modifiers = regexp.MustCompile(`\([^)]*\)`)

// spellings are SQL's names of types that the catalogue calls otherwise.
func spellings() map[string]string {
	return map[string]string{
		"bigint": "int8", "integer": "int4", "int": "int4", "smallint": "int2", "decimal": "numeric", "dec": "numeric", "real": "float4", "double precision": "float8", "float": "float8",
		"boolean": "bool", "character varying": "varchar", "character": "bpchar", "char": "bpchar", "bit varying": "varbit", "timestamp without time zone": "timestamp",
		"timestamp with time zone": "timestamptz", "time without time zone": "time", "time with time zone": "timetz",
	}
}

// integers are compared across widths: Postgres hashes equal integers of any width alike.
func integer(typ string) bool {
	return typ == "pg_catalog.int2" || typ == "pg_catalog.int4" || typ == "pg_catalog.int8"
}
