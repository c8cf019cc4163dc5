package postgres_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// Values are drawn from few parts, near one another, so that two of them are often equal and more often just not.

func integers() *rapid.Generator[string] {
	return rapid.OneOf(rapid.SampledFrom([]string{"0", "1", "-1", "2147483648", "-2147483648", "4294967295", "4294967296", "-4294967296", "9223372036854775807", "-9223372036854775808"}),
		rapid.Map(rapid.Int64(), func(n int64) string { return fmt.Sprint(n) }))
}

func numerics() *rapid.Generator[string] {
	return rapid.OneOf(rapid.SampledFrom([]string{"NaN", "Infinity", "-Infinity"}), rapid.Custom(func(t *rapid.T) string {
		sign := rapid.SampledFrom([]string{"", "-"}).Draw(t, "sign")
		digits := rapid.SampledFrom([]string{"0", "5", "12", "9999", "1234567890123"}).Draw(t, "digits")
		return sign + digits + rapid.SampledFrom([]string{"", "0000", ".0", ".00000", ".5", ".50", "e-4", "e-20", "e4", "e40"}).Draw(t, "magnitude")
	}))
}

func texts() *rapid.Generator[string] {
	return rapid.StringOfN(rapid.SampledFrom([]rune("a,{}\"\\ ;:üN日")), 0, 4, -1)
}

func dates() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		return rapid.SampledFrom([]string{"0044-03-15 01:02:03 BC", "infinity", "-infinity", "2024-01-01", "2024-01-01 00:00:00.000001", "2024-01-01 01:11:34.967296", "294276-01-01"}).Draw(t, "date")
	})
}

func ranges(of *rapid.Generator[string]) *rapid.Generator[string] {
	end := rapid.OneOf(of, rapid.Just(""))
	return rapid.OneOf(rapid.Just("empty"), rapid.Custom(func(t *rapid.T) string {
		return rapid.SampledFrom([]string{"[", "("}).Draw(t, "from") + end.Draw(t, "lower") + "," + end.Draw(t, "upper") + rapid.SampledFrom([]string{"]", ")"}).Draw(t, "to")
	}))
}

func arrays(of *rapid.Generator[string]) *rapid.Generator[string] {
	element := rapid.OneOf(rapid.Just("NULL"), rapid.Map(of, func(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }))
	return rapid.Custom(func(t *rapid.T) string {
		elements := rapid.SliceOfN(element, 0, 3).Draw(t, "elements")
		list := "{" + strings.Join(elements, ",") + "}"
		if len(elements) == 0 {
			return list
		}
		return rapid.SampledFrom([]string{list, list, "{" + list + "}", fmt.Sprintf("[0:%d]=%s", len(elements)-1, list), "{{" + strings.Join(elements, "},{") + "}}"}).Draw(t, "shape")
	})
}

