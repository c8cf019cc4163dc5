package policy

import (
	"bytes"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// The schema and Parse agree on structure.
func TestSchemaAgreesWithParse(t *testing.T) {
	t.Parallel()
	src, err := JSONSchema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(src))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("policy.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("policy.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		valid bool
		src   string
	}{
		{true, complete},
		{true, minimal},
		{true, minimal + "gate: {heartbeat: false}"},
		{true, minimal + "gate: {heartbeat: {table: a.b, interval: 5s}}"},
		{true, minimal + "rate: {source_share: 0.02, bytes_per_second: 1000}"},
		{true, minimal + "detect: {brake: {deletes: 0}}"},
		{true, minimal + "quiet: 0s"},
		{true, "pipeline: orders\ntables: [{table: '\"My Schema\".\"a.b\"'}]"},
		{false, "tables: [{table: a.b}]"},
		{false, "pipeline: orders"},
		{false, "pipeline: orders\ntables: []"},
		{false, "pipeline: a/b\ntables: [{table: a.b}]"},
		{false, "pipeline: 7\ntables: [{table: a.b}]"},
		{false, "pipeline: orders\ntables: [{table: orders}]"},
		{false, "pipeline: orders\ntables: [{mode: rows}]"},
		{false, "pipeline: orders\ntables: [{table: a.b, mode: fast}]"},
		{true, "pipeline: orders\ntables: [{table: a.b, jsonb: text}]"},
		{false, "pipeline: orders\ntables: [{table: a.b, jsonb: bytes}]"},
		{false, "pipeline: orders\ntables: [{table: a.b, where: 1}]"},
		{false, "pipeline: orders\ntables: [{table: a.b, columns: {exclude: c}}]"},
		{false, "pipeline: orders\ntables: [{table: a.b, columns: {compare: {c: ''}}}]"},
		{true, "pipeline: orders\ntables: [{table: a.b, where: 'c = 1', replica_where: 'd = 1', columns: {rename: {c: d, x y: c}}}]"},
		{false, "pipeline: orders\ntables: [{table: a.b, where: 'c = 1', replica_where: ''}]"},
		{false, "pipeline: orders\ntables: [{table: a.b, columns: {rename: [c]}}]"},
		{false, "pipeline: orders\ntables: [{table: a.b, columns: {rename: {c: ''}}}]"},
		{false, "pipeline: orders\ntables: [{table: a.b, columns: {rename: {'': c}}}]"},
		{false, "pipeline: orders\ntables: [{table: a.b, columns: {rename: {c: 1}}}]"},
		{false, minimal + "quite: 5m"},
		{false, minimal + "quiet:"},
		{false, minimal + "quiet: 10"},
		{false, minimal + "quiet: soon"},
		{false, minimal + "max_staleness: 0s"},
		{true, minimal + "detect: {journal: 400d}"},
		{true, minimal + "detect: {journal: forever}"},
		{false, minimal + "detect: {journal: 0d}"},
		{false, minimal + "detect: {journal: ever}"},
		{false, minimal + "detect: {journal: 90}"},
		{false, minimal + "quiet: forever"},
		{false, minimal + "range_rows: 0"},
		{false, minimal + "range_rows: 1.5"},
		{false, minimal + "rate: {rows_per_second: 0}"},
		{false, minimal + "rate: {bytes_per_second: 0}"},
		{false, minimal + "rate: {bytes_per_second: 0kB}"},
		{false, minimal + "rate: {source_share: 101%}"},
		{false, minimal + "rate: {source_share: 0}"},
		{false, minimal + "rate: {source_share: 0.0%}"},
		{false, minimal + "rate: {source_share: 2}"},
		{true, minimal + "gate: {heartbeat: {in_commit_order: true}}"},
		{false, minimal + "gate: {heartbeat: {in_commit_order: often}}"},
		{false, minimal + "gate: {heartbeat: often}"},
		{false, minimal + "gate: {heartbeat: {tables: a.b}}"},
		{false, minimal + "gate: {heartbeat: {interval: 0s}}"},
		{true, minimal + "gate: {slot: debezium_1, group: connect-orders-sink}"},
		{false, minimal + "gate: {slot: Debezium}"},
		{false, minimal + "gate: {slot: " + strings.Repeat("a", 64) + "}"},
		{false, minimal + "schedule: {windows: [{start: '0 22 * * *'}]}"},
		{false, minimal + "detect: [1]"},
		{false, minimal + "privacy: {keys: perhaps}"},
		{true, minimal + "tracing: {sample: 0.5%, link: 'https://jaeger.example/trace/{trace_id}?x=1'}"},
		{true, minimal + "tracing: {sample: 0}"},
		{false, minimal + "tracing: {sample: 101%}"},
		{false, minimal + "tracing: {link: 'https://jaeger.example/trace/'}"},
		{false, minimal + "tracing: {link: 'ftp://jaeger.example/{trace_id}'}"},
		{false, minimal + "tracing: {link: 'javascript:alert(1)//{trace_id}'}"},
		{false, minimal + "tracing: {link: 'https://jaeger.example/a b/{trace_id}'}"},
	} {
		var v any
		if err := yaml.Unmarshal([]byte(s.src), &v); err != nil {
			t.Fatal(err)
		}
		bySchema := schema.Validate(v)
		_, _, byParse := Parse("f", []byte(s.src))
		if (bySchema == nil) != s.valid || (byParse == nil) != s.valid {
			t.Errorf("%s\nvalid %v, yet the schema says %v and Parse says %v", s.src, s.valid, bySchema, byParse)
		}
	}
}
