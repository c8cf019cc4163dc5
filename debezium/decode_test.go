package debezium_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/transport"
)

const source = `"source":{"version":"3.6.0.Final","connector":"postgresql","name":"shop","ts_ms":1795666722168,"snapshot":"false","db":"shop","sequence":"[\"28756080\",\"28756088\"]","ts_us":1795666722168838,` +
	`"schema":"public","table":"orders","txId":797,"lsn":28756088,"xmin":null}`

func record(key, value string) transport.Record {
	r := transport.Record{Topic: "shop.public.orders"}
	if key != "" {
		r.Key = []byte(key)
	}
	if value != "" {
		r.Value = []byte(value)
	}
	return r
}

// What is a change, what is none, and what is refused.
func TestRecords(t *testing.T) {
	t.Parallel()
	flat, text, broken := debezium.ErrFlattened, debezium.ErrNoJSON, debezium.ErrBroken
	for _, c := range []struct {
		name, key, value string
		ok               bool
		err              error
	}{
		{"create", `{"id":1}`, `{"before":null,"after":{"id":1},` + source + `,"op":"c","ts_ms":1}`, true, nil},
		{"with schemas", `{"schema":{"type":"struct","fields":[{"type":"int32","field":"id"}]},"payload":{"id":1}}`,
			`{"schema":{"type":"struct","fields":[{"type":"struct","field":"after","fields":[{"type":"int32","field":"id"}]}]},"payload":{"before":null,"after":{"id":1},` + source + `,"op":"u"}}`, true, nil},
		{"truncation", "", `{"before":null,"after":null,` + source + `,"op":"t"}`, true, nil},
		{"tombstone", `{"id":1}`, "", false, nil},
		{"tombstone of JsonConverter", `{"id":1}`, `{"schema":null,"payload":null}`, false, nil},
		{"null", `{"id":1}`, `null`, false, nil},
		{"message", `{"prefix":"p"}`, `{"op":"m","ts_ms":1,` + strings.Replace(source, `"schema":"public","table":"orders"`, `"schema":"","table":""`, 1) + `,"message":{"prefix":"p","content":"aGVsbG8="}}`, false, nil},
		{"heartbeat", `{"serverName":"shop"}`, `{"ts_ms":1795666716380}`, false, nil},
		{"heartbeat with a schema", "", `{"schema":{"type":"struct","fields":[{"type":"int64","field":"ts_ms"}],"name":"io.debezium.connector.common.Heartbeat"},"payload":{"ts_ms":1}}`, false, nil},
		{"mark of a transaction", `{"id":"775:28101072"}`, `{"status":"BEGIN","id":"775:28101072","event_count":null,"data_collections":null,"ts_ms":1}`, false, nil},
		{"flattened", `{"id":1}`, `{"id":1,"v":"a"}`, false, flat},
		{"flattened with a schema", `{"id":1}`, `{"schema":{"type":"struct","fields":[{"type":"int32","field":"id"}],"name":"shop.public.orders.Value"},"payload":{"id":1}}`, false, flat},
		{"one column", `{"id":1}`, `"a"`, false, flat},
		{"Avro", `{"id":1}`, "\x00\x00\x00\x00\x01\x02\x04", false, text},
		{"Avro whose key is one too", "\x00\x01", `{"before":null,"after":{"id":1},` + source + `,"op":"c"}`, false, text},
		{"cut off", `{"id":1}`, `{"before":null,"after":{"id":1},`, false, text},
		{"no table", `{"id":1}`, `{"before":null,"after":{"id":1},"source":{"lsn":1},"op":"c"}`, false, broken},
		{"another database's", `{"id":1}`, `{"after":{"id":1},"source":{"connector":"mysql","schema":"a","table":"b"},"op":"c"}`, false, broken},
		{"unknown op", `{"id":1}`, `{"after":{"id":1},` + source + `,"op":"x"}`, false, broken},
		{"create without a row", `{"id":1}`, `{"after":null,` + source + `,"op":"c"}`, false, broken},
		{"a row that is none", `{"id":1}`, `{"after":[1],` + source + `,"op":"c"}`, false, broken},
	} {
		change, ok, err := debezium.NewDecoder(debezium.Options{}).Decode(record(c.key, c.value))
		if ok != c.ok || !errors.Is(err, c.err) {
			t.Errorf("%s: %v, %v", c.name, ok, err)
		}
		if !ok {
			continue
		}
		if change.Table != (postgres.Name{Schema: "public", Table: "orders"}) || change.At != (debezium.Place{Commit: 28756080, LSN: 28756088}) || change.TxID != 797 || !change.Time.Equal(time.UnixMicro(1795666722168838)) {
			t.Errorf("%s: %+v", c.name, change)
		}
	}
	_, _, err := debezium.NewDecoder(debezium.Options{}).Decode(record("", `{"id":1}`))
	for _, e := range []error{err, debezium.ErrNoJSON} {
		if !strings.Contains(e.Error(), "--reset-group") {
			t.Errorf("no way out in %v", e)
		}
	}
}

