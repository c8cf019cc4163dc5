package postgres_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// Rows of any values are digested here as the server digests them, in both versions.
func TestRowsAreDigestedAsTheServerDoes(t *testing.T) {
	t.Parallel()
	for name, dsn := range map[string]string{"this version": pgtest.Database(t), "another version": pgtest.DatabaseOf(t, 18)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := open(t, dsn)
			columns := []string{"id int2", "i4 int4", "i8 int8", "num numeric", "num2 numeric(20,4)", "txt text", "vc varchar", "js jsonb", "ts timestamptz", "f8 float8", "f4 float4", "b bytea", "u uuid", "yes bool", "d date"}
			for n := range 20 { // into a second chain
				columns = append(columns, fmt.Sprintf("t%d text", n))
			}
			exec(t, pool, "CREATE TABLE wide ("+strings.Join(columns, ", ")+", PRIMARY KEY (id))", "CREATE TABLE narrow (id int8 PRIMARY KEY, js jsonb)", "CREATE TABLE plain (u uuid PRIMARY KEY, js jsonb)")
			for _, table := range []string{"wide", "narrow", "plain"} {
				l := describe(t, pool, "public."+table, postgres.Rules{})
				names, binary := l.Streamable()
				rapid.Check(t, func(t *rapid.T) {
					var rows []map[string]any
					for n := range rapid.IntRange(1, 40).Draw(t, "rows") {
						rows = append(rows, map[string]any{
							"id": n - 7, "u": fmt.Sprintf("00112233-4455-6677-8899-aabbccdd%04x", n), "js": document(3).Draw(t, "js"), "i4": maybe(t, rapid.Int32()), "i8": maybe(t, rapid.Int64()), "num": maybe(t, number(60)),
							"num2": maybe(t, number(15)), "txt": maybe(t, word()), "vc": maybe(t, word()), "f8": maybe(t, rapid.Float64()), "yes": maybe(t, rapid.Bool()),
							"ts": maybe(t, rapid.SampledFrom([]string{"2024-02-29 01:02:03.000001+00", "infinity", "-infinity", "4713-01-01 00:00:00+00 BC"})), "f4": maybe(t, rapid.SampledFrom([]string{"NaN", "-0", "1.1", "-Infinity"})),
							"b": maybe(t, rapid.SampledFrom([]string{`\x`, `\x00`, `\x000102030405060708090a0b`, `\x000102030405060708090a0b0c`})), "d": maybe(t, rapid.SampledFrom([]string{"2024-02-29", "infinity", "0044-03-15 BC"})),
							"t0": maybe(t, word()), "t9": maybe(t, word()), "t19": maybe(t, word()),
						})
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
					script := fmt.Sprintf("DELETE FROM %s; INSERT INTO %s SELECT * FROM json_populate_recordset(NULL::%s, %s)", table, table, table, postgres.Literal(string(data)))
					if _, err := c.Exec(context.Background(), script).ReadAll(); err != nil {
						t.Fatalf("%s: %v", data, err)
					}
					agrees(t, c, l, l.Exporter(postgres.ExportWant{Columns: names, Binary: binary, Digest: digest.Record}))
				})
			}
		})
	}
}

func agrees(t *rapid.T, c *pgconn.PgConn, l *postgres.Layout, e *postgres.Exporter) {
	ctx := context.Background()
	var out strings.Builder
	got, err := e.Export(ctx, c, message.Range{}, &out)
	if err != nil {
		t.Fatal(err)
	}
	want, err := l.Thumbprint(ctx, c, message.Range{}, nil, digest.Record)
	if err != nil || got.Print != want || !e.Here() {
		t.Fatalf("exported %+v of %+v, digested here: %t, %v", got.Print, want, e.Here(), err)
	}
}

func maybe[V any](t *rapid.T, g *rapid.Generator[V]) any {
	if rapid.IntRange(0, 4).Draw(t, "null") == 0 {
		return nil
	}
	return g.Draw(t, "value")
}

// number is a decimal of up to so many digits before and behind its point.
func number(digits int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		sign := rapid.SampledFrom([]string{"", "-"}).Draw(t, "sign")
		whole := rapid.StringMatching(fmt.Sprintf("[1-9][0-9]{0,%d}|0|[1-9]0{0,%d}", digits, digits)).Draw(t, "whole")
		return sign + whole + rapid.StringMatching(fmt.Sprintf(`|\.[0-9]{1,%d}|\.0{1,12}[1-9]`, digits)).Draw(t, "fraction")
	})
}

// word is a text without the one character that Postgres has none of.
func word() *rapid.Generator[string] {
	return rapid.Map(rapid.String(), func(s string) string { return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "?") })
}

// document is a value in JSON.
func document(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		kinds := 6
		if depth == 0 {
			kinds = 4
		}
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			return word().Draw(t, "word")
		case 1:
			return json.Number(number(30).Draw(t, "number"))
		case 2:
			return rapid.Bool().Draw(t, "bool")
		case 3:
			return nil
		case 4:
			return rapid.MapOfN(word(), document(depth-1), 0, 5).Draw(t, "object")
		default:
			return rapid.SliceOfN(document(depth-1), 0, 4).Draw(t, "array")
		}
	})
}
