package debezium

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Type is a column's type in Postgres, without domains.
type Type struct {
	Name      string // as it travels: pg_catalog.numeric
	Modifier  int    // atttypmod; -1: none
	Elem      *Type  // of an array
	Delimiter byte   // between the elements of an array of it; 0: a comma
	Enum      bool
	Domain    bool // a domain was taken off
}

// is tells whether it is one of Postgres's own.
func (t Type) is(names ...string) bool {
	for _, n := range names {
		if t.Name == "pg_catalog."+n {
			return true
		}
	}
	return false
}

// plain is the name without its schema, since an extension may be installed in any.
func (t Type) plain() string {
	return strings.Trim(t.Name[strings.LastIndexByte(t.Name, '.')+1:], `"`)
}

// Value is a column of an event, in the form in which Postgres writes and reads it.
type Value struct {
	Text        []byte // nil is NULL
	Unavailable bool   // a large value that the update left alone, which the event does not hold
}

// errUnfit is about a value that can't be of the column's type.
var errUnfit = errors.New("does not fit the column's type")

// Value reads a column as of a type, which is that of the column that it goes to; where the event has no schema it decides what a value means. ok is false
// for a column that the row does not have.
func (r Row) Value(column string, t Type) (v Value, ok bool, err error) {
	raw, ok := r.fields[column]
	if !ok {
		return Value{}, false, nil
	}
	if null(raw) {
		return Value{}, true, nil
	}
	if r.decoder.unavailable(raw, t) {
		return Value{Unavailable: true}, true, nil
	}
	shape := r.shape.field(column)
	if r.converted && raw[0] != '"' && shape != nil && (shape.Name == decimalName || shape.Name == variableName) {
		shape = nil // a decimal, written out
	}
	text, err := r.decoder.text(raw, shape, t)
	if err != nil {
		return Value{}, true, fmt.Errorf("column %q (%s): %w", column, t.Name, err)
	}
	return Value{Text: []byte(text)}, true, nil
}

// text writes one value, which is not null.
func (d *Decoder) text(raw json.RawMessage, s *schema, t Type) (string, error) {
	if t.Elem != nil && raw[0] == '[' {
		return d.list(raw, s, *t.Elem)
	}
	switch raw[0] {
	case '"':
		var v string
		if err := json.Unmarshal(raw, &v); err != nil {
			return "", err
		}
		return d.word(v, s, t)
	case '{':
		return object(raw, t)
	case '[':
		return vector(raw, t)
	case 't', 'f':
		return truth(raw[0] == 't', t), nil
	default:
		return d.number(string(raw), s, t)
	}
}

// truth writes a boolean, which is also how Debezium writes bit(1).
func truth(v bool, t Type) string {
	switch bit := t.is("bit", "varbit"); {
	case bit && v:
		return "1"
	case bit:
		return "0"
	case v:
		return "true"
	default:
		return "false"
	}
}

// word writes what came as a string.
func (d *Decoder) word(v string, s *schema, t Type) (string, error) {
	if s != nil {
		switch s.Name {
		case decimalName:
			return decimal(v, s.parameter("scale", 0))
		case "io.debezium.data.Bits":
			return bits(v, s.parameter("length", 0), t)
		case "io.debezium.time.Interval":
			return v, nil
		}
		if s.Type == "bytes" {
			return d.binary(v, t, "bytes")
		}
	}
	switch {
	case t.is("bytea"):
		return d.bytea(v, s, t)
	case t.is("bit", "varbit"):
		return d.bit(v, s, t)
	case t.is("numeric", "money"):
		return d.figure(v, s, t)
	case t.is("float4", "float8"):
		return v, nil
	case t.is("date", "timestamp", "timestamptz", "time", "timetz"):
		return isoMoment(v, t)
	case t.plain() == "hstore" && strings.HasPrefix(strings.TrimSpace(v), "{"):
		return object([]byte(v), t)
	case s == nil && worded(t):
		return v, nil
	case s == nil:
		return opaque(v), nil
	default:
		return v, nil
	}
}

// worded tells types whose values Debezium writes as Postgres does, so that without a schema nothing is to be guessed.
func worded(t Type) bool {
	return t.is("text", "varchar", "bpchar", "char", "name", "json", "jsonb", "xml", "uuid", "inet", "cidr", "macaddr", "macaddr8", "interval", "int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange", "tsvector",
		"bool", "int2", "int4", "int8", "oid") || t.Enum || t.plain() == "citext" || t.plain() == "ltree" || t.plain() == "hstore"
}