// Before a connector has seen a transaction end, an event says only its own place, which is in order with what follows.
func TestPlaces(t *testing.T) {
	t.Parallel()
	var places []debezium.Place
	for _, sequence := range []string{`"[null,\"100\"]"`, `"[null,\"120\"]"`, `"[\"130\",\"110\"]"`, `"[\"130\",\"125\"]"`, `"[\"140\",\"90\"]"`} {
		c, _, err := debezium.NewDecoder(debezium.Options{}).Decode(record(`{"id":1}`, `{"after":{"id":1},"op":"c","source":{"schema":"s","table":"t","lsn":7,"sequence":`+sequence+`}}`))
		if err != nil {
			t.Fatal(err)
		}
		places = append(places, c.At)
	}
	for i := 1; i < len(places); i++ {
		if places[i-1].Compare(places[i]) >= 0 {
			t.Errorf("%v is not before %v", places[i-1], places[i])
		}
	}
}

// A change of the key comes as two events, which name each other's key.
func TestKeyChange(t *testing.T) {
	t.Parallel()
	shape := `{"schema":{"type":"struct","fields":[{"type":"bytes","field":"a","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"2"}},{"type":"int64","field":"b","name":"io.debezium.time.MicroTimestamp"}]},"payload":%s}`
	r := record(fmt.Sprintf(shape, `{"a":"AYag","b":1704067200000001}`), `{"before":{"a":"AYag","b":1704067200000001},"after":null,`+source+`,"op":"d"}`)
	r.Headers = map[string]string{"__debezium.newkey": `{"a":1000.01,"b":1704067200000002}`}
	c, _, err := debezium.NewDecoder(debezium.Options{}).Decode(r)
	if err != nil {
		t.Fatal(err)
	}
	for row, want := range map[*debezium.Row]string{&c.Key: "1000.00 2024-01-01 00:00:00.000001", &c.NewKey: "1000.01 2024-01-01 00:00:00.000002"} {
		a, _, err := row.Value("a", debezium.Type{Name: "pg_catalog.numeric", Modifier: -1})
		if err != nil {
			t.Fatal(err)
		}
		b, _, err := row.Value("b", debezium.Type{Name: "pg_catalog.timestamp", Modifier: -1})
		if err != nil {
			t.Fatal(err)
		}
		if got := string(a.Text) + " " + string(b.Text); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	for _, odd := range []string{"", "x", "[1]", "null", `"a"`} {
		r.Headers["__debezium.newkey"] = odd
		c, ok, err := debezium.NewDecoder(debezium.Options{}).Decode(r)
		if !ok || err != nil || c.NewKey.Present() {
			t.Errorf("header %q: %v, %v", odd, c.NewKey.Columns(), err)
		}
	}
}

// value decodes one, with or without a schema.
func value(t *testing.T, d *debezium.Decoder, schema, raw string, typ debezium.Type) (debezium.Value, error) {
	t.Helper()
	v := `{"before":null,"after":{"v":` + raw + `},` + source + `,"op":"u"}`
	if schema != "" {
		v = `{"schema":{"type":"struct","fields":[{"type":"struct","field":"after","fields":[` + strings.Replace(schema, "{", `{"field":"v",`, 1) + `]}]},"payload":` + v + `}`
	}
	c, _, err := d.Decode(record("", v))
	if err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	got, _, err := c.After.Value("v", typ)
	return got, err
}

func pg(name string, modifier int) debezium.Type {
	return debezium.Type{Name: "pg_catalog." + name, Modifier: modifier}
}

// What a value without a schema means is told by the column's type and the connector's settings; what can't be told is refused.
func TestValuesWithoutSchemas(t *testing.T) {
	t.Parallel()
	numeric52, numeric50 := pg("numeric", 5<<16+2+4), pg("numeric", 5<<16+4)
	for _, c := range []struct {
		raw, want string // an error's words behind a !
		typ       debezium.Type
		options   debezium.Options
	}{
		{`"bg=="`, "1.10", numeric52, debezium.Options{}}, {`"1.10"`, "1.10", numeric52, debezium.Options{}}, {`"-7"`, "-7", numeric50, debezium.Options{}}, {`"+Q=="`, "-7", numeric50, debezium.Options{}},
		{`"1234"`, "!decimal.handling.mode", numeric50, debezium.Options{}}, {`"1234"`, "1234", numeric50, debezium.Options{Decimal: "string"}}, {`"1234"`, "-2658824", numeric50, debezium.Options{Decimal: "precise"}},
		{`"1.10"`, "!string", numeric52, debezium.Options{Decimal: "precise"}}, {`1.1`, "1.1", numeric52, debezium.Options{}}, {`{"scale":1,"value":"Cw=="}`, "1.1", pg("numeric", -1), debezium.Options{}},
		{`1709168523004`, "2024-02-29 01:02:03.004", pg("timestamp", 3), debezium.Options{}}, {`1709168523004500`, "2024-02-29 01:02:03.0045", pg("timestamp", 4), debezium.Options{}},
		{`1709168523004000`, "2024-02-29 01:02:03.004", pg("timestamp", 3), debezium.Options{Time: "microseconds"}}, {`1709168523004`, "2024-02-29 01:02:03.004", pg("timestamp", -1), debezium.Options{Time: "connect"}},
		{`45296789`, "12:34:56.789", pg("time", 3), debezium.Options{}}, {`45296789000`, "12:34:56.789", pg("time", 3), debezium.Options{Time: "adaptive_time_microseconds"}}, {`45296789000`, "!time.precision.mode", pg("time", 3), debezium.Options{}},
		{`"AP8="`, `\x00ff`, pg("bytea", -1), debezium.Options{}}, {`"00ff"`, `\x00ff`, pg("bytea", -1), debezium.Options{Binary: "hex"}}, {`"-__-"`, `\xfbfffe`, pg("bytea", -1), debezium.Options{Binary: "base64-url-safe"}},
		{`"zz"`, "!hex", pg("bytea", -1), debezium.Options{Binary: "hex"}}, {`"KDEsYSk="`, "(1,a)", debezium.Type{Name: "public.pair", Modifier: -1}, debezium.Options{}}, {`"abcd"`, "abcd", debezium.Type{Name: "public.colour", Modifier: -1, Enum: true}, debezium.Options{}},
		{`"AQ=="`, "0000000000001", pg("bit", 13), debezium.Options{}}, {`true`, "1", pg("bit", 1), debezium.Options{}}, {`true`, "true", pg("bool", -1), debezium.Options{}}, {`"/gc="`, "-5.05", pg("money", -1), debezium.Options{}},
		{`-2147472692`, "infinity", pg("date", -1), debezium.Options{}}, {`-735160`, "0044-03-15 BC", pg("date", -1), debezium.Options{}}, {`"+294276-12-31T23:59:59.999999Z"`, "294276-12-31 23:59:59.999999+00", pg("timestamptz", -1), debezium.Options{}},
		{`-9223372036853775810`, "!could not write", pg("timestamp", -1), debezium.Options{}}, {`{"a":1}`, "!object", pg("text", -1), debezium.Options{}}, {`[1]`, "!list", pg("text", -1), debezium.Options{}}, {`12`, "!number", pg("bool", -1), debezium.Options{}},
	} {
		got, err := value(t, debezium.NewDecoder(c.options), "", c.raw, c.typ)
		words, fails := strings.CutPrefix(c.want, "!")
		if fails && (err == nil || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), `"v"`)) || !fails && (err != nil || string(got.Text) != c.want) {
			t.Errorf("%s as %s %d, %+v: %s, %v", c.raw, c.typ.Name, c.typ.Modifier, c.options, got.Text, err)
		}
	}
	d := debezium.NewDecoder(debezium.Options{})
	for _, raw := range []string{`"1.10"`, `"1234"`} { // the first shows how the second is meant
		if _, err := value(t, d, "", raw, map[string]debezium.Type{`"1.10"`: numeric52, `"1234"`: numeric50}[raw]); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
	}
	if got, err := value(t, debezium.NewDecoder(debezium.Options{}), `{"type":"string"}`, `"00ff"`, pg("bytea", -1)); err == nil || !strings.Contains(err.Error(), "binary.handling.mode") {
		t.Errorf("%s, %v", got.Text, err)
	}
}

