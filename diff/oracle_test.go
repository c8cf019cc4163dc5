package diff_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/diff"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/postgres"
)

// column is one column of a key: its type, and its value on either side as SQL over the number i of a row.
type column struct{ typ, expr [2]string }

func alike(typ, expr string) column { return column{[2]string{typ, typ}, [2]string{expr, expr}} }

// unique are key columns that alone tell the rows apart.
func unique() map[string]column {
	return map[string]column{
		"dense":     alike("bigint", "i"),
		"int":       alike("int", "i::int"),
		"narrower":  {[2]string{"bigint", "int"}, [2]string{"i", "i::int"}},
		"negative":  alike("bigint", "i - 9000"),
		"gaps":      alike("bigint", "-4000000000000000000 + i * 390000000000000"),
		"skewed":    alike("bigint", "CASE WHEN i % 50 = 0 THEN i * i * i ELSE i END"),
		"edges":     alike("bigint", "CASE i WHEN 1 THEN -9223372036854775808 WHEN 2 THEN 9223372036854775807 ELSE i END"),
		"uuid":      alike("uuid", "md5(i::text)::uuid"),
		"text":      alike("text", "chr(97 + i::int % 26) || CASE i % 5 WHEN 0 THEN 'Ü ' WHEN 1 THEN '-' WHEN 2 THEN '''' ELSE '' END || md5(i::text)"),
		"text C":    alike(`text COLLATE "C"`, "lpad(i::text, 7, '0') || 'ü\"\\'"),
		"text ICU":  alike(`text COLLATE "en-x-icu"`, "chr(CASE i % 2 WHEN 0 THEN 65 ELSE 97 END + i::int % 26) || i"),
		"two sorts": {[2]string{`text COLLATE "C"`, `text COLLATE "en-x-icu"`}, alike("", "chr(CASE i % 2 WHEN 0 THEN 65 ELSE 97 END + i::int % 26) || i").expr},
		"varchar":   alike(`varchar(40) COLLATE "C"`, "i::text"),
		"char":      alike(`char(12) COLLATE "C"`, "'c' || i"),
		"numeric":   {alike("numeric", "").typ, [2]string{"i * 1.5", "(i * 1.5)::numeric(30, 6)"}},
		"specials":  alike("numeric", "CASE i WHEN 1 THEN 'NaN' WHEN 2 THEN 'Infinity' WHEN 3 THEN '-Infinity' ELSE i::numeric END"),
		"timestamp": alike("timestamptz", "CASE i WHEN 1 THEN '-infinity' WHEN 2 THEN 'infinity' ELSE timestamptz '2020-01-01 UTC' + i * interval '1.000001 s' END"),
		"bytea":     alike("bytea", "decode(lpad(to_hex(i), 8, '0'), 'hex')"),
		"date":      alike("date", "CASE i WHEN 1 THEN 'infinity' ELSE date '2000-01-01' + i::int END"),
	}
}

// coarse are key columns with few values, for the front of a composite key.
func coarse() map[string]column {
	return map[string]column{
		"bool": alike("bool", "i % 3 = 0"),
		"enum": alike("mood", "(ARRAY['sad', 'ok', 'happy, very'])[1 + i % 3]::mood"),
		"int":  alike("int", "(i / 1000)::int"),
		"skew": alike("bigint", "CASE WHEN i % 100 = 0 THEN -i ELSE 1 END"),
		"text": alike("text", "repeat('|', (i % 4)::int)"),
		"date": alike("date", "date '2024-02-29' + (i % 7)::int"),
	}
}

// plot is one random pair of tables.
type plot struct {
	keyName string
	key     []column
	rows    int
	// Of a thousand rows so many are missing, extra, mismatched.
	missing, extra, mismatched int
	salt                       int
	order                      [2]string // of the heap
	churn                      [2]string
	partitioned                [2]bool
	alone                      [2]bool // a column more than the other side
	rename, where              bool
	analyse                    bool
	jobs                       int
	settle                     time.Duration
}

