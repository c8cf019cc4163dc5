package postgres_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// keyed is a table by its key's columns and the rows it holds.
type keyed struct{ name, columns, key, rows string }

func keyedTables() []keyed {
	words := `VALUES (''), (' '), ('a'), ('A'), ('ä'), ('a b'), ('a-b'), ('ab'), ('b''"\,{}'), ('NULL'), ('Z'), ('ß'), ('ss'), ('日本'), ('~'), ('_'), ('10'), ('9'), (repeat('x', 900)), (E'\n')`
	one := func(name, typ, rows string) keyed { return keyed{name, "a " + typ, "a", rows} }
	return []keyed{
		one("bigint", "int8", "VALUES (-9223372036854775808), (-4294967296), (-1), (0), (1), (4294967295), (4294967296), (9223372036854775807)"), one("smallint", "int2", "SELECT i * 1000 FROM generate_series(-30, 30) i"),
		{"heavy skew", "a int, b int", "a, b", "SELECT CASE WHEN i < 40 THEN 7 ELSE i END, i FROM generate_series(1, 45) i"}, one("huge gaps", "int8", "SELECT CASE WHEN i < 20 THEN i ELSE i * 1000000000000 END FROM generate_series(1, 25) i"),
		one("uuid", "uuid", "SELECT md5(i::text)::uuid FROM generate_series(1, 40) i"), one("text in C", `text COLLATE "C"`, words), one("text in the database's collation", "text", words), one("text in English", `text COLLATE "en-x-icu"`, words),
		one("text without case", "text COLLATE nocase", "VALUES ('a'), ('B'), ('c d'), ('Ä'), ('')"), one("text sorted as numbers", "text COLLATE numbers", words), one("varchar", "varchar(1000)", words), one("char", "char(4)", "VALUES (''), ('a'), ('ab'), (' a')"),
		one("name", "name", "VALUES ('a'), ('B'), ('ü')"), one("citext", "citext", "VALUES ('a'), ('B'), ('c')"), one("domain with a collation", "german", words), one("domain with another collation", `german COLLATE "C"`, words),
		one("timestamptz", "timestamptz", "VALUES ('-infinity'::timestamptz), ('infinity'), ('2024-01-01 00:00:00.000001+00'), ('2024-01-01 00:00+00'), ('0044-01-01 00:00+00 BC')"), one("timestamp", "timestamp", "VALUES ('-infinity'::timestamp), ('infinity'), ('2024-01-01'), ('0044-01-01 BC')"),
		one("numeric", "numeric", "VALUES (-1.50), (0), (1.0), (1.01), (1e20), (-1e-20), ('NaN'), ('Infinity'), ('-Infinity')"), one("float", "float8", "VALUES (-1.5::float8), ('-0'), (1.1), (0.1::float8 + 0.2::float8), (0.3), (5e-324), ('NaN'), ('-Infinity'), ('Infinity')"),
		one("real", "float4", "VALUES (1.1::float4), (0.1), (16777217), ('NaN')"), one("bytea", "bytea", `VALUES (''::bytea), ('\x00'), ('\x0000'), ('\xff'), ('\x61')`), one("date", "date", "VALUES ('infinity'::date), ('-infinity'), ('2024-02-29'), ('0044-03-15 BC')"),
		one("interval", "interval", "VALUES ('1 month'::interval), ('29 days'), ('-1 day'), ('0')"), one("time", "time", "VALUES ('24:00'::time), ('00:00'), ('12:00:00.000001')"), one("timetz", "timetz", "VALUES ('01:00+00'::timetz), ('02:00+01'), ('00:30-02')"),
		one("enum", "temper", "VALUES ('z'::temper), ('a'), ('m'), ('it''s')"), one("bool", "bool", "VALUES (true), (false)"), one("inet", "inet", "VALUES ('10.0.0.1'::inet), ('10.0.0.1/8'), ('::1')"), one("oid", "oid", "VALUES (0::oid), (4294967295)"),
		one("range", "int4range", "VALUES ('empty'::int4range), ('[1,3)'), ('(,)'), ('[1,)')"), one("multirange", "int4multirange", "VALUES ('{}'::int4multirange), ('{[1,3)}')"), one("array", "int4[]", "VALUES ('{}'::int4[]), ('{1,2}'), ('{1}'), ('{NULL}'), ('{2}')"),
		one("array of text", "text[]", `VALUES ('{}'::text[]), ('{"a,b"}'), ('{a,b}'), ('{NULL}'), ('{"NULL"}'), ('{"\\\""}')`), one("composite type", "pair", "VALUES ('(1,a)'::pair), ('(1,b)'), ('(2,a)'), ('(,)')"), one("jsonb", "jsonb", `VALUES ('1'::jsonb), ('"a"'), ('[]'), ('{"a": 1}'), ('null')`),
		one("bit", "varbit", "VALUES (''::varbit), ('0'), ('00'), ('1')"), one("money", "money", "VALUES ('-$1.00'::money), ('$1234.50')"), one("pg_lsn", "pg_lsn", "VALUES ('0/1'::pg_lsn), ('1/0'), ('1/1')"), one("tsvector", "tsvector", "VALUES ('a'::tsvector), ('b'), ('')"),
		{"(1, 11) and (11, 1)", "a int, b int", "a, b", "VALUES (1, 11), (11, 1), (1, 1), (11, 11)"}, {"another order than the columns'", "a int, b text, c date", "c, a", "SELECT i % 3, 'x', date '2024-01-01' + i FROM generate_series(1, 20) i"},
		{"eight columns", `a int8, b text COLLATE "en-x-icu", c uuid, d timestamptz, e numeric, f temper, g bool, h bytea`, "h, g, f, e, d, c, b, a",
			`SELECT i % 2 - 1, chr(97 + i % 3), md5((i % 4)::text)::uuid, timestamptz '2024-01-01 00:00+00' + i % 2 * interval '1 us', i % 3 - 1.5, (ARRAY['z', 'a'])[1 + i % 2]::temper, i % 2 = 0, decode(to_hex(16 + i), 'hex') FROM generate_series(1, 60) i`},
		one("one row", "int", "VALUES (1)"), one("no rows", "int", "SELECT 1 WHERE false"),
	}
}