// A large value that was left alone is known in each form that Debezium gives the placeholder.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	list := func(of string) debezium.Type {
		elem := pg(of, -1)
		return debezium.Type{Name: "pg_catalog._" + of, Modifier: -1, Elem: &elem}
	}
	hstore := debezium.Type{Name: "public.hstore", Modifier: -1}
	bytesOf := func(s string) string {
		var n []int
		for _, b := range []byte(s) {
			n = append(n, int(b))
		}
		out, err := json.Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	const usual = "__debezium_unavailable_value"
	for _, c := range []struct {
		placeholder, raw string
		typ              debezium.Type
		want             bool
	}{
		{"", `"` + usual + `"`, pg("text", -1), true}, {"", `"` + usual + `_"`, pg("text", -1), false}, {"", `"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="`, pg("bytea", -1), true}, {"", `"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="`, pg("text", -1), false},
		{"", `["` + usual + `"]`, list("text"), true}, {"", `["` + usual + `","` + usual + `"]`, list("text"), false}, {"", `["b68a35a7-17ad-35b3-af2a-ae46edb4545a"]`, list("uuid"), true}, {"", bytesOf(usual), list("int4"), true}, {"", bytesOf(usual), list("date"), true},
		{"", `[95,95]`, list("int4"), false}, {"", `["X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="]`, list("bytea"), true}, {"", `{"` + usual + `":"` + usual + `"}`, hstore, true}, {"", `"{\"` + usual + `\":\"` + usual + `\"}"`, hstore, true},
		{"NOPE", `"` + usual + `"`, pg("text", -1), false}, {"NOPE", `"NOPE"`, pg("text", -1), true}, {"NOPE", bytesOf("NOPE"), list("int4"), true}, {"nope", `["4101bef8-794f-3d98-ae95-dfb54850c68b"]`, list("uuid"), true}, {"NOPE", `"NOPE"`, pg("numeric", -1), true},
	} {
		v, err := value(t, debezium.NewDecoder(debezium.Options{Placeholder: c.placeholder}), "", c.raw, c.typ)
		if err != nil || v.Unavailable != c.want {
			t.Errorf("%s as %s: %v, %v", c.raw, c.typ.Name, v.Unavailable, err)
		}
	}
}

