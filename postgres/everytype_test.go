package postgres_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/postgres"
)

// samples are two or more different values of every type that a table can hold, by the catalogue's names. Those of arrays are made of them.
func samples() map[string][]string {
	two := func(a, b string) []string { return []string{a, b} }
	return map[string][]string{
		"bool": two("t", "f"), "bytea": two("", `\x00ff`), "char": two("", "a"), "name": two("a", "B c"), "int8": {"-1", "4294967295", "1", "4294967296"}, "int4": two("-1", "1"), "int2": two("-1", "1"),
		"int2vector": two("", "1 2"), "regproc": two("boolin", "int4in"), "text": two("", "NULL"), "oid": two("0", "4294967295"), "tid": two("(0,1)", "(1,1)"), "xid": two("1", "2"), "cid": two("0", "1"),
		"oidvector": two("1", "1 2"), "json": two(`{"a": 1}`, `{"a": 2}`), "xml": two("<a/>", "<b>ü</b>"), "point": two("(0,0)", "(0,1)"), "lseg": two("[(0,0),(1,1)]", "[(1,1),(0,0)]"),
		"path": two("((0,0),(1,1))", "[(0,0),(1,1)]"), "box": two("(1,1),(0,0)", "(2,1),(0,0)"), "polygon": two("((0,0),(1,1))", "((0,0),(1,2))"), "line": two("{1,2,3}", "{1,2,4}"), "circle": two("<(0,0),1>", "<(0,0),2>"),
		"float4": {"0", "NaN", "Infinity", "-Infinity", "1.1", "-1.1"}, "float8": {"0", "NaN", "Infinity", "-Infinity", "1.1", "-1.1"}, "money": two("$5.00", "-$5.00"), "macaddr": two("08:00:2b:01:02:03", "08:00:2b:01:02:04"),
		"macaddr8": two("08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03:04:06"), "inet": {"10.0.0.1", "10.0.0.1/8", "::1"}, "cidr": two("10.0.0.0/8", "10.0.0.0/16"), "aclitem": two("pg_monitor=r/pg_monitor", "pg_monitor=w/pg_monitor"),
		"bpchar": two("a", "B"), "varchar": two("a", "a "), "date": {"infinity", "-infinity", "0044-03-15 BC", "2024-02-29"}, "time": two("00:00", "24:00"), "timetz": two("01:00+00", "02:00+01"),
		"timestamp": {"infinity", "-infinity", "0044-03-15 01:02:03 BC", "2024-02-29 01:02:03.000001"}, "timestamptz": {"infinity", "-infinity", "0044-03-15 01:02:03+00 BC", "2024-02-29 01:02:03.000001+00"},
		"interval": {"0", "-1 day", "1 day", "1 year 2 months 3 days 04:05:06.7"}, "bit": two("0", "1"), "varbit": {"", "0", "00"}, "numeric": {"0", "5", "-5", "50000", "0.5", "NaN", "Infinity", "-Infinity"}, "refcursor": two("a", "b"),
		"regprocedure": two("sin(double precision)", "cos(double precision)"), "regoper": two("|/", "||/"), "regoperator": two("+(integer,integer)", "-(integer,integer)"), "regclass": two("pg_class", "pg_type"),
		"regcollation": two(`"C"`, `"POSIX"`), "regtype": two("integer", "text"), "regrole": two("pg_monitor", "pg_read_all_data"), "regnamespace": two("pg_catalog", "information_schema"),
		"regconfig": two("simple", "english"), "regdictionary": two("simple", "english_stem"), "uuid": two("00112233-4455-6677-8899-aabbccddeeff", "00000000-0000-0000-0000-000000000000"), "pg_lsn": two("0/1", "1/0"),
		"tsvector": two("'a':1", "'a':2"), "tsquery": two("'a'", "'a' & 'b'"), "jsonb": {`{"a": 5}`, `{"a": 6}`, "null", `"null"`, "true", "[]"}, "jsonpath": two(`$."a"`, `$."b"`), "txid_snapshot": two("1:2:", "1:3:2"),
		"pg_snapshot": two("1:2:", "1:3:2"), "xid8": two("1", "4294967297"), "int4range": {"empty", "(,)", "[1,3)", "[1,)", "(,3)"}, "int8range": {"empty", "(,)", "[-1,0)", "[4294967295,4294967296)"},
		"numrange": {"empty", "(,)", "[1,2]", "[1,2)", "(1,2]", "(1,2)", "[-1,2]"}, "tsrange": {"empty", "(,)", "(-infinity,infinity)", "[2024-01-01 00:00,)"}, "tstzrange": {"empty", "(,)", "(-infinity,infinity)", "[2024-01-01 00:00+00,)"},
		"daterange": {"empty", "(,)", "[2024-01-01,)", "[2024-01-01,infinity)"}, "int4multirange": {"{}", "{(,)}", "{[1,2)}", "{[1,2),[3,4)}"}, "int8multirange": {"{}", "{[-1,0)}", "{[4294967295,4294967296)}"}, "nummultirange": {"{}", "{[1,2]}", "{[-1,2]}"},
		"tsmultirange": two("{}", "{(,)}"), "tstzmultirange": two("{}", "{(,)}"), "datemultirange": two("{}", "{[2024-01-01,)}"),

		"citext": two("a", "b"), "hstore": {"", `"a"=>"1"`, `"a"=>NULL`}, "cube": two("(1)", "(1, 2)"), "seg": two("1", "1 .. 2"), "ltree": {"", "a", "a.b"}, "lquery": two("a", "a.*"), "ltxtquery": two("a", "a & b"), "lo": two("1", "2"),
		"query_int": two("1", "1 & 2"), "ean13": two("978-0-393-04002-9", "978-0-11-000533-1"), "isbn13": two("978-0-393-04002-9", "978-0-11-000533-1"), "ismn13": two("979-0-60011-561-7", "979-0-2600-0043-8"),
		"issn13": two("977-1436-452-00-8", "977-0317-847-00-1"), "isbn": two("0-393-04002-X", "0-11-000533-3"), "ismn": two("M-060-11561-5", "M-2600-0043-8"), "issn": two("1436-4522", "0317-8471"), "upc": two("220356483481", "036000291452"),

		"colour": two("red", `it's "\`), "shade": two("red", `it's "\`), "spectrum": {"empty", "[red,red]", "[red,)"}, "spectra": {"{}", "{[red,red]}"}, "shades": {"{}", "{red}", "{NULL}"}, "digits": {"{}", "{1,2}", "[2:3]={1,2}", "{-1}"},
		"gauge": {"5", "-5", "NaN"}, "gauges": {"empty", "[5,6]", "[-5,6]"}, "gauge_set": {"{}", "{[5,6]}"}, "inner_row": {"(,)", `(red,"{1}")`, `(,"{1}")`}, "outer_row": {"(,)", `("(red,{1})",1)`, `("(,{1})",1)`},
		"stretch": {"empty", "[a,b]", "[a,b)"}, "stretches": {"{}", "{[a,b]}"}, "span8": {"empty", "[-1,0)", "[4294967295,4294967296)"}, "spans8": {"{}", "{[-1,0)}"},
	}
}

// everyType makes types of every other kind.
const everyType = `CREATE SCHEMA every; CREATE EXTENSION cube SCHEMA every; CREATE EXTENSION seg SCHEMA every; CREATE EXTENSION ltree SCHEMA every;
	CREATE EXTENSION lo SCHEMA every; CREATE EXTENSION intarray SCHEMA every; CREATE EXTENSION isn SCHEMA every; CREATE EXTENSION pg_trgm SCHEMA every; CREATE EXTENSION btree_gist SCHEMA every; SET search_path = every;
	CREATE TYPE colour AS ENUM (%s); CREATE DOMAIN shade AS colour; CREATE TYPE spectrum AS RANGE (subtype = colour, multirange_type_name = spectra); CREATE DOMAIN shades AS colour[]; CREATE DOMAIN digits AS numeric[];
	CREATE DOMAIN gauge AS numeric; CREATE TYPE gauges AS RANGE (subtype = numeric, multirange_type_name = gauge_set); CREATE TYPE inner_row AS (c shade, d digits); CREATE TYPE outer_row AS (i inner_row, n int);
	CREATE TYPE stretch AS RANGE (subtype = text, collation = "C", multirange_type_name = stretches); CREATE TYPE span8 AS RANGE (subtype = int8, multirange_type_name = spans8); SET search_path = public;`

// holdable is every type of a database that a column can have and that takes input, as varieties: itself and its array. It fails for a type without samples.
func holdable(t *testing.T, pool *pgxpool.Pool) (vs []variety) {
	t.Helper()
	samples := samples()
	type row struct{ schema, name, array, delimiter string }
	var rows []row
	on(t, pool, func(c *pgconn.PgConn) {
		result := c.ExecParams(t.Context(), `SELECT n.nspname, t.typname, coalesce(a.typname, ''), t.typdelim FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_type a ON a.oid = t.typarray
			WHERE n.nspname IN ('pg_catalog', 'every', 'ext') AND t.typtype <> 'p' AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
			  AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c')) ORDER BY t.oid`, nil, nil, nil, nil).Read()
		if result.Err != nil {
			t.Fatal(result.Err)
		}
		for _, r := range result.Rows {
			rows = append(rows, row{string(r[0]), string(r[1]), string(r[2]), string(r[3])})
		}
	})
	// Kept by the server itself, for what it has in its own tables and indexes.
	internal := []string{"pg_node_tree", "pg_ndistinct", "pg_dependencies", "pg_mcv_list", "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary", "gtsvector", "gtrgm", "ghstore", "ltree_gist", "intbig_gkey",
		"gbtreekey2", "gbtreekey4", "gbtreekey8", "gbtreekey16", "gbtreekey32", "gbtreekey_var"}
	for i, r := range rows {
		typ := postgres.Name{Schema: r.schema, Table: r.name}.SQL()
		values, ok := samples[r.name]
		if slices.Contains(internal, r.name) {
			on(t, pool, func(c *pgconn.PgConn) {
				if _, err := c.Exec(t.Context(), "SELECT 'a'::"+typ).ReadAll(); err == nil {
					t.Errorf("%s takes values: it wants samples", typ)
				}
			})
			continue
		}
		if !ok {
			t.Errorf("%s has no samples", typ)
			continue
		}
		v := variety{name: fmt.Sprintf("y%d", i), typ: typ}
		quoted := make([]string, len(values))
		for n, value := range values {
			v.groups = append(v.groups, []string{value})
			quoted[n] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`
		}
		vs = append(vs, v)
		if r.array == "" {
			continue
		}
		lists := variety{name: v.name + "a", typ: postgres.Name{Schema: r.schema, Table: r.array}.SQL(), groups: [][]string{{"{}"}, {"{NULL}"}, {"{NULL" + r.delimiter + "NULL}"}, {"{{NULL}}"}}}
		for _, format := range []string{"{%s}", "{{%s}}", "[0:0]={%s}", "{%s,NULL}", "{NULL,%s}"} {
			for _, q := range quoted {
				lists.groups = append(lists.groups, []string{fmt.Sprintf(format, q)})
			}
		}
		for _, format := range []string{"{%s,%s}", "{%s,NULL,%s}", "{{%s,%s}}", "{{%s},{%s}}", "[2:3]={%s,%s}"} {
			lists.groups = append(lists.groups, []string{fmt.Sprintf(format, quoted[0], quoted[1])}, []string{fmt.Sprintf(format, quoted[1], quoted[0])})
		}
		if r.delimiter != "," {
			for _, group := range lists.groups {
				group[0] = strings.NewReplacer(`",`, `"`+r.delimiter, "},", "}"+r.delimiter, "NULL,", "NULL"+r.delimiter).Replace(group[0])
			}
		}
		vs = append(vs, lists)
	}
	return vs
}
