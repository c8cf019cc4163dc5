package debezium_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// keyed is a table by its key's columns and the rows it holds.
type keyed struct{ name, columns, key, rows string }

func keyedTables() []keyed {
	one := func(name, typ, rows string) keyed { return keyed{name, `"the key" ` + typ, `"the key"`, rows} }
	const words = `VALUES (''), (' '), ('a'), ('A'), ('ä'), ('a b'), ('b''"\,{}'), ('?'), ('$1'), (E'\\\\'), ('NULL'), ('--'), ('/*'), ('ß'), ('日本'), ('10'), ('9'), (repeat('x', 900)), (E'\n')`
	return []keyed{
		one("bigint", "int8", "VALUES (-9223372036854775808), (-1), (0), (1), (4294967296), (9223372036854775807)"),
		one("integer", "int4", "SELECT i * 1000 FROM generate_series(-9, 9) i"), one("smallint", "int2", "SELECT i FROM generate_series(-9, 9) i"),
		one("uuid", "uuid", "SELECT md5(i::text)::uuid FROM generate_series(1, 20) i"),
		one("text", "text", words), one("text in C", `text COLLATE "C"`, words), one("text in English", `text COLLATE "en-x-icu"`, words), one("varchar", "varchar(1000)", words),
		one("text without case", "text COLLATE nocase", "VALUES ('a'), ('B'), ('c d'), ('Ä'), ('')"), one("domain with a collation", "german", words), one("domain with another collation", `german COLLATE "C"`, words),
		one("char", "char(4)", "VALUES (''), ('a'), ('ab'), (' a')"), one("one byte", `"char"`, "VALUES ('a'::\"char\"), ('B'), ('\\')"), one("name", "name", "VALUES ('a'), ('B'), ('ü')"), one("citext", "citext", "VALUES ('a'), ('B'), ('c')"),
		one("timestamptz", "timestamptz", "VALUES ('-infinity'::timestamptz), ('infinity'), ('2024-01-01 00:00:00.000001+00'), ('2024-01-01 00:00+00'), ('0044-01-01 00:00+00 BC')"),
		one("timestamp", "timestamp", "VALUES ('-infinity'::timestamp), ('infinity'), ('2024-01-02'), ('2024-02-01'), ('0044-01-01 BC')"), one("date", "date", "VALUES ('infinity'::date), ('-infinity'), ('2024-02-03'), ('2024-03-02'), ('0044-03-15 BC')"),
		one("time", "time", "VALUES ('24:00'::time), ('00:00'), ('12:00:00.000001')"), one("timetz", "timetz", "VALUES ('01:00+00'::timetz), ('02:00+01'), ('00:30-02')"),
		one("interval", "interval", "VALUES ('1 month'::interval), ('29 days'), ('-1 day'), ('0'), ('-1 day 02:00')"),
		one("numeric", "numeric(20,4)", "VALUES (-1.50), (0), (1.0), (1.01), (1e15), ('NaN')"), one("float", "float8", "VALUES (-1.5::float8), ('-0'), (1.1), (0.1::float8 + 0.2::float8), (0.3), (5e-324), ('NaN'), ('-Infinity'), ('Infinity')"), one("real", "float4", "VALUES (1.1::float4), (0.1), (16777217), ('NaN')"),
		one("bytea", "bytea", `VALUES (''::bytea), ('\x00'), ('\x0000'), ('\xff'), ('\x61')`), one("enum", "temper", "VALUES ('z'::temper), ('a'), ('m'), ('it''s')"), one("bool", "bool", "VALUES (true), (false)"),
		one("inet", "inet", "VALUES ('10.0.0.1'::inet), ('10.0.0.1/8'), ('::1')"), one("oid", "oid", "VALUES (0::oid), (4294967295)"), one("pg_lsn", "pg_lsn", "VALUES ('0/1'::pg_lsn), ('1/0'), ('1/1')"), one("bit", "varbit", "VALUES (''::varbit), ('0'), ('00'), ('1')"),
		one("range", "int4range", "VALUES ('empty'::int4range), ('[1,3)'), ('(,)'), ('[1,)')"), one("array", "int4[]", "VALUES ('{}'::int4[]), ('{1,2}'), ('{1}'), ('{NULL}'), ('{2}')"), one("array of text", "text[]", `VALUES ('{}'::text[]), ('{"a,b"}'), ('{a,b}'), ('{NULL}'), ('{"\\\""}')`),
		one("array of enums", "temper[]", "VALUES ('{}'::temper[]), ('{z,a}'), ('{m}')"), one("composite type", "pair", "VALUES ('(1,a)'::pair), ('(1,b)'), ('(2,a)'), ('(,)')"), one("jsonb", "jsonb", `VALUES ('1'::jsonb), ('"a"'), ('[]'), ('{"a": 1}'), ('null')`),
		{"(1, 11) and (11, 1)", "a int, b int", "a, b", "VALUES (1, 11), (11, 1), (1, 1), (11, 11)"}, {"another order than the columns'", `"A ""quoted""" int, b text, c date`, `c, "A ""quoted"""`, "SELECT i % 3, 'x', date '2024-01-01' + i FROM generate_series(1, 20) i"},
		{"eight columns", `a int8, b text COLLATE "en-x-icu", c uuid, d timestamptz, e numeric, f temper, g bool, h bytea`, "h, g, f, e, d, c, b, a",
			`SELECT i % 2 - 1, chr(97 + i % 3), md5((i % 4)::text)::uuid, timestamptz '2024-01-01 00:00+00' + i % 2 * interval '1 us', i % 3 - 1.5, (ARRAY['z', 'a'])[1 + i % 2]::temper, i % 2 = 0, decode(to_hex(16 + i), 'hex') FROM generate_series(1, 60) i`},
	}
}