func plots() *rapid.Generator[plot] {
	return rapid.Custom(func(t *rapid.T) plot {
		p := plot{
			rows: rapid.SampledFrom([]int{0, 1, 2, 9, 100, 1500, 3000, 20_000, 20_000, 20_000}).Draw(t, "rows"), salt: rapid.IntRange(0, 1<<30).Draw(t, "salt"),
			rename: rapid.Bool().Draw(t, "rename"), where: rapid.Bool().Draw(t, "where"), analyse: rapid.Bool().Draw(t, "analyse"), jobs: rapid.SampledFrom([]int{1, 3}).Draw(t, "jobs"),
		}
		kinds := []int{0, 0, 1, 10, 300, 1000}
		p.missing, p.extra, p.mismatched = rapid.SampledFrom(kinds).Draw(t, "missing"), rapid.SampledFrom(kinds).Draw(t, "extra"), rapid.SampledFrom(kinds).Draw(t, "mismatched")
		orders := []string{"key", "key", "key DESC", "random"}
		churns := []string{"", "", "every row rewritten", "blocks emptied", "dead in between"}
		one := rapid.SampledFrom(orders).Draw(t, "order") // most often alike: that is what lets a table be read by key
		for i := range 2 {
			p.order[i] = one
			if rapid.IntRange(0, 3).Draw(t, "other order") == 0 {
				p.order[i] = rapid.SampledFrom(orders).Draw(t, "order")
			}
			p.churn[i] = rapid.SampledFrom(churns).Draw(t, "churn")
			p.partitioned[i] = rapid.IntRange(0, 4).Draw(t, "partitioned") == 0
			p.alone[i] = rapid.IntRange(0, 4).Draw(t, "alone") == 0
		}
		for range rapid.SampledFrom([]int{0, 0, 0, 1, 2, 4, 7}).Draw(t, "columns before") {
			name := rapid.SampledFrom(slices.Sorted(maps.Keys(coarse()))).Draw(t, "coarse")
			p.key, p.keyName = append(p.key, coarse()[name]), p.keyName+name+", "
		}
		name := rapid.SampledFrom(slices.Sorted(maps.Keys(unique()))).Draw(t, "key")
		p.key, p.keyName = append(p.key, unique()[name]), p.keyName+name
		if rapid.IntRange(0, 2).Draw(t, "large and in order") == 0 {
			p.rows, p.order, p.partitioned = 20_000, [2]string{one, one}, [2]bool{}
			if one == "random" {
				p.order = [2]string{"key", "key DESC"}
			}
			name := rapid.SampledFrom([]string{"dense", "narrower", "negative", "gaps", "skewed", "edges", "uuid", "text C", "varchar", "char", "numeric", "specials", "timestamp", "bytea", "date"}).Draw(t, "key in order")
			p.key, p.keyName = []column{unique()[name]}, name
		}
		if !p.where && rapid.IntRange(0, 4).Draw(t, "settle") == 0 {
			p.settle = time.Millisecond // nothing moves, so nothing but the way to the result changes
		}
		return p
	})
}

// fate is SQL that is true for the rows i of one fate.
func (p plot) fate(from, width int) string {
	return fmt.Sprintf("(hashint8extended(i, %d) & 1048575) %% 1000 BETWEEN %d AND %d", p.salt, from, from+width-1)
}

// names are the compared columns on one side, the key's first.
func (p plot) names(side int) (key, values []string) {
	for i := range p.key {
		key = append(key, fmt.Sprintf("k%d", i))
	}
	values = []string{"a", "b", "c", "d", "part"}
	if side == 1 && p.rename {
		key[0], values[0], values[4] = `"Key, one"`, "b2", `"sel"`
	}
	return key, values
}