// Ranges cut anywhere, at keys that exist or not, hold each row once, and every key reads back from its text.
func TestKeysOfEveryType(t *testing.T) {
	t.Parallel()
	pool := fresh(t, `CREATE EXTENSION citext; CREATE TYPE temper AS ENUM ('z', 'a', 'm', 'it''s'); CREATE TYPE pair AS (n int, v text); CREATE DOMAIN german AS text COLLATE "de-x-icu";
		CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false); CREATE COLLATION numbers (provider = icu, locale = 'en-u-kn-true')`)
	for i, c := range keyedTables() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			table := fmt.Sprintf("k%d", i)
			exec(t, pool, fmt.Sprintf(`CREATE TABLE %[1]s (%[2]s, v int, PRIMARY KEY (%[3]s)); INSERT INTO %[1]s SELECT s.*, row_number() OVER () FROM (%[4]s) s`, table, c.columns, c.key, c.rows))
			l := describe(t, pool, "public."+table, postgres.Rules{})
			all := read(t, pool, l, message.Range{}, postgres.Want{Digest: digest.Record})
			exec(t, pool, fmt.Sprintf(`DELETE FROM %s WHERE v %% 3 = 0`, table)) // their keys are ends of ranges all the same
			rows := read(t, pool, l, message.Range{}, postgres.Want{Digest: digest.Record})
			if len(all) > 2 && len(rows) >= len(all) {
				t.Fatal("nothing was deleted")
			}
			on(t, pool, func(conn *pgconn.PgConn) {
				rapid.Check(t, func(t *rapid.T) { cut(t, conn, l, all, rows) })
			})
		})
	}
}

// cut divides a table at random keys of all and holds the parts against its rows.
func cut(t *rapid.T, conn *pgconn.PgConn, l *postgres.Layout, all, rows []postgres.Row) {
	ctx := t.Context()
	kind := rapid.SampledFrom([]digest.Kind{digest.Record, digest.Portable}).Draw(t, "kind")
	want, err := l.Thumbprint(ctx, conn, message.Range{}, nil, kind)
	if err != nil || want.Rows != uint64(len(rows)) {
		t.Fatalf("%+v of %d rows, %v", want, len(rows), err)
	}
	var sum, listed digest.Thumbprint
	var found []message.Key
	part := func(r message.Range) {
		print, err := l.Thumbprint(ctx, conn, r, nil, kind)
		if err != nil {
			t.Fatalf("%s: %v", r, err)
		}
		sum = sum.Add(print)
		page, err := l.Range(ctx, conn, r, 0, postgres.Want{Digest: kind})
		if err != nil {
			t.Fatalf("%s: %v", r, err)
		}
		for _, row := range page.Rows {
			listed = listed.Row(row.Digest)
			found = append(found, row.Key)
		}
	}
	lo := message.Key(nil)
	for _, row := range all {
		if rapid.IntRange(0, 3).Draw(t, "cut here") == 0 {
			part(message.Range{Lo: lo, Hi: row.Key})
			lo = row.Key
		}
	}
	part(message.Range{Lo: lo})
	if sum != want || listed != want {
		t.Fatalf("parts %+v, their rows %+v, whole %+v", sum, listed, want)
	}
	if !slices.EqualFunc(found, rows, func(k message.Key, r postgres.Row) bool { return slices.Equal(k, r.Key) }) {
		t.Fatalf("the parts' keys are %v", found)
	}
	if len(all) == 0 {
		return
	}
	var keys []message.Key
	for _, row := range rapid.SliceOfN(rapid.SampledFrom(all), 1, 8).Draw(t, "keys") {
		keys = append(keys, row.Key)
	}
	byKey, err := l.Rows(ctx, conn, keys, postgres.Want{Digest: digest.Record})
	if err != nil {
		t.Fatal(err)
	}
	for i, row := range byKey {
		n := slices.IndexFunc(rows, func(r postgres.Row) bool { return slices.Equal(r.Key, keys[i]) })
		if row.Present != (n >= 0) || n >= 0 && row.Digest != rows[n].Digest {
			t.Fatalf("%s by its key: %+v, want number %d of %+v", keys[i], row, n, rows)
		}
	}
}