// For any two values, the digests are the same just where the type calls the values equal, in one database and between two.
func TestDigestsAreEqualWhereValuesAre(t *testing.T) {
	t.Parallel()
	a, b := fresh(t), fresh(t, "CREATE TYPE junk AS ENUM ('x')")
	for i, c := range []struct {
		typ    string
		values *rapid.Generator[string]
	}{
		{"int8", integers()}, {"numeric", numerics()}, {"text", texts()}, {"varchar", texts()}, {"timestamptz", dates()}, {"timestamp", dates()}, {"float8", rapid.OneOf(numerics(), rapid.Just("-0"))}, {"bpchar", texts()},
		{"int8[]", arrays(integers())}, {"numeric[]", arrays(numerics())}, {"text[]", arrays(texts())}, {"float8[]", arrays(rapid.SampledFrom([]string{"0", "-1", "1", "NaN"}))}, {"timestamptz[]", arrays(dates())},
		{"int8range", ranges(integers())}, {"numrange", ranges(numerics())}, {"tstzrange", ranges(rapid.Map(dates(), func(s string) string { return `"` + s + `"` }))}, {"numrange[]", arrays(ranges(numerics()))},
		{"nummultirange", rapid.Map(ranges(numerics()), func(s string) string { return "{" + s + "}" })}, {"jsonb", rapid.Map(rapid.SampledFrom([]string{"1", "1.0", "0", "0e3", "1e4", "10000", `"1"`, "null", "true", `""`}), func(s string) string { return `{"a": ` + s + `}` })},
		{"interval", rapid.SampledFrom([]string{"0", "1 month", "30 days", "720:00:00", "-1 day", "1 day", "1 month -30 days", "178000000 years"})}, {"timetz", rapid.SampledFrom([]string{"00:00+00", "01:00+01", "24:00+00", "00:00+01", "01:11:34.967296+00"})},
		{"time", rapid.SampledFrom([]string{"00:00", "24:00", "01:11:34", "00:00:00.000001"})}, {"inet", rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.1/8", "10.0.0.1/32", "::10.0.0.1", "::a00:1/128"})}, {"varbit", rapid.SampledFrom([]string{"", "0", "00", "1", "10"})},
		{"date[]", arrays(rapid.SampledFrom([]string{"2000-01-01", "2000-01-02", "infinity"}))}, {"bytea", rapid.SampledFrom([]string{"", `\x00`, `\x0000`, "a"})}, {"int4multirange", rapid.Map(ranges(rapid.SampledFrom([]string{"1", "2", "3", "-1"})), func(s string) string { return "{" + s + "}" })},
	} {
		t.Run(c.typ, func(t *testing.T) {
			t.Parallel()
			table := fmt.Sprintf("v%d", i)
			exec(t, a, fmt.Sprintf("CREATE TABLE %s (id int PRIMARY KEY, v %s, w int DEFAULT 1)", table, c.typ))
			exec(t, b, fmt.Sprintf("CREATE TABLE %s (w int DEFAULT 1, v %s, id int PRIMARY KEY)", table, c.typ))
			rules := postgres.Rules{Compare: map[string]string{"id": "bool"}} // all keys are one, so that the digest is the value's
			la := describe(t, a, "public."+table, rules)
			lb := fit(t, b, "public."+table, la, rules)
			on(t, a, func(ca *pgconn.PgConn) {
				on(t, b, func(cb *pgconn.PgConn) {
					rapid.Check(t, func(t *rapid.T) {
						values := rapid.SliceOfN(c.values, 12, 12).Draw(t, "values")
						script := "DELETE FROM " + table + "; INSERT INTO " + table + " (id, v) VALUES (100, NULL)"
						for n, value := range values {
							script += fmt.Sprintf("; DO $do$ BEGIN INSERT INTO %s (id, v) VALUES (%d, '%s'); EXCEPTION WHEN data_exception THEN NULL; END $do$", table, n+1, strings.ReplaceAll(value, "'", "''")) // a range may be the wrong way round
						}
						digests := make(map[digest.Kind]map[string]uint64)
						for _, side := range []struct {
							c *pgconn.PgConn
							l *postgres.Layout
						}{{ca, la}, {cb, lb}} {
							if _, err := side.c.Exec(context.Background(), script).ReadAll(); err != nil {
								t.Fatal(err)
							}
							for _, kind := range []digest.Kind{digest.Record, digest.Portable} {
								page, err := side.l.Range(context.Background(), side.c, message.Range{}, 0, postgres.Want{Digest: kind})
								if err != nil {
									t.Fatal(err)
								}
								if digests[kind] == nil {
									digests[kind] = make(map[string]uint64)
								}
								for _, row := range page.Rows {
									if there, ok := digests[kind][row.Key[0]]; ok && there != row.Digest {
										t.Fatalf("%s: number %s differs between two databases", kind, row.Key[0])
									}
									digests[kind][row.Key[0]] = row.Digest
								}
							}
						}
						result := ca.ExecParams(context.Background(), fmt.Sprintf("SELECT x.id, y.id, x.v IS NOT DISTINCT FROM y.v, x.v::text, y.v::text FROM %[1]s x JOIN %[1]s y ON x.id < y.id", table), nil, nil, nil, nil).Read()
						if result.Err != nil {
							t.Fatal(result.Err)
						}
						for _, r := range result.Rows {
							equal := string(r[2]) == "t"
							if same := digests[digest.Record][string(r[0])] == digests[digest.Record][string(r[1])]; same != equal {
								t.Fatalf("record: %q and %q: equal %v, one digest %v", r[3], r[4], equal, same)
							}
							// Of what is equal, some have several texts: then portable is the stricter.
							if digests[digest.Portable][string(r[0])] == digests[digest.Portable][string(r[1])] && !equal {
								t.Fatalf("portable: %q and %q have one digest", r[3], r[4])
							}
						}
					})
				})
			})
		})
	}
}