const types = `CREATE EXTENSION citext; CREATE TYPE temper AS ENUM ('z', 'a', 'm', 'it''s'); CREATE TYPE pair AS (n int, v text); CREATE DOMAIN german AS text COLLATE "de-x-icu";
	CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`

// The filter of a range selects the rows that trickle itself reads of that range, whatever the key's type, and in a session as Debezium has one and trickle has not.
func TestFilterSelectsExactlyTheRange(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	pool, err := postgres.Open(t.Context(), dsn, postgres.Options{Role: "source", Setting: "the test", MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if _, err := pool.Exec(t.Context(), types); err != nil {
		t.Fatal(err)
	}
	for i, c := range keyedTables() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			table := fmt.Sprintf("k%d", i)
			if _, err := pool.Exec(t.Context(), fmt.Sprintf(`CREATE TABLE %[1]s (%[2]s, v int, PRIMARY KEY (%[3]s)); INSERT INTO %[1]s SELECT s.*, row_number() OVER () FROM (%[4]s) s`, table, c.columns, c.key, c.rows)); err != nil {
				t.Fatal(err)
			}
			layout, err := postgres.NewSource(pool).Describe(t.Context(), postgres.Name{Schema: "public", Table: table}, postgres.Rules{Where: "v % 5 <> 0 OR false"})
			if err != nil {
				t.Fatal(err)
			}
			ends := []message.Key{nil}
			for _, row := range listed(t, pool, layout, message.Range{}) {
				ends = append(ends, row.Key)
			}
			// Ends of ranges need not be there any more.
			if _, err := pool.Exec(t.Context(), fmt.Sprintf(`DELETE FROM %s WHERE v %% 3 = 0`, table)); err != nil {
				t.Fatal(err)
			}
			session := foreign(t, dsn)
			rapid.Check(t, func(r *rapid.T) {
				rng := message.Range{Lo: rapid.SampledFrom(ends).Draw(r, "lo"), Hi: rapid.SampledFrom(ends).Draw(r, "hi")}
				var want []string
				for _, row := range listed(t, pool, layout, rng) {
					want = append(want, string(row.Values[len(row.Values)-1]))
				}
				slices.Sort(want)
				filter := debezium.Filter(layout.Schema, rng)
				if got := filtered(t, session, table, filter); !slices.Equal(got, want) {
					r.Fatalf("%s: the filter %s selects the rows %q, want %q", rng, filter, got, want)
				}
			})
		})
	}
}

// listed are the rows that trickle reads of a range.
func listed(t *testing.T, pool *pgxpool.Pool, layout *postgres.Layout, r message.Range) []postgres.Row {
	t.Helper()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	page, err := layout.Range(t.Context(), conn.Conn().PgConn(), r, 0, postgres.Want{Digest: digest.Record, Values: true})
	if err != nil {
		t.Fatal(err)
	}
	return page.Rows
}

// foreign is a session with settings of its own.
func foreign(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	if _, err := conn.Exec(t.Context(), `SET datestyle = 'German, DMY'; SET timezone = 'Asia/Kathmandu'; SET bytea_output = escape; SET standard_conforming_strings = off; SET backslash_quote = off; SET escape_string_warning = off`); err != nil {
		t.Fatal(err)
	}
	return conn
}

// filtered are the rows that a foreign session finds by a filter that stands, as Debezium puts it, behind another condition.
func filtered(t *testing.T, session *pgx.Conn, table, filter string) []string {
	t.Helper()
	sql := fmt.Sprintf(`SELECT v::text COLLATE "C" FROM public.%s WHERE v > 0 AND %s ORDER BY 1`, table, filter)
	rows, err := session.Query(t.Context(), sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return out
}
