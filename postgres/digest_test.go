package postgres_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// variety is a column type and values of it: literals of one group are equal by type, those of two groups are not.
type variety struct {
	name, typ string
	groups    [][]string
}

func varieties() []variety {
	one := func(lits ...string) (groups [][]string) {
		for _, l := range lits {
			groups = append(groups, []string{l})
		}
		return groups
	}
	mixed := func(groups ...[]string) [][]string { return groups }
	strings := one("", "NULL", "a|b", "a'b", `a\b`, `"`, "{}", "ü", "\u00fc\u0308", "日本", "😀", " a", "a;text:1:b", ":-;", "-", "a,b")
	// Two things Postgres's own hashes do not tell apart, so they are in no group: a numeric NaN and the infinities, and arrays of the same
	// elements in other dimensions.
	numbers := mixed([]string{"0", "0.0", "-0"}, []string{"1", "1.0", "1.00"}, []string{"-1.5", "-1.500"}, []string{"NaN"}, []string{"1e-3", "0.001"})
	floats := mixed([]string{"0", "-0"}, []string{"1.1"}, []string{"NaN"}, []string{"Infinity"}, []string{"-Infinity"}, []string{"1e30"}, []string{"-3"})
	moods := one("sad", "ok", "happy, very", `it's "\`)
	return []variety{
		{"i2", "int2", one("0", "-1", "32767")}, {"i4", "int4", one("0", "-1", "7", "2147483647")}, {"i8", "int8", one("0", "-1", "7", "9223372036854775807")},
		{"num", "numeric", append(numbers, []string{"100", "1e2", "100.000"}, []string{"12345678901234567890.1"})}, {"num103", "numeric(10,3)", numbers},
		{"f4", "float4", floats}, {"f8", "float8", append(floats, []string{"1e300"})},
		{"txt", "text", strings}, {"vc", "varchar(40)", strings}, {"ch", "char(8)", mixed([]string{"", "   "}, []string{"a", "a "}, []string{" a"}, []string{"ü"})},
		{"onech", `"char"`, one("", "a", "b")}, {"nm", "name", strings}, {"ci", "ext.citext", one("", "a", "b|c")}, {"icu", "text COLLATE nocase", one("a", "A", "b", "")},
		{"bin", "bytea", one("", `\x00`, `\x61`, `\xff00`)}, {"yes", "bool", one("t", "f")}, {"uid", "uuid", one("00112233-4455-6677-8899-aabbccddeeff", "00000000-0000-0000-0000-000000000000")},
		{"dt", "date", one("2024-02-29", "infinity", "-infinity", "0044-03-15 BC")}, {"tm", "time", one("00:00", "23:59:59.999999", "24:00")},
		{"ttz", "timetz", one("01:00+00", "01:00+02")}, {"ts", "timestamp", one("2024-02-29 01:02:03.000001", "2024-02-29 01:02:03", "infinity", "-infinity")},
		{"tstz", "timestamptz", mixed([]string{"2024-02-29 01:00+00", "2024-02-29 02:00+01"}, []string{"2024-02-29 01:00:00.000001+00"}, []string{"infinity"}, []string{"-infinity"})},
		{"iv", "interval", one("0", "1 month", "1 day", "-00:00:01", "1 year 2 months 3 days 04:05:06.7")},
		{"js", "json", mixed([]string{`{"a": 1, "b": [null, "x"]}`, `{"b":[null,"x"],"a":1}`}, []string{`{"a": 2}`, ` { "a" : 2 } `}, []string{"null"}, []string{`""`}, []string{"[]"})},
		{"jb", "jsonb", mixed([]string{`{"a": 1, "b": 2}`, `{"b":2,"a":1}`}, []string{"null"}, []string{`"null"`}, []string{"1"}, []string{"{}"})},
		{"ia", "int4[]", one("{}", "{NULL}", "{1,2}", "{2,1}", "{1,NULL}")}, {"ta", "text[]", one("{}", "{NULL}", `{"NULL"}`, `{""}`, `{"a,b"}`, `{a,b}`, `{"a\"b"}`)},
		{"na", "numeric[]", one("{}", "{1}", "{1,NaN}", "{NULL}")}, {"ja", "json[]", one("{}", `{"{\"a\": 1}"}`)},
		{"en", "mood", moods}, {"ea", "mood[]", one("{}", "{sad}", "{ok}", "{ok,sad}", "{NULL}")}, {"ed", "feeling", moods}, {"er", "moods", one("empty", "[sad,ok]", "[sad,sad]")},
		{"cp", "pair", one("(1,sad)", "(1,ok)", "(,)", "(2,sad)")}, {"ca", "pair[]", one("{}", `{"(1,sad)"}`, `{"(1,ok)"}`)}, {"dm", "positive", one("1", "7")}, {"da", "positive[]", one("{}", "{1}", "{7,NULL}")},
		{"r4", "int4range", mixed([]string{"[1,3)", "[1,2]"}, []string{"empty"}, []string{"(,)"}, []string{"[1,)"})}, {"rn", "numrange", mixed([]string{"[1,2]"}, []string{"[1,2)"}, []string{"empty"})},
		{"rt", "tstzrange", one("empty", "[2024-01-01 00:00+00,infinity)", "[2024-01-01 00:00+00,)")}, {"mr", "int4multirange", one("{}", "{[1,3)}", "{[1,3),[5,6)}")},
		{"ip", "inet", one("10.0.0.1", "10.0.0.1/8", "::1")}, {"cd", "cidr", one("10.0.0.0/8", "10.0.0.0/16")}, {"mac", "macaddr", one("08:00:2b:01:02:03", "00:00:00:00:00:00")},
		{"mac8", "macaddr8", one("08:00:2b:01:02:03:04:05", "00:00:00:00:00:00:00:00")}, {"b4", "bit(4)", one("0000", "1010")}, {"vb", "varbit", one("", "0", "00", "1")},
		{"xm", "xml", one("<a/>", "<a></a>", "x")}, {"pt", "point", one("(0,0)", "(1,0.1)")}, {"bx", "box", one("(1,1),(0,0)", "(2,1),(0,0)")},
		{"tv", "tsvector", one("", "'a':1", "'a':2 'b':1A")}, {"tq", "tsquery", one("'a'", "'a' & 'b'")}, {"cash", "money", one("$0.00", "-$1,234.50", "$1.00")},
		{"od", "oid", one("0", "4294967295")}, {"rc", "regclass", one("rows", "pg_catalog.pg_class", "ext.other")}, {"hs", "ext.hstore", mixed([]string{`a=>1, b=>NULL`, `b=>NULL, a=>1`}, []string{`a=>NULL`}, []string{""})},
		{"lsn", "pg_lsn", one("0/0", "16/B374D848")}, {"iv2", "int2vector", one("", "1 2")}, {"ov", "oidvector", one("1", "1 2")}, {"x8", "xid8", one("1", "18446744073709551615")},
	}
}

const varietyTypes = `CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext; CREATE EXTENSION hstore SCHEMA ext; CREATE TABLE ext.other (id int);
	CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
	CREATE TYPE mood AS ENUM (%s); CREATE DOMAIN feeling AS mood; CREATE TYPE moods AS RANGE (subtype = mood); CREATE TYPE pair AS (n int, m mood); CREATE DOMAIN positive AS int CHECK (VALUE > 0);`

// varied makes the table of all types; the other database makes its types with other OIDs and its columns in another order.
func varied(vs []variety, other bool) string {
	labels := `'sad', 'ok', 'happy, very', 'it''s "\'`
	cols := make([]string, len(vs))
	for i, v := range vs {
		cols[i] = v.name + " " + v.typ
	}
	before := ""
	if other {
		before = "CREATE TYPE junk AS ENUM ('x', 'y'); CREATE TYPE junk2 AS (a junk); CREATE TABLE junk3 (j junk2);"
		labels = `'it''s "\', 'happy, very', 'sad', 'ok'` // later labels have later OIDs, and another order by the way
		slices.Reverse(cols)
	}
	return before + fmt.Sprintf(varietyTypes, labels) + "CREATE TABLE rows (id int PRIMARY KEY, " + strings.Join(cols, ", ") + ")"
}

// insert is a script that leaves one row of literals in the table.
func insert(vs []variety, lits []string) string {
	names, vals := []string{"id"}, []string{"1"}
	for i, lit := range lits {
		names = append(names, vs[i].name)
		if lit == null {
			vals = append(vals, "NULL")
		} else {
			vals = append(vals, "'"+strings.ReplaceAll(lit, "'", "''")+"'")
		}
	}
	return fmt.Sprintf("DELETE FROM rows; INSERT INTO rows (%s) VALUES (%s)", strings.Join(names, ", "), strings.Join(vals, ", "))
}

// null is the literal that stands for NULL.
const null = "\x00"

// digestOf runs a script and reads the one row's digest.
func digestOf(t *rapid.T, pool *pgxpool.Pool, script string, l *postgres.Layout, kind digest.Kind) uint64 {
	ctx := context.Background()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	c := conn.Conn().PgConn()
	if _, err := c.Exec(ctx, script).ReadAll(); err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	page, err := l.Range(ctx, c, message.Range{}, 0, postgres.Want{Digest: kind})
	if err != nil || len(page.Rows) != 1 {
		t.Fatalf("%d rows, %v", len(page.Rows), err)
	}
	print, err := l.Thumbprint(ctx, c, message.Range{}, nil, kind)
	if want := (digest.Thumbprint{}).Row(page.Rows[0].Digest); err != nil || print != want {
		t.Fatalf("thumbprint %+v, %v, want %+v", print, err, want)
	}
	return page.Rows[0].Digest
}

func TestEqualRowsHaveEqualDigestsInAnyDatabase(t *testing.T) {
	t.Parallel()
	vs := varieties()
	a, b := fresh(t, varied(vs, false), fmt.Sprintf(everyType, `'red', 'it''s "\'`)), fresh(t, varied(vs, true), fmt.Sprintf(everyType, `'it''s "\', 'red'`))
	for _, v := range holdable(t, a) {
		vs = append(vs, v)
		exec(t, a, fmt.Sprintf("ALTER TABLE rows ADD %s %s", v.name, v.typ))
		exec(t, b, fmt.Sprintf("ALTER TABLE rows ADD %s %s", v.name, v.typ))
	}
	la := describe(t, a, "public.rows", postgres.Rules{})
	lb := fit(t, b, "public.rows", la, postgres.Rules{})
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]digest.Kind{digest.Record, digest.Portable}).Draw(t, "kind")
		changed := rapid.IntRange(0, len(vs)-1).Draw(t, "changed column")
		var source, replica, other []string
		for i, v := range vs {
			groups := append(slices.Clone(v.groups), []string{null})
			n := rapid.IntRange(0, len(groups)-1).Draw(t, v.name)
			m := n
			if i == changed {
				m = (n + rapid.IntRange(1, len(groups)-1).Draw(t, "change")) % len(groups)
			}
			pick := func(n int) string { return rapid.SampledFrom(groups[n]).Draw(t, "literal") }
			source, replica, other = append(source, pick(n)), append(replica, pick(n)), append(other, pick(m))
		}
		here, there := digestOf(t, a, insert(vs, source), la, kind), digestOf(t, b, insert(vs, replica), lb, kind)
		if here != there {
			t.Fatalf("%s: equal rows, digests %x and %x\nsource  %q\nreplica %q", kind, here, there, source, replica)
		}
		if digestOf(t, b, insert(vs, other), lb, kind) == there {
			t.Fatalf("%s: column %s (%s) changed from %q to %q and the digest did not", kind, vs[changed].name, vs[changed].typ, source[changed], other[changed])
		}
	})
}

