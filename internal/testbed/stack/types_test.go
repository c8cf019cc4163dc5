package stack_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/internal/testbed/kafka"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/internal/testbed/stack"
)

// survive are the common types with values that the pipeline carries as they are, under the settings of deploy/compose. What docs/operating.md says that
// it loses is not among them.
func survive() [][]string {
	return [][]string{
		{"bool", "t", "f"}, {"int2", "-1", "32767"}, {"int4", "-1", "1"}, {"int8", "-1", "4294967296"}, {"float4", "1.1", "-0.1"}, {"float8", "1.1", "3.141592653589793"},
		{"numeric(12,2)", "1.10", "-99.99"}, {"numeric", "1.10", "123456789012345678901234567890.123456789", "NaN"}, {"text", "", "ü'\"\\", strings.Repeat("x", 10000)}, {"varchar(20)", "a ", "b"}, {"char(5)", "a", "abc"},
		{"bytea", "", `\x00ff`}, {"date", "2024-02-29", "1999-12-31"}, {"time", "00:00", "23:59:59.999999"}, {"timestamp", "2024-02-29 01:02:03.000001", "1970-01-01"},
		{"timestamptz", "2024-02-29 01:02:03.000001+00", "1970-01-01 00:00+02", "infinity", "-infinity", "0044-03-15 01:02:03+00 BC"}, {"interval", "1 day", "-00:00:01.5", "1 year 2 months 3 days 04:05:06.7"},
		{"uuid", "00112233-4455-6677-8899-aabbccddeeff"}, {"json", `{"a": 1,  "a": 2}`, `[1, "ü"]`}, {"jsonb", `{"a": 5}`, `null`}, {"xml", "<a/>", "<b>ü</b>"}, {"inet", "10.0.0.1", "::1/64"}, {"cidr", "10.0.0.0/8"},
		{"macaddr", "08:00:2b:01:02:03"}, {"bit(8)", "00000001", "10101010"}, {"money", "$5.00", "-$5.00"}, {"colour", "red", `it's "\`}, {"shade", "red"}, {"int4range", "empty", "[1,3)"}, {"numrange", "[1.5,2]", "(,3)"},
		{"tstzrange", "[2024-01-01 00:00+00,2024-01-02 00:00+00)", "(,)"}, {"daterange", "[2024-01-01,)"}, {"int4[]", "{1,2,NULL}", "{}"}, {"int8[]", "{4294967296}"}, {"text[]", `{a,"b,\"c",NULL}`, "{}"}, {"float8[]", "{1.5,2}"},
		{"bool[]", "{t,f}"}, {"uuid[]", "{00112233-4455-6677-8899-aabbccddeeff}"}, {"jsonb[]", `{"{\"a\": 1}"}`}, {"hstore", `"a"=>"1"`}, {"citext", "a", "B"}, {"ltree", "a.b"}, {"tsvector", "'a':1"}, {"oid", "4294967295"},
	}
}

func quote(v string) string { return "'" + strings.ReplaceAll(v, "'", "''") + "'" }

// Every common type arrives as it was, by the first copy and by the log, and so does a value that an update left alone and that Postgres keeps apart (TOAST).
func TestCommonTypesSurvive(t *testing.T) {
	t.Parallel()
	source, replica := pgtest.Database(t), pgtest.Database(t)
	types := survive()
	var columns []string
	rows := 0
	for i, ty := range types {
		columns = append(columns, fmt.Sprintf("c%d %s", i, ty[0]))
		rows = max(rows, len(ty))
	}
	for _, dsn := range []string{source, replica} {
		exec(t, dsn, heartbeat, `CREATE EXTENSION hstore`, `CREATE EXTENSION citext`, `CREATE EXTENSION ltree`, `CREATE TYPE colour AS ENUM ('red', 'blue', 'it''s "\')`, `CREATE DOMAIN shade AS text`,
			`CREATE TABLE wide (id int PRIMARY KEY, n int NOT NULL, big text, `+strings.Join(columns, ", ")+`)`)
	}
	exec(t, source, `ALTER TABLE wide ALTER big SET STORAGE EXTERNAL`)
	fill := func(from int) {
		for row := range rows { // the last is NULLs only
			values := []string{fmt.Sprint(from + row), "0", "repeat('big', 10000)"}
			for _, ty := range types {
				value := "NULL"
				if row < rows-1 {
					value = quote(ty[1+row%(len(ty)-1)])
				}
				values = append(values, value)
			}
			exec(t, source, "INSERT INTO wide VALUES ("+strings.Join(values, ", ")+")")
		}
	}
	fill(0)
	s := stack.Start(t, kafka.Options{})
	s.Source("shop", source, []string{"public.wide"}, nil).Sink("sink", replica, nil)
	all := func() []string {
		same := []string{`SELECT string_agg(concat_ws(' ', id, n, md5(big)), ', ' ORDER BY id) FROM wide`}
		for i, ty := range types {
			same = append(same, fmt.Sprintf(`SELECT %s || string_agg(concat_ws(' ', id, c%d::text), ', ' ORDER BY id) FROM wide`, quote(ty[0]+": "), i))
		}
		return same
	}
	for query := range slices.Values(all()) {
		equal(t, source, replica, query)
	}
	fill(100)
	exec(t, source, `UPDATE wide SET n = 1`)
	for query := range slices.Values(all()) {
		equal(t, source, replica, query)
	}
}
