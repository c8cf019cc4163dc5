package debezium

import (
	"bytes"
	"crypto/md5" //nolint:gosec // it is how Java makes a UUID of a name
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
)

// unavailable tells a large value that an update left alone: the placeholder, in the form that the column's type gives it. A value that happens to be the placeholder is
// taken for one. Where a type has no form for it, such as numeric without decimal.handling.mode=string, Debezium writes NULL, and nothing tells it from one.
func (d *Decoder) unavailable(raw json.RawMessage, t Type) bool {
	p := d.options.Placeholder
	switch raw[0] {
	case '"':
		// Most values are longer or shorter than it is in any form.
		if n := len(raw) - 2; n < len(p) || n > 6*len(p)+40 {
			return false
		}
		var v string
		return json.Unmarshal(raw, &v) == nil && d.stands(v, t)
	case '{':
		if t.plain() != "hstore" {
			return false
		}
		var m map[string]*string
		if json.Unmarshal(raw, &m) != nil || len(m) != 1 {
			return false
		}
		v, ok := m[p]
		return ok && v != nil && *v == p
	case '[':
		return d.listStands(raw)
	default:
		return false
	}
}

// Marked tells types for which Debezium has a form of the placeholder, by its defaults. Of any other an update brings NULL for a large value that it left alone.
func (t Type) Marked() bool {
	if t.Elem != nil {
		return !t.Domain && !t.Elem.Domain && t.Elem.is("text", "varchar", "bpchar", "int2", "int4", "int8", "uuid", "json", "jsonb", "date", "bytea")
	}
	return t.is("text", "varchar", "bpchar", "json", "jsonb", "xml", "bytea") || t.plain() == "hstore" || t.plain() == "citext"
}

func (d *Decoder) stands(v string, t Type) bool {
	p := d.options.Placeholder
	switch {
	case v == p:
		return true
	case t.is("bytea"):
		return v == base64.StdEncoding.EncodeToString([]byte(p)) || v == base64.URLEncoding.EncodeToString([]byte(p)) || v == hex.EncodeToString([]byte(p))
	case t.plain() == "hstore":
		text, err := json.Marshal(map[string]string{p: p})
		return err == nil && v == string(text)
	default:
		return false
	}
}

// listStands knows the placeholder in an array: as its only element, or byte by byte where elements are numbers.
func (d *Decoder) listStands(raw json.RawMessage) bool {
	p := d.options.Placeholder
	if len(raw) > 6*len(p)+100 {
		return false
	}
	var elems []json.RawMessage
	if json.Unmarshal(raw, &elems) != nil {
		return false
	}
	if len(elems) == 1 && elems[0][0] == '"' {
		var v string
		if json.Unmarshal(elems[0], &v) != nil {
			return false
		}
		return v == p || v == base64.StdEncoding.EncodeToString([]byte(p)) || v == named(p)
	}
	var numbers []byte
	for _, e := range elems {
		var n uint8
		if json.Unmarshal(e, &n) != nil || null(e) {
			return false
		}
		numbers = append(numbers, n)
	}
	return len(p) > 0 && bytes.Equal(numbers, []byte(p))
}

// named is the UUID that Java makes of a name.
func named(name string) string {
	sum := md5.Sum([]byte(name)) //nolint:gosec // see above
	sum[6] = sum[6]&0x0f | 0x30
	sum[8] = sum[8]&0x3f | 0x80
	h := hex.EncodeToString(sum[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