// build makes one side's table.
func (p plot) build(t fataler, pool *pgxpool.Pool, name string, side int) {
	t.Helper()
	key, values := p.names(side)
	types := []string{"text", "numeric", "jsonb", "timestamptz", "int"}
	exprs := []string{"CASE WHEN i % 11 > 0 THEN 'v' || i % 97 END", "(i % 1000) / 8.0", "jsonb_build_object('n', i % 7, 'x', i)", "timestamptz '2024-01-01 UTC' + i * interval '1 s'", "(i % 3)::int"}
	own := p.fate(p.missing, p.extra) // what the other side has alone
	if side == 1 {
		own = p.fate(0, p.missing)
		bad := p.fate(p.missing+p.extra, p.mismatched)
		exprs = []string{
			"CASE WHEN " + bad + " AND i % 5 < 2 THEN nullif(coalesce(" + exprs[0] + ", '') || 'x', 'x') ELSE " + exprs[0] + " END",
			"((i % 1000) / 8.0 + CASE WHEN " + bad + " AND i % 5 = 2 THEN 1 ELSE 0 END)::numeric(20, 7)", // as many zeros as it likes
			exprs[2] + " || CASE WHEN " + bad + " AND i % 5 IN (1, 3) THEN '{\"n\": null}' ELSE '{}' END::jsonb",
			exprs[3] + " + CASE WHEN " + bad + " AND i % 5 = 4 THEN interval '1 us' ELSE '0' END",
			"((i + CASE WHEN " + bad + " AND i % 7 = 4 THEN 1 ELSE 0 END) % 3)::int",
		}
	}
	var columns, selected, to []string
	add := func(name, typ, expr string) {
		columns, selected, to = append(columns, name+" "+typ), append(selected, expr), append(to, name)
	}
	if p.alone[side] {
		columns = append(columns, fmt.Sprintf("only%d text DEFAULT 'alone'", side))
	}
	for i := range values { // in another order on the other side
		if side == 1 {
			i = len(values) - 1 - i
		}
		add(values[i], types[i], exprs[i])
	}
	for i, c := range p.key {
		add(key[i], c.typ[side], c.expr[side])
	}
	list := strings.Join(key, ", ")
	order := list
	switch p.order[side] {
	case "key DESC":
		order = strings.Join(key, " DESC, ") + " DESC"
	case "random":
		order = fmt.Sprintf("hashint8extended(i, %d)", side)
	}
	partitions, storage := "", ""
	if p.partitioned[side] {
		partitions = " PARTITION BY HASH (" + list + ")"
		for i := range 3 {
			storage += fmt.Sprintf("; CREATE TABLE %s_%d PARTITION OF %s FOR VALUES WITH (MODULUS 3, REMAINDER %d)", name, i, name, i)
		}
	}
	insert := func(where string) string {
		return "INSERT INTO " + name + " (" + strings.Join(to, ", ") + ") SELECT " + strings.Join(to, ", ") + " FROM (SELECT i, " + aliased(selected, to) +
			fmt.Sprintf(" FROM generate_series(1::bigint, %d) AS g(i) WHERE NOT (%s) AND %s) AS s ORDER BY %s", p.rows, own, where, order)
	}
	exec(t, pool, "CREATE TABLE "+name+" ("+strings.Join(columns, ", ")+", PRIMARY KEY ("+list+"))"+partitions+storage)
	switch p.churn[side] {
	case "dead in between":
		exec(t, pool, insert("true"), "DELETE FROM "+name+" WHERE hashtext("+values[3]+"::text) % 2 = 0", insert("true")+" ON CONFLICT DO NOTHING")
	case "blocks emptied":
		// In front of the rows there were others.
		exec(t, pool, insert("i % 10 < 5"), "DELETE FROM "+name, insert("true"))
	case "every row rewritten":
		exec(t, pool, insert("true"), "UPDATE "+name+" SET "+values[1]+" = "+values[1])
	default:
		exec(t, pool, insert("true"))
	}
	if p.analyse {
		exec(t, pool, "VACUUM ANALYZE "+name)
	}
}

func aliased(exprs, names []string) string {
	out := make([]string, len(exprs))
	for i := range exprs {
		out[i] = exprs[i] + " AS " + names[i]
	}
	return strings.Join(out, ", ")
}

// rules are the policy's for this plot.
func (p plot) rules() postgres.Rules {
	var r postgres.Rules
	if p.rename {
		r.Rename = map[string]string{"k0": "Key, one", "a": "b2", "part": "sel"}
	}
	if p.where {
		r.Where = "part <> 1"
		if p.rename {
			r.ReplicaWhere = "sel <> 1"
		}
	}
	return r
}

