package postgres_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// Two databases, a row each: as text, documents that are not the same differ, and those that are only written otherwise do not.
func TestJSONAsText(t *testing.T) {
	t.Parallel()
	source, replica := fresh(t), fresh(t)
	asText := postgres.Rules{JSON: postgres.JSONAsText}
	same := func(typ string, values [2]string, kind digest.Kind, rules postgres.Rules) bool {
		t.Helper()
		const ddl = "DROP TABLE IF EXISTS t; DROP DOMAIN IF EXISTS doc; CREATE DOMAIN doc AS json; CREATE TABLE t (id int PRIMARY KEY, a %[1]s, b %[1]s); INSERT INTO t VALUES (1, %[2]s, NULL)"
		exec(t, source, fmt.Sprintf(ddl, typ, values[0]))
		exec(t, replica, fmt.Sprintf(ddl, typ, values[1]))
		here := describe(t, source, "public.t", rules)
		there := fit(t, replica, "public.t", here, rules)
		one, other := read(t, source, here, message.Range{}, postgres.Want{Digest: kind}), read(t, replica, there, message.Range{}, postgres.Want{Digest: kind})
		return one[0].Digest == other[0].Digest
	}
	lists := map[string]string{"jsonb": "%s", "json": "%s", "doc": "%s", "jsonb[]": "ARRAY[%s]::jsonb[]", "text": "%s"}
	for typ, form := range lists {
		rules := asText
		if typ == "text" {
			rules.Compare = map[string]string{"a": "json"}
		}
		for _, kind := range []digest.Kind{digest.Record, digest.Portable} {
			for _, p := range [][2]string{
				{`'{"a": 5}'`, `'{"a": -5}'`}, {"'[[1], 2]'", "'[[1, 2]]'"}, {`'{"a": {"b": 1}, "c": 2}'`, `'{"a": {"b": 1, "c": 2}}'`}, {"'{}'", "'[]'"}, {"'[1]'", "'1'"}, {"'[[]]'", "NULL"}, {"'null'", "NULL"}, {`'"1"'`, "'1'"},
			} {
				if same(typ, [2]string{fmt.Sprintf(form, p[0]), fmt.Sprintf(form, p[1])}, kind, rules) {
					t.Errorf("%s, %s: %s and %s have one digest", typ, kind, p[0], p[1])
				}
			}
			for _, p := range [][2]string{{`'{"a": 1, "bb": [1, null]}'`, `'{ "bb":[1,null],"a":1 }'`}, {`'{"a": 1, "a": 2}'`, `'{"a": 2}'`}, {`'"\u00fc"'`, `'"ü"'`}, {"NULL", "NULL"}} {
				if !same(typ, [2]string{fmt.Sprintf(form, p[0]), fmt.Sprintf(form, p[1])}, kind, rules) {
					t.Errorf("%s, %s: %s and %s differ", typ, kind, p[0], p[1])
				}
			}
		}
	}
	if !same("jsonb", [2]string{`'{"a": 5}'`, `'{"a": -5}'`}, digest.Record, postgres.Rules{}) {
		t.Error("this test shows nothing: the hash of jsonb tells a number's sign")
	}
	if same("json", [2]string{`'{"a": 1}'`, `'{"a":1}'`}, digest.Record, postgres.Rules{JSON: postgres.JSONAsText, Exact: postgres.ByBytes}) {
		t.Error("compare: bytes forgives a space in json")
	}
	if same("text", [2]string{"'1'", "' 1'"}, digest.Record, asText) {
		t.Error("text is compared as jsonb")
	}
}

// json on one side may be jsonb on the other.
func TestJSONAsTextAcrossTypes(t *testing.T) {
	t.Parallel()
	source := fresh(t, `CREATE TABLE t (id int PRIMARY KEY, a json); INSERT INTO t VALUES (1, '{"b":1,  "a":-2}')`)
	replica := fresh(t, `CREATE TABLE t (id int PRIMARY KEY, a jsonb); INSERT INTO t VALUES (1, '{"a": -2, "b": 1}')`)
	rules := postgres.Rules{JSON: postgres.JSONAsText}
	here := describe(t, source, "public.t", rules)
	there := fit(t, replica, "public.t", here, rules)
	for _, kind := range []digest.Kind{digest.Record, digest.Portable} {
		if one, other := read(t, source, here, message.Range{}, postgres.Want{Digest: kind})[0].Digest, read(t, replica, there, message.Range{}, postgres.Want{Digest: kind})[0].Digest; one != other {
			t.Errorf("%s: %x and %x", kind, one, other)
		}
	}
}

// Both sides take the same of jsonb, or nothing is compared; and what a side kept from before is not taken for what it is now.
func TestJSONnessIsAgreedOn(t *testing.T) {
	t.Parallel()
	pool := fresh(t, "CREATE TABLE t (id int PRIMARY KEY, a jsonb, b json, c jsonb[], d text, e jsonb)")
	hash, text := postgres.Rules{Compare: map[string]string{"e": "text"}}, postgres.Rules{Compare: map[string]string{"e": "text"}, JSON: postgres.JSONAsText}
	byHash, asText := describe(t, pool, "public.t", hash), describe(t, pool, "public.t", text)
	if byHash.Schema.GetFingerprint() == asText.Schema.GetFingerprint() {
		t.Error("both have one fingerprint")
	}
	for _, c := range []struct {
		source *postgres.Layout
		rules  postgres.Rules
	}{{byHash, text}, {asText, hash}} {
		if _, err := postgres.Fit(c.source.Table, c.source.Schema, c.rules); !errors.As(err, new(*postgres.MismatchError)) {
			t.Errorf("a replica that takes something else of jsonb: %v", err)
		}
	}
	if got := fmt.Sprint(byHash.HashedJSON()); got != "[a b c]" {
		t.Errorf("by hash: %s", got)
	}
	hash.Exact = postgres.ByBytes
	for name, l := range map[string]*postgres.Layout{"text": asText, "bytes": describe(t, pool, "public.t", hash)} {
		if got := l.HashedJSON(); got != nil {
			t.Errorf("%s: %v by hash", name, got)
		}
	}
}
