package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestFor(t *testing.T) {
	t.Parallel()
	p, _, err := Parse("f", []byte(`
pipeline: orders
tables:
  - {table: public.*, replica: cache.all_*, mode: rows}
  - {table: public.orders, where: exact}
  - {table: '*.order*', replica: 'copy_*.*', where: later}
  - {table: '"My Schema"."a.b"', replica: x.y}
  - {table: My Schema.Plain}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ schema, name, entry, replica string }{
		{"public", "items", "public.*", "cache.all_items"},
		{"public", "orders", "public.orders", "public.orders"},
		{"public", "orders2", "public.*", "cache.all_orders2"},
		{"sales", "orders2", "*.order*", "copy_sales.s2"},
		{"My Schema", "a.b", `"My Schema"."a.b"`, "x.y"},
		{"My Schema", "Plain", "My Schema.Plain", "My Schema.Plain"},
		{"my schema", "plain", "", ""},
		{"sales", "items", "", ""},
	} {
		m, ok := p.For(c.schema, c.name)
		if ok != (c.entry != "") || m.Table.Table != c.entry || ok && m.Replica.String() != c.replica {
			t.Errorf("%s.%s: entry %q replica %s, want %q %q", c.schema, c.name, m.Table.Table, m.Replica, c.entry, c.replica)
		}
	}
}

func TestPatternReadsBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := Name{rapid.StringMatching(`[a-zA-Z"*. ]{1,6}`).Draw(t, "schema"), rapid.StringMatching(`[a-zA-Z"*. ]{1,6}`).Draw(t, "name")}
		p, err := ParsePattern(n.String())
		if err != nil {
			t.Fatal(err)
		}
		if got, exact := p.Exact(); !exact || got != n || p.String() != n.String() {
			t.Fatalf("%q came back as %q", n, got)
		}
	})
}

// A glob made from a name by putting stars in place of pieces matches it, and filling its captures in gives the name again.
func TestGlobMatches(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var name, glob strings.Builder
		for i := range rapid.IntRange(1, 5).Draw(t, "pieces") {
			piece := rapid.StringMatching(`[ab]{0,3}`).Draw(t, fmt.Sprint("piece", i))
			name.WriteString(piece)
			if rapid.Bool().Draw(t, fmt.Sprint("star", i)) {
				piece = "*"
			}
			glob.WriteString(piece)
		}
		if glob.Len() == 0 {
			return
		}
		p, err := ParsePattern("s." + glob.String())
		if err != nil {
			t.Fatal(err)
		}
		got, ok := p.captures("s", name.String())
		if !ok || p.fill(got).Name != name.String() {
			t.Fatalf("%s on %q: %v %q", p, name.String(), ok, got)
		}
		if p.Match("s", name.String()+"c") != strings.HasSuffix(glob.String(), "*") {
			t.Fatalf("%s on %q", p, name.String()+"c")
		}
	})
}

func TestUnits(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]time.Duration{
		"500ms": 500 * time.Millisecond, "10m": 10 * time.Minute, "1h30m": 90 * time.Minute, "24h": 24 * time.Hour,
		"7d": 7 * 24 * time.Hour, "2w": 14 * 24 * time.Hour, "1.5h": 90 * time.Minute, "0s": 0,
	} {
		var d Duration
		if err := d.UnmarshalText([]byte(s)); err != nil || time.Duration(d) != want {
			t.Errorf("%s: %v %v", s, d, err)
		}
	}
	for s, want := range map[string]Size{"500kB": 500_000, "1MiB": 1 << 20, "1 MB": 1_000_000, "1.5KiB": 1536, "7": 7} {
		var n Size
		if err := n.UnmarshalText([]byte(s)); err != nil || n != want {
			t.Errorf("%s: %d %v", s, n, err)
		}
	}
	for s, want := range map[string]Percent{"2%": 0.02, "0.02": 0.02, "100%": 1, "1": 1, "0.5 %": 0.005} {
		var p Percent
		if err := p.UnmarshalText([]byte(s)); err != nil || p != want {
			t.Errorf("%s: %v %v", s, p, err)
		}
	}
	for _, s := range []string{"7d", "24h", "1h30m", "10m", "1m30s", "500ms", "0s", "100h"} {
		var d Duration
		if err := d.UnmarshalText([]byte(s)); err != nil || d.String() != s {
			t.Errorf("%s is written %s (%v)", s, d, err)
		}
	}
}

func TestDurationReadsBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := Duration(rapid.Int64Range(0, 1e12).Draw(t, "ms") * int64(time.Millisecond))
		var back Duration
		if err := back.UnmarshalText([]byte(d.String())); err != nil || max(back-d, d-back) > Duration(time.Microsecond) {
			t.Fatalf("%s came back as %s: %v", d, back, err)
		}
	})
}