// The settings that decide how values are written are those of the connector's own configuration.
func TestOptions(t *testing.T) {
	t.Parallel()
	o, err := debezium.OptionsOf(map[string]string{"unavailable.value.placeholder": "hex:6e6f7065", "binary.handling.mode": "HEX", "decimal.handling.mode": "string", "time.precision.mode": "connect", "slot.name": "s"})
	if want := (debezium.Options{Placeholder: "nope", Binary: "hex", Decimal: "string", Time: "connect"}); err != nil || o != want {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range []map[string]string{{"unavailable.value.placeholder": "hex:zz"}, {"time.precision.mode": "soon"}, {"decimal.handling.mode": ""}} {
		if _, err := debezium.OptionsOf(bad); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}

// Whatever is in a topic, it is a change, none, or an error, and each value text, NULL or an error.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"before":null,"after":{"id":1,"v":"bg=="},` + source + `,"op":"c","ts_ms":1}`, `{"ts_ms":1}`, `{"schema":null,"payload":null}`, `null`, `[]`, `""`, `{}`, "\x00",
		`{"schema":{"type":"struct","fields":[{"type":"struct","field":"after","fields":[{"type":"bytes","field":"v","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"2046"}},null]}]},"payload":{"after":{"v":"AQ=="},` + source + `,"op":"c"}}`,
		`{"after":{"v":[1,null,"a",{"scale":1,"value":""}]},` + source + `,"op":"r"}`, `{"after":{"v":{"x":1,"y":"NaN"}},` + source + `,"op":"u"}`, `{"after":{"v":9223372036854775807},` + source + `,"op":"u"}`, `{"after":{"v":"-5877611-06-21Z"},` + source + `,"op":"u"}`,
	} {
		f.Add([]byte(seed), []byte(`{"id":1}`))
	}
	elem := pg("numeric", 5<<16+2+4)
	types := []debezium.Type{pg("text", -1), pg("numeric", -1), elem, pg("money", -1), pg("timestamp", 3), pg("timestamptz", -1), pg("date", -1), pg("time", -1), pg("timetz", -1), pg("interval", -1), pg("bytea", -1), pg("bit", 8), pg("varbit", -1), pg("point", -1),
		{Name: "public.hstore", Modifier: -1}, {Name: "pg_catalog._numeric", Modifier: -1, Elem: &elem}, pg("json", -1), {Name: "public.pair", Modifier: -1}}
	f.Fuzz(func(t *testing.T, value, key []byte) {
		d := debezium.NewDecoder(debezium.Options{})
		for range 2 { // the second time what is known of its schema
			c, ok, err := d.Decode(transport.Record{Topic: "t", Key: key, Value: value})
			if ok && err != nil || ok && c.Table.Table == "" {
				t.Fatalf("%v, %v", c, err)
			}
			for _, row := range []debezium.Row{c.Key, c.Before, c.After, c.NewKey} {
				for _, name := range row.Columns() {
					for _, typ := range types {
						if v, ok, err := row.Value(name, typ); !ok || err != nil && (v.Text != nil || v.Unavailable) {
							t.Fatalf("%s as %s: %v, %v, %v", name, typ.Name, v, ok, err)
						}
					}
				}
			}
		}
	})
}

// Another database's events in the same topic are refused by name, and none is taken for the source's.
func TestEventsOfAnotherDatabase(t *testing.T) {
	t.Parallel()
	created := record(`{"id":1}`, `{"before":null,"after":{"id":1},"op":"c","ts_ms":1,`+source+`}`)
	for database, want := range map[string]error{"": nil, "shop": nil, "stock": debezium.ErrForeign} {
		_, ok, err := debezium.NewDecoder(debezium.Options{Database: database}).Decode(created)
		if !errors.Is(err, want) || ok != (want == nil) {
			t.Errorf("for %q: %t, %v", database, ok, err)
		}
		if want != nil && (!strings.Contains(err.Error(), `"shop"`) || !strings.Contains(err.Error(), `"stock"`)) {
			t.Errorf("it does not name both: %v", err)
		}
	}
}
