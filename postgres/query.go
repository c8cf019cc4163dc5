package postgres

import (
	"context"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/message"
)

// Arg is a query parameter in text form; nil is NULL. The server infers its type from the cast it stands under.
type Arg = []byte

// text makes an argument of a string.
func text(s string) Arg { return []byte(s) }

// number makes an argument of an integer.
func number(n int64) Arg { return strconv.AppendInt(nil, n, 10) }

// each runs a query and hands every row to fn, each column in text form, nil for NULL. The slices are valid only during the call.
func each(ctx context.Context, c *pgconn.PgConn, sql string, args []Arg, fn func(row [][]byte) error) error {
	r := c.ExecParams(ctx, sql, args, nil, nil, nil)
	var failed error
	for r.NextRow() {
		if failed == nil {
			failed = fn(r.Values())
		}
	}
	if _, err := r.Close(); err != nil {
		return err
	}
	return failed
}

// Array is a text[] literal; nil elements are NULL.
func Array(elems [][]byte) Arg {
	var b strings.Builder
	b.WriteByte('{')
	for i, e := range elems {
		if i > 0 {
			b.WriteByte(',')
		}
		if e == nil {
			b.WriteString("NULL")
			continue
		}
		b.WriteByte('"')
		for _, c := range e {
			if c == '"' || c == '\\' {
				b.WriteByte('\\')
			}
			b.WriteByte(c)
		}
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return []byte(b.String())
}

// params numbers the arguments of one statement as they are added.
type params struct {
	args []Arg
	// inline writes them out as literals, for statements that take no arguments.
	inline bool
}

// add returns the placeholder, "$3", of a new argument.
func (p *params) add(a Arg) string {
	switch {
	case p.inline && a == nil:
		return "NULL"
	case p.inline:
		return Literal(string(a))
	}
	p.args = append(p.args, a)
	return "$" + strconv.Itoa(len(p.args))
}

// keyOf is a key whose columns came as text.
func keyOf(raw [][]byte) message.Key {
	k := make(message.Key, len(raw))
	for i, v := range raw {
		k[i] = string(v)
	}
	return k
}

// Quote makes a string an identifier.
func Quote(ident string) string { return `"` + strings.ReplaceAll(ident, `"`, `""`) + `"` }

// Literal makes a string a literal.
func Literal(s string) string {
	q := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		return "E" + strings.ReplaceAll(q, `\`, `\\`)
	}
	return q
}

// Name is a table's qualified name.
type Name struct{ Schema, Table string }

// SQL is the quoted form.
func (n Name) SQL() string { return Quote(n.Schema) + "." + Quote(n.Table) }

// String is the form that travels and that people read: "public.orders", with quotes where a part needs them.
func (n Name) String() string { return plain(n.Schema) + "." + plain(n.Table) }

// plain quotes an identifier only where it could be misread.
func plain(s string) string {
	for i, c := range s {
		if c == '_' || c >= 'a' && c <= 'z' || i > 0 && c >= '0' && c <= '9' || c > 127 {
			continue
		}
		return Quote(s)
	}
	return s
}

// ParseName reads String's form.
func ParseName(s string) Name {
	var parts []string
	var cur strings.Builder
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' && quoted && i+1 < len(s) && s[i+1] == '"':
			cur.WriteByte('"')
			i++
		case c == '"':
			quoted = !quoted
		case c == '.' && !quoted && len(parts) == 0:
			parts = append(parts, cur.String())
			cur.Reset()
		default:
			cur.WriteByte(c)
		}
	}
	parts = append(parts, cur.String())
	if len(parts) == 1 {
		return Name{Schema: "public", Table: parts[0]}
	}
	return Name{Schema: parts[0], Table: parts[1]}
}
