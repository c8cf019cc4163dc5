package debezium_test

import (
	"encoding/json"
	"regexp"
	"testing"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/postgres"
)

// What a real connector has understood.
func TestSignal(t *testing.T) {
	t.Parallel()
	schema := &tricklepb.Schema{Key: []string{"id"}, Columns: []*tricklepb.Column{{Name: "id", Declared: "pg_catalog.int4"}}}
	for _, c := range []struct {
		name   string
		signal debezium.Signal
		want   string
	}{
		{"a table", debezium.Signal{ID: "r1", Table: "public.orders"},
			`{"id":"r1","type":"execute-snapshot","data":{"type":"INCREMENTAL","data-collections":["public\\.orders"]}}`},
		{"a range", debezium.Signal{ID: "r2", Table: `"Sales"."a+b$"`, Filter: debezium.Filter(schema, message.Range{Lo: message.Key{"1"}, Hi: message.Key{`2'\`}})},
			`{"id":"r2","type":"execute-snapshot","data":{"type":"INCREMENTAL","data-collections":["Sales\\.a\\+b\\$"],"additional-conditions":[{"data-collection":"Sales\\.a\\+b\\$",` +
				`"filter":"((\"id\") OPERATOR(pg_catalog.>) ('1'::\"pg_catalog\".\"int8\") AND (\"id\") OPERATOR(pg_catalog.<=) (E'2''\\\\'::\"pg_catalog\".\"int8\"))"}]}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := c.signal.Encode()
			if err != nil || string(got) != c.want {
				t.Errorf("got  %s, %v\nwant %s", got, err, c.want)
			}
			var signal struct{ Data map[string]any }
			if err := json.Unmarshal(got, &signal); err != nil {
				t.Fatal(err)
			}
			pattern := regexp.MustCompile("^(?:" + signal.Data["data-collections"].([]any)[0].(string) + ")$")
			name := postgres.ParseName(c.signal.Table)
			if whole := name.Schema + "." + name.Table; !pattern.MatchString(whole) || pattern.MatchString("x"+whole) || pattern.MatchString(name.Schema+"x"+name.Table) {
				t.Errorf("%s is not the pattern of %s alone", pattern, whole)
			}
		})
	}
}

// A name that Debezium could not take apart again would start a snapshot of nothing, and no end of it would ever be told.
func TestNamesBeyondDebezium(t *testing.T) {
	t.Parallel()
	for _, name := range []postgres.Name{{Schema: "public", Table: "a.b"}, {Schema: "a b", Table: "c"}, {Schema: "public", Table: `"`}, {Schema: "public", Table: "it's"}, {Schema: "public", Table: "a\u2003b"}, {Schema: "", Table: "t"}} {
		if got, err := (debezium.Signal{ID: "r", Table: name.String()}).Encode(); err == nil {
			t.Errorf("%s: %s", name, got)
		}
	}
	for _, name := range []postgres.Name{{Schema: "public", Table: "Orders"}, {Schema: "Ä", Table: "日本"}, {Schema: "public", Table: "a-b,c"}, {Schema: "public", Table: "a\u00a0b"}} {
		if _, err := debezium.Collection(name.String()); err != nil {
			t.Error(err)
		}
	}
}
