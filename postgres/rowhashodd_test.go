package postgres_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/postgres"
)

// odd are values at the ends of what each type holds, by the column's declaration.
func odd() map[string][]string {
	nested := strings.Repeat("[", 900) + strings.Repeat("]", 900)
	numbers := []string{"0", "0.000", "-0.0", "1", "-1", "9999", "10000", "99999999", "1e4", "1e8", "1e-4", "1e-5", "0.0001", "123456789.00000000", "12345.6789", "-5871781006564002453.7046029254386353131"}
	wide := append(slices.Clone(numbers), "NaN", "Infinity", "-Infinity", "1e131071", "-1e131071", "1e-16383", "9e-16383", "1"+strings.Repeat("0", 4000)+".5")
	docs := []string{"{}", "[]", "[[]]", "[{}]", `{"": ""}`, `""`, "null", "[null]", "true", "false", "0", "-0", "-0.0", "0.00", "1.00", "1e400", "-1e-400", "1e1000", `"NULL 51c8a7c25a2d0f15"`, nested, strings.ReplaceAll(nested, "[]", `{"a": [1, {"b": null}]}`),
		`{"b": 1, "a": 2, "aa": 3, "A": 4, "é": 5}`, `"\u0001\b\f\n\r\t\"\\\/\u007f"`, `"\ud83d\ude00 😀 é"`, `[1, [2, [3]], {"x": [{}, [], ""]}]`, `{"` + strings.Repeat("k", 70000) + `": "` + strings.Repeat("v\\n", 40000) + `"}`}
	texts := []string{"", " ", "NULL 51c8a7c25a2d0f15", "\t\n\\", "é😀", "e\u0301", "ß", "STRASSE", strings.Repeat("x", 300000), strings.Repeat("é", 11), "exactly12byt", "thirteenbytes"}
	times := []string{"infinity", "-infinity", "4714-11-24 00:00:00 BC", "294276-12-31 23:59:59.999999", "1970-01-01 00:00:00", "2000-01-01 00:00:00.000001", "1999-12-31 23:59:59.999999"}
	floats := []string{"NaN", "-0", "0", "Infinity", "-Infinity", "1e-300", "1e300", "0.1", "-1"}
	return map[string][]string{
		"numeric": wide, "numeric(30,6)": append(slices.Clone(numbers), "NaN"), "numeric(8,-3)": {"0", "499", "12345678", "-99999999", "NaN"}, "numeric(6,9)": {"0", "0.000000001", "-0.000999999"}, "amount": wide,
		"int2": {"-32768", "32767", "0", "-1"}, "int4": {"-2147483648", "2147483647", "0", "-1"}, "int8": {"-9223372036854775808", "9223372036854775807", "4294967296", "-1", "5871781006564002453"}, "count": {"-9223372036854775808", "1", "0"},
		"text": texts, "varchar": texts, "varchar(40)": texts[:8], "label": texts, `text COLLATE "C"`: texts, "text COLLATE quiet": texts, "text COLLATE loud": texts,
		"jsonb": docs, "document": docs, "bytea": {`\x`, `\x00`, `\x0000000000000000000000`, `\x` + strings.Repeat("ff00", 200000), `\x80`}, "uuid": {"00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"},
		"date": {"infinity", "-infinity", "4714-11-24 BC", "5874897-12-31", "2000-01-01", "1999-12-31"}, "timestamp": times, "timestamptz": {"infinity", "-infinity", "4714-11-24 00:00:00+00 BC", "294276-12-31 23:59:59+00", "2000-01-01 00:00:00+14"},
		"time": {"00:00:00", "24:00:00", "23:59:59.999999"}, "timestamp(0)": times[4:], "oid": {"0", "4294967295", "2147483648"}, "bool": {"true", "false"}, "float8": append(slices.Clone(floats), "5e-324", "1.7976931348623157e308"),
		"float4": {"NaN", "-0", "0", "Infinity", "-Infinity", "1e-45", "3.4028235e38", "0.1"},
	}
}

// Values at the ends of what each type holds are digested here as the server digests them, NULL in every place, in domains and under any collation.
func TestOddRowsAreDigestedAsTheServerDoes(t *testing.T) {
	t.Parallel()
	values := odd()
	types := slices.Sorted(maps.Keys(values))
	for name, dsn := range map[string]string{"this version": pgtest.Database(t), "another version": pgtest.DatabaseOf(t, 18)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := open(t, dsn)
			columns := []string{"id int"}
			for n, typ := range types {
				columns = append(columns, fmt.Sprintf("c%d %s", n, typ))
			}
			exec(t, pool, "CREATE COLLATION quiet (provider = icu, locale = 'und-u-ks-level1', deterministic = false)", "CREATE COLLATION loud (provider = icu, locale = 'de-DE')",
				"CREATE DOMAIN amount AS numeric", "CREATE DOMAIN count AS int8", "CREATE DOMAIN short AS varchar", "CREATE DOMAIN label AS short", "CREATE DOMAIN document AS jsonb",
				"CREATE TABLE odd ("+strings.Join(columns, ", ")+", PRIMARY KEY (id))")
			l := describe(t, pool, "public.odd", postgres.Rules{})
			names, binary := l.Streamable()
			rapid.Check(t, func(t *rapid.T) {
				var rows []map[string]any
				for n := range rapid.IntRange(1, 8).Draw(t, "rows") {
					row := map[string]any{"id": n}
					for i, typ := range types {
						if rapid.IntRange(0, 3).Draw(t, "null") == 0 {
							continue
						}
						v := rapid.SampledFrom(values[typ]).Draw(t, typ)
						if typ == "jsonb" || typ == "document" {
							row[fmt.Sprintf("c%d", i)] = json.RawMessage(v)
						} else {
							row[fmt.Sprintf("c%d", i)] = v
						}
					}
					rows = append(rows, row)
				}
				data, err := json.Marshal(rows)
				if err != nil {
					t.Fatal(err)
				}
				conn, err := pool.Acquire(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Release()
				c := conn.Conn().PgConn()
				if _, err := c.Exec(context.Background(), "DELETE FROM odd; INSERT INTO odd SELECT * FROM json_populate_recordset(NULL::odd, "+postgres.Literal(string(data))+")").ReadAll(); err != nil {
					t.Fatalf("%.3000s: %v", data, err)
				}
				agrees(t, c, l, l.Exporter(postgres.ExportWant{Columns: names, Binary: binary, Digest: digest.Record}))
			})
		})
	}
}
