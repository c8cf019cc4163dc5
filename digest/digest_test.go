package digest_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/digest"
)

func of(rows []uint64) (t digest.Thumbprint) {
	for _, r := range rows {
		t = t.Row(r)
	}
	return t
}

func TestThumbprintsAddUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.SliceOf(rapid.Uint64()).Draw(t, "rows")
		cut := rapid.IntRange(0, len(rows)).Draw(t, "cut")
		if of(rows) != of(rows[cut:]).Add(of(rows[:cut])) {
			t.Fatal("the parts are not the whole")
		}
		if len(rows) > 0 {
			twice := of(rows).Row(rows[0])
			if twice.Rows == of(rows).Rows || rows[0] != 0 && twice.Sum == of(rows).Sum {
				t.Fatal("a row counted twice does not show")
			}
		}
	})
}

// Under xor the same change to two rows would cancel out.
func TestEqualChangesDoNotCancelOut(t *testing.T) {
	t.Parallel()
	const change = 0xff
	if of([]uint64{1, 2}) == of([]uint64{1 ^ change, 2 ^ change}) {
		t.Error("they cancel out")
	}
}

func TestRowsAreFramed(t *testing.T) {
	t.Parallel()
	text := func(values ...string) (fields []digest.Field) {
		for _, v := range values {
			fields = append(fields, digest.Field{Tag: "text", Text: v, Null: v == "NULL"})
		}
		return fields
	}
	seen := make(map[uint64]int)
	for i, fields := range [][]digest.Field{
		nil, text(""), text("NULL"), text("-"), text("a", "b"), text("ab", ""), text("", "ab"), text("a|b"), text("a;text:1:b"), text("NULL", ""), text("", "NULL"),
		{{Tag: "int", Text: "1"}}, {{Tag: "numeric", Text: "1"}},
	} {
		d := digest.Row(fields)
		if j, ok := seen[d]; ok {
			t.Errorf("rows %d and %d have one digest", i, j)
		}
		seen[d] = i
	}
	if digest.Record.String() != "record" || digest.Portable.String() != "portable" || digest.Kind(9).String() != "unknown" {
		t.Error("kinds are called otherwise")
	}
}

// What the server's own text makes of the same values is held against this in package postgres.
func TestEqualValuesAreTheSameField(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ typ, text, tag, want string }{
		{"pg_catalog.numeric", "1.500", "numeric", "1.5"},
		{"pg_catalog.numeric", "100", "numeric", "100"},
		{"pg_catalog.numeric", "7.00", "numeric", "7"},
		{"pg_catalog.float8", "-0", "float8", "0"},
		{"pg_catalog.int2", "10", "int", "10"},
		{"pg_catalog.bool", "t", "bool", "true"},
		{"pg_catalog.bool", "false", "bool", "false"},
		{"pg_catalog.bool", "", "bool", ""},
		{"pg_catalog.text", "1.500", "text", "1.500"},
	} {
		if f := digest.Column(c.typ, c.text); f.Tag != c.tag || f.Text != c.want || f.Null {
			t.Errorf("%s %q: %+v", c.typ, c.text, f)
		}
	}
}