// rows reads a side whole: what the policy's condition lets through, as text that is the same for values that are the same.
func (p plot) read(t *rapid.T, pool *pgxpool.Pool, name string, side int) map[string][]string {
	key, values := p.names(side)
	for i, c := range p.key {
		if c.typ[side] == "numeric" {
			key[i] = "trim_scale(" + key[i] + ")"
		}
	}
	where := ""
	if p.where {
		where = " WHERE " + values[4] + " <> 1"
	}
	sql := fmt.Sprintf("SELECT concat_ws('|', %s), ARRAY[coalesce(%s, 'NULL'), trim_scale(%s)::text, %s::text, %s::text, %s::text] FROM %s%s",
		strings.Join(key, ", "), values[0], values[1], values[2], values[3], values[4], name, where)
	rows, err := pool.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	out := make(map[string][]string)
	for rows.Next() {
		var id string
		var vals []string
		if err := rows.Scan(&id, &vals); err != nil {
			t.Fatal(err)
		}
		out[id] = vals
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// expected is what differs, by reading both sides whole.
func (p plot) expected(source, replica map[string][]string) (counts, map[string][]string) {
	want, c := make(map[string][]string), counts{rows: int64(len(source))}
	for id, mine := range source {
		theirs, ok := replica[id]
		if !ok {
			c.missing++
			want[entry(drift.Missing, id)] = []string{}
			continue
		}
		columns := []string{}
		for i, name := range []string{"a", "b", "c", "d", "part"} {
			if mine[i] != theirs[i] {
				columns = append(columns, name)
			}
		}
		if len(columns) > 0 {
			c.mismatched++
			want[entry(drift.Mismatched, id)] = columns
		}
	}
	for id := range replica {
		if _, ok := source[id]; !ok {
			c.extra++
			want[entry(drift.Extra, id)] = []string{}
		}
	}
	return c, want
}

// canonical writes a listed key as the oracle does.
func (p plot) canonical(d diff.Difference) string {
	values := make([]string, len(d.Key))
	for i, f := range d.Key {
		values[i] = f.Value
		if p.key[i].typ[0] == "numeric" && strings.Contains(f.Value, ".") {
			values[i] = strings.TrimSuffix(strings.TrimRight(f.Value, "0"), ".")
		}
	}
	return entry(d.Kind, values...)
}

func TestRandomTables(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	exec(t, p.source, "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy, very')")
	exec(t, p.replica, "CREATE TYPE junk AS ENUM ('x'); CREATE TYPE mood AS ENUM ('happy, very', 'sad', 'ok')")
	tables, ways, empty := 0, make(map[postgres.Way]int), 0
	rapid.Check(t, func(rt *rapid.T) {
		plot := plots().Draw(rt, "plot")
		tables++
		name := fmt.Sprintf("t%d", tables)
		began := time.Now()
		plot.build(rt, p.source, name, 0)
		plot.build(rt, p.replica, name, 1)
		defer p.both(rt, "DROP TABLE "+name)
		c, want := plot.expected(plot.read(rt, p.source, name, 0), plot.read(rt, p.replica, name, 1))
		built := time.Since(began)
		found := make(map[string][]string)
		options := diff.Options{Jobs: plot.jobs, Settle: plot.settle, Found: func(_ diff.Table, d diff.Difference) error {
			id := plot.canonical(d)
			if _, ok := found[id]; ok {
				return fmt.Errorf("%s was found twice", id)
			}
			found[id] = []string{}
			for _, column := range d.Columns {
				found[id] = append(found[id], column.Name)
			}
			return nil
		}}
		target := table("public." + name)
		target.Rules = plot.rules()
		r, err := diff.New(p.source, p.replica, options).Table(rt.Context(), target)
		if err != nil {
			rt.Fatal(err)
		}
		rt.Logf("%v, built in %v: key %s, %d rows: %+v in %v", r.Way, built, plot.keyName, plot.rows, of(r), r.Took)
		if plot.rows >= 3000 {
			ways[r.Way]++
		}
		if len(want) == 0 {
			empty++
		}
		if of(r) != c {
			rt.Errorf("counted %+v, there are %+v", of(r), c)
		}
		if plot.where { // a row that left the condition is there all the same, and what a missing one's columns are is nobody's question
			for id := range want {
				if strings.HasPrefix(id, string(drift.Mismatched)) && !slices.Equal(want[id], sorted(found[id])) {
					rt.Errorf("%s: columns %v, not %v", id, found[id], want[id])
				}
			}
		}
		if !maps.EqualFunc(want, found, func(a, b []string) bool { return slices.Equal(a, sorted(b)) }) {
			rt.Errorf("listed %d, expected %d: first %v", len(found), len(want), firstOff(want, found))
		}
		// Only counted: by another way to the same numbers.
		if r, err = diff.New(p.source, p.replica, diff.Options{Jobs: plot.jobs}).Table(rt.Context(), target); err != nil || of(r) != c {
			rt.Errorf("without a list: counted %+v, there are %+v: %v", of(r), c, err)
		}
	})
	t.Logf("%d tables, %v of them large, %d without a difference", tables, ways, empty)
	if !t.Failed() && (ways[postgres.ByKey] == 0 || ways[postgres.ByHeap] == 0 || empty == 0 || empty == tables) {
		t.Error("that is not all that there is: the generator has to reach both ways, and tables with and without differences")
	}
}

func sorted(names []string) []string { return slices.Sorted(slices.Values(names)) }

// firstOff is an entry that only one of two listings has.
func firstOff(want, found map[string][]string) string {
	for _, id := range slices.Sorted(maps.Keys(want)) {
		if got, ok := found[id]; !ok {
			return "not found: " + id
		} else if !slices.Equal(want[id], sorted(got)) {
			return fmt.Sprintf("%s: columns %v, not %v", id, got, want[id])
		}
	}
	for _, id := range slices.Sorted(maps.Keys(found)) {
		if _, ok := want[id]; !ok {
			return "found and not there: " + id
		}
	}
	return ""
}