// opaque is a value of a type that Debezium does not know, whose text it hands over as bytes (include.unknown.datatypes).
func opaque(v string) string {
	if raw, err := base64.StdEncoding.DecodeString(v); err == nil && utf8.Valid(raw) {
		return string(raw)
	}
	return v
}

// binary reads bytes: those of a bytea, or of the text of a type that Debezium does not know.
func (d *Decoder) binary(v string, t Type, mode string) (string, error) {
	var raw []byte
	var err error
	switch mode {
	case "hex":
		raw, err = hex.DecodeString(v)
	case "base64-url-safe":
		raw, err = base64.URLEncoding.DecodeString(v)
	default:
		raw, err = base64.StdEncoding.DecodeString(v)
	}
	if err != nil {
		return "", fmt.Errorf("%w: no bytes in %s", errUnfit, mode)
	}
	if t.is("bytea") {
		return `\x` + hex.EncodeToString(raw), nil
	}
	return string(raw), nil
}

// bytea reads a bytea that came as a string, which says by nothing in which of three ways it was written.
func (d *Decoder) bytea(v string, s *schema, t Type) (string, error) {
	mode := d.options.Binary
	if mode == "" && s != nil {
		return "", errors.New("the connector writes bytea as strings and does not say how: give trickle its settings (--connector FILE), of which binary.handling.mode tells")
	}
	return d.binary(v, t, mode)
}

// object writes what came as an object.
func object(raw json.RawMessage, t Type) (string, error) {
	if t.is("json", "jsonb") {
		return string(raw), nil
	}
	if t.plain() == "hstore" {
		return hstore(raw)
	}
	var v struct {
		X, Y   json.RawMessage
		WKB    *[]byte `json:"wkb"`
		SRID   *int    `json:"srid"`
		Scale  *int    `json:"scale"`
		Value  *string `json:"value"`
		Dims   *int    `json:"dimensions"`
		Vector map[string]json.RawMessage
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return "", fmt.Errorf("%w: %w", errUnfit, err)
	}
	switch {
	case t.is("point") && v.X != nil && v.Y != nil:
		return "(" + bare(v.X) + "," + bare(v.Y) + ")", nil
	case v.WKB != nil:
		text := hex.EncodeToString(*v.WKB)
		if v.SRID != nil && *v.SRID != 0 {
			text = fmt.Sprintf("SRID=%d;%s", *v.SRID, text)
		}
		return text, nil
	case v.Scale != nil && v.Value != nil:
		return decimal(*v.Value, *v.Scale)
	}
	return "", fmt.Errorf("%w: an object", errUnfit)
}

// bare is a number, or the string that stands for one that JSON lacks.
func bare(raw json.RawMessage) string { return string(bytes.Trim(raw, `"`)) }

// hstore writes a map of strings.
func hstore(raw json.RawMessage) (string, error) {
	var m map[string]*string
	if err := json.Unmarshal(raw, &m); err != nil {
		return "", fmt.Errorf("%w: no map of strings", errUnfit)
	}
	parts := make([]string, 0, len(m))
	for k, v := range m {
		to := "NULL"
		if v != nil {
			to = quoted(*v)
		}
		parts = append(parts, quoted(k)+"=>"+to)
	}
	return strings.Join(parts, ","), nil
}

// quoted is a string as it stands in an array or an hstore.
func quoted(v string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v) + `"`
}

// list writes an array. Debezium knows arrays of one dimension only.
func (d *Decoder) list(raw json.RawMessage, s *schema, elem Type) (string, error) {
	var elems []json.RawMessage
	if err := json.Unmarshal(raw, &elems); err != nil {
		return "", err
	}
	var items *schema
	if s != nil {
		items = s.Items
	}
	parts := make([]string, len(elems))
	for i, e := range elems {
		if null(e) {
			parts[i] = "NULL"
			continue
		}
		var v string
		var err error
		if items == nil && elem.Domain && e[0] == '"' {
			err = json.Unmarshal(e, &v) // which Debezium does not look into
			v = opaque(v)
		} else {
			v, err = d.text(e, items, elem)
		}
		if err != nil {
			return "", err
		}
		parts[i] = quoted(v)
	}
	delimiter := ","
	if elem.Delimiter != 0 {
		delimiter = string(elem.Delimiter)
	}
	return "{" + strings.Join(parts, delimiter) + "}", nil
}

// vector writes a list that is no array at the replica: a vector of pgvector's, or JSON.
func vector(raw json.RawMessage, t Type) (string, error) {
	switch t.plain() {
	case "json", "jsonb", "vector", "halfvec":
		return string(raw), nil
	}
	return "", fmt.Errorf("%w: a list", errUnfit)
}