// Each type by itself, so that a failure names it: every group against every other, and its literals against each other. The second database has
// other OIDs, and tables of another shape.
func TestDigestsOfEveryType(t *testing.T) {
	t.Parallel()
	own := varieties()
	a, b := fresh(t, varied(own, false), fmt.Sprintf(everyType, `'red', 'it''s "\'`)), fresh(t, varied(own, true), fmt.Sprintf(everyType, `'it''s "\', 'red'`))
	vs := append(slices.Clone(own), holdable(t, a)...)
	fill(t, a, vs, "CREATE TABLE t_%s (id int PRIMARY KEY, v %s);")
	fill(t, b, vs, "CREATE TABLE t_%[1]s (gone text, v text, extra int DEFAULT 3, id bigint PRIMARY KEY, last text); ALTER TABLE t_%[1]s DROP gone, DROP v; ALTER TABLE t_%[1]s ADD v %[2]s;")
	for i, v := range vs {
		apart(t, a, v)
		if !agree(t, a, b, v, postgres.ByType) {
			t.Errorf("%s: the probes differ within one version", v.typ)
		}
		if i < len(own) {
			agree(t, a, b, v, postgres.ByBytes)
			inGo(t, a, v)
		}
	}
}

// Between two major versions the portable digest is the same for every type, and the record digest wherever the probes are.
func TestDigestsOfEveryTypeAcrossVersions(t *testing.T) {
	t.Parallel()
	own := varieties()
	a, b := fresh(t, varied(own, false), fmt.Sprintf(everyType, `'red', 'it''s "\'`)), open(t, pgtest.DatabaseOf(t, 18))
	exec(t, b, varied(own, true), fmt.Sprintf(everyType, `'it''s "\', 'red'`))
	vs := append(slices.Clone(own), holdable(t, a)...)
	if here, there := len(vs), len(own)+len(holdable(t, b)); here != there {
		t.Logf("%d types here, %d there", here, there)
	}
	fill(t, a, vs, "CREATE TABLE t_%s (id int PRIMARY KEY, v %s);")
	fill(t, b, vs, "CREATE TABLE t_%s (id int PRIMARY KEY, v %s);")
	var other []string
	for i, v := range vs {
		source, replica := a, b
		if i%2 == 0 {
			source, replica = b, a
		}
		if !agree(t, source, replica, v, postgres.ByType) {
			other = append(other, v.typ)
		}
	}
	t.Logf("the probes differ for %d of %d types: %s", len(other), len(vs), strings.Join(other, ", "))
}

