package workload

import (
	"fmt"
	"strings"
)

// Type is a column's type with some of its values, as text.
type Type struct {
	Name   string
	Values []string
}

// TypeSchema creates what CommonTypes need.
const TypeSchema = `CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree; CREATE TYPE colour AS ENUM ('red', 'blue', 'it''s "\'); CREATE DOMAIN shade AS text;`

// CommonTypes are those that tables are made of, each with two values or more that Debezium and its JDBC sink carry as they are. What they lose is
// under LostTypes.
func CommonTypes() []Type {
	return []Type{
		{"bool", []string{"t", "f"}}, {"int2", []string{"-1", "32767"}}, {"int4", []string{"-1", "1"}}, {"int8", []string{"-1", "4294967296"}}, {"float4", []string{"1.1", "-0.1"}},
		{"float8", []string{"1.1", "3.141592653589793"}}, {"numeric(12,2)", []string{"1.10", "-99.99"}}, {"numeric", []string{"1.10", "123456789012345678901234567890.123456789", "NaN"}},
		{"text", []string{"", "ü'\"\\", strings.Repeat("x", 5000)}}, {"varchar(20)", []string{"a ", "b"}}, {"char(5)", []string{"a", "abc"}}, {"bytea", []string{"", `\x00ff`}},
		{"date", []string{"2024-02-29", "1999-12-31"}}, {"time", []string{"00:00", "23:59:59.999999"}}, {"timestamp", []string{"2024-02-29 01:02:03.000001", "1970-01-01"}},
		{"timestamptz", []string{"2024-02-29 01:02:03.000001+00", "1970-01-01 00:00+02", "infinity", "-infinity", "0044-03-15 01:02:03+00 BC"}},
		{"interval", []string{"1 day", "-00:00:01.5", "1 year 2 months 3 days 04:05:06.7"}}, {"uuid", []string{"00112233-4455-6677-8899-aabbccddeeff", "00000000-0000-0000-0000-000000000000"}},
		{"json", []string{`{"a": 1,  "a": 2}`, `[1, "ü"]`}}, {"jsonb", []string{`{"a": 5}`, `null`}}, {"xml", []string{"<a/>", "<b>ü</b>"}}, {"inet", []string{"10.0.0.1", "::1/64"}},
		{"cidr", []string{"10.0.0.0/8", "10.0.0.0/16"}}, {"macaddr", []string{"08:00:2b:01:02:03", "08:00:2b:01:02:04"}}, {"bit(8)", []string{"00000001", "10101010"}}, {"money", []string{"$5.00", "-$5.00"}},
		{"colour", []string{"red", `it's "\`}}, {"shade", []string{"red", "blue"}}, {"int4range", []string{"empty", "[1,3)"}}, {"numrange", []string{"[1.5,2]", "(,3)"}},
		{"tstzrange", []string{"[2024-01-01 00:00+00,2024-01-02 00:00+00)", "(,)"}}, {"daterange", []string{"[2024-01-01,)", "empty"}}, {"int4[]", []string{"{1,2,NULL}", "{}"}},
		{"int8[]", []string{"{4294967296}", "{1}"}}, {"text[]", []string{`{a,"b,\"c",NULL}`, "{}"}}, {"float8[]", []string{"{1.5,2}", "{}"}}, {"bool[]", []string{"{t,f}", "{t}"}},
		{"uuid[]", []string{"{00112233-4455-6677-8899-aabbccddeeff}", "{}"}}, {"jsonb[]", []string{`{"{\"a\": 1}"}`, "{}"}}, {"hstore", []string{`"a"=>"1"`, `"a"=>"2"`}}, {"citext", []string{"a", "B"}},
		{"ltree", []string{"a.b", "a"}}, {"tsvector", []string{"'a':1", "'a':2"}}, {"oid", []string{"1", "4294967295"}},
	}
}

// LostTypes are types with values that Debezium and its JDBC sink take without a complaint and write otherwise.
func LostTypes() []Type {
	return []Type{
		{"float8", []string{"NaN", "Infinity"}}, {"date", []string{"infinity", "0044-03-15 BC"}}, {"timestamp", []string{"infinity"}}, {"timetz", []string{"02:00+01"}}, {"varbit(20)", []string{"0110110111"}},
		{"int4multirange", []string{"{[1,2)}"}}, {"int4[]", []string{"{{1,2},{3,4}}"}}, {"hstore", []string{`"a"=>NULL`}}, {"box", []string{"(1,1),(0,0)"}},
	}
}

// Columns declares a column for each type, called c0, c1 and so on.
func Columns(types []Type) string {
	columns := make([]string, len(types))
	for i, t := range types {
		columns[i] = fmt.Sprintf("c%d %s", i, t.Name)
	}
	return strings.Join(columns, ", ")
}

// Row writes the n-th value of each type, from the front again behind the last, as a list for VALUES.
func Row(types []Type, n int) string {
	values := make([]string, len(types))
	for i, t := range types {
		values[i] = "'" + strings.ReplaceAll(t.Values[n%len(t.Values)], "'", "''") + "'"
	}
	return strings.Join(values, ", ")
}