// agree compares the tables of a variety in two databases, by records only where the probes are the same, which it returns.
func agree(t *testing.T, a, b *pgxpool.Pool, v variety, exact postgres.Exactness) bool {
	t.Helper()
	rules := postgres.Rules{Exact: exact}
	la := describe(t, a, "public.t_"+v.name, rules)
	lb := fit(t, b, "public.t_"+v.name, la, rules)
	var probe uint64
	on(t, b, func(c *pgconn.PgConn) {
		var err error
		if probe, err = lb.Probe(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	})
	for _, kind := range []digest.Kind{digest.Record, digest.Portable} {
		if kind == digest.Record && probe != la.Schema.GetProbe() {
			continue
		}
		ra, rb := read(t, a, la, message.Range{}, postgres.Want{Digest: kind, Values: true}), read(t, b, lb, message.Range{}, postgres.Want{Digest: kind, Values: true})
		if len(ra) != len(rb) {
			t.Fatalf("%s: %d rows and %d", v.typ, len(ra), len(rb))
		}
		for j := range ra {
			if ra[j].Digest != rb[j].Digest {
				t.Errorf("%s, %s, exactness %d: %q differs between two databases (there %q)", v.typ, kind, exact, ra[j].Values[1], rb[j].Values[1])
			}
		}
	}
	return probe == la.Schema.GetProbe()
}

// fill makes a table t_<name> for each variety, with all its literals and NULL.
func fill(t *testing.T, pool *pgxpool.Pool, vs []variety, ddl string) {
	t.Helper()
	for _, v := range vs {
		script := fmt.Sprintf(ddl, v.name, v.typ)
		for g, group := range append(slices.Clone(v.groups), []string{null}) {
			for i, lit := range group {
				val := "'" + strings.ReplaceAll(lit, "'", "''") + "'"
				if lit == null {
					val = "NULL"
				}
				script += fmt.Sprintf("INSERT INTO t_%s (id, v) VALUES (%d, %s);", v.name, g*10+i+10, val)
			}
		}
		exec(t, pool, script)
	}
}

// apart fails unless the groups of a type have digests of their own, NULL too, and each only one.
func apart(t *testing.T, pool *pgxpool.Pool, v variety) {
	t.Helper()
	// As a boolean every key is the same, so that the digest depends on the value alone.
	l := describe(t, pool, "public.t_"+v.name, postgres.Rules{Compare: map[string]string{"id": "bool"}})
	for _, kind := range []digest.Kind{digest.Record, digest.Portable} {
		groups := make(map[uint64]string)
		for _, row := range read(t, pool, l, message.Range{}, postgres.Want{Digest: kind, Values: true}) {
			group := row.Key[0][:len(row.Key[0])-1]
			if other, ok := groups[row.Digest]; ok && other != group {
				t.Errorf("%s, %s: %q (nil is NULL: %v) has the digest of group %s", v.typ, kind, row.Values[1], row.Values[1] == nil, other)
			}
			groups[row.Digest] = group
		}
		if want := len(v.groups) + 1; len(groups) != want {
			t.Errorf("%s, %s: %d digests for %d different values", v.typ, kind, len(groups), want)
		}
	}
}

// inGo holds the portable digests of a variety's table against those that digest.Row gives.
func inGo(t *testing.T, pool *pgxpool.Pool, v variety) {
	t.Helper()
	for _, exact := range []postgres.Exactness{postgres.ByType, postgres.ByBytes} {
		l := describe(t, pool, "public.t_"+v.name, postgres.Rules{Exact: exact})
		for _, row := range read(t, pool, l, message.Range{}, postgres.Want{Digest: digest.Portable, Values: true}) {
			if want := portable(l, row, exact); want != 0 && want != row.Digest {
				t.Errorf("%s: %q: digest.Row and digest.Column give another portable digest than the SQL", v.typ, row.Values[1])
			}
		}
	}
}

// portable is the portable digest of a row of t_*, 0 for types whose canonical text is another than their output.
func portable(l *postgres.Layout, row postgres.Row, exact postgres.Exactness) uint64 {
	fields := make([]digest.Field, len(row.Values))
	for i, v := range row.Values {
		typ := l.Schema.GetColumns()[i].GetType()
		f := digest.Field{Tag: typ[strings.LastIndexByte(typ, '.')+1:], Text: string(v), Null: v == nil}
		switch {
		case slices.Contains([]string{"int2", "int4", "int8"}, f.Tag):
			f.Tag = "int"
		case slices.Contains([]string{"jsonb", "inet", "bpchar", "text"}, f.Tag) && l.Schema.GetColumns()[i].GetName() == "v" && f.Tag != "text":
			return 0
		case f.Tag == "bool" && v != nil:
			f.Text = map[string]string{"t": "true", "f": "false"}[f.Text]
		case exact != postgres.ByBytes && v != nil:
			f = digest.Column(typ, f.Text)
		}
		fields[i] = f
	}
	return digest.Row(fields)
}

func TestWhatCountsAsTheSame(t *testing.T) {
	t.Parallel()
	pool := fresh(t, `CREATE EXTENSION citext; CREATE TABLE t (id int, part int, n numeric, a text, b text, j json, c citext, at timestamp(6), PRIMARY KEY (id, part));
		INSERT INTO t VALUES (1, 0, 1.0, 'a|b', 'c', '{"a": 1, "b": 2}', 'X', '2024-01-01 00:00:00.123456'), (2, 0, 1.00, 'a', 'b|c', '{"b":2,"a":1}', 'x', '2024-01-01 00:00:00.123001'),
			(3, 0, 1, '', NULL, NULL, NULL, NULL), (4, 0, 1, NULL, '', NULL, NULL, NULL)`)
	same := func(x, y int, rules postgres.Rules, kind digest.Kind, columns ...string) bool {
		t.Helper()
		for _, c := range []string{"n", "a", "b", "j", "c", "at"} {
			if !slices.Contains(columns, c) {
				rules.Exclude = append(rules.Exclude, c)
			}
		}
		// Under one key: what differs is the columns alone.
		got := make([]uint64, 2)
		for i, id := range []int{x, y} {
			exec(t, pool, fmt.Sprintf(`CREATE TABLE one (LIKE t INCLUDING ALL); INSERT INTO one SELECT 1, 1, n, a, b, j, c, at FROM t WHERE id = %d`, id))
			got[i] = read(t, pool, describe(t, pool, "public.one", rules), message.Range{}, postgres.Want{Digest: kind})[0].Digest
			exec(t, pool, `DROP TABLE one`)
		}
		return got[0] == got[1]
	}
	bytes := postgres.Rules{Exact: postgres.ByBytes}
	millis := postgres.Rules{Compare: map[string]string{"at": "timestamp(3)"}}
	for _, kind := range []digest.Kind{digest.Record, digest.Portable} {
		for what, ok := range map[string]bool{
			"numeric 1.0 is 1.00 by type":         same(1, 2, postgres.Rules{}, kind, "n"),
			"numeric 1.0 is not 1.00 by bytes":    !same(1, 2, bytes, kind, "n"),
			"a separator shifts no value":         !same(1, 2, postgres.Rules{}, kind, "a", "b"),
			"NULL is not empty":                   !same(3, 4, postgres.Rules{}, kind, "a", "b"),
			"json is compared as jsonb":           same(1, 2, postgres.Rules{}, kind, "j"),
			"json as text where the policy says":  !same(1, 2, postgres.Rules{Compare: map[string]string{"j": "text"}}, kind, "j"),
			"json by bytes":                       !same(1, 2, bytes, kind, "j"),
			"microseconds count":                  !same(1, 2, postgres.Rules{}, kind, "at"),
			"a looser type forgives":              same(1, 2, millis, kind, "at"),
			"a looser type forgives by bytes too": same(1, 2, postgres.Rules{Exact: postgres.ByBytes, Compare: millis.Compare}, kind, "at"),
		} {
			if !ok {
				t.Errorf("%s: not so: %s", kind, what)
			}
		}
	}
	if !same(1, 2, postgres.Rules{}, digest.Record, "c") || same(1, 2, bytes, digest.Record, "c") {
		t.Error("citext ignores case by type and not by bytes: not so")
	}
}
