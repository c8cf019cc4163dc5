package debezium_test

import (
	"errors"
	"testing"

	"github.com/trickle-verify/trickle/debezium"
)

// As connectors of Debezium 3.6 wrote them, with and without schemas.
const (
	withSchema = `{"schema":{"type":"struct","fields":[{"type":"string","optional":false,"field":"id"},{"type":"string","optional":false,"field":"type"},{"type":"string","optional":false,"field":"aggregate_type"},` +
		`{"type":"map","keys":{"type":"string","optional":false},"values":{"type":"string","optional":false},"optional":true,"field":"additional_data"},{"type":"int64","optional":false,"field":"timestamp"}],` +
		`"optional":false,"name":"io.debezium.connector.common.Notification","version":1},"payload":{"id":"r1-1","type":"TABLE_SCAN_COMPLETED","aggregate_type":"Incremental Snapshot",` +
		`"additional_data":{"scanned_collection":"public.orders","connector_name":"cdc","total_rows_scanned":"2900","status":"SUCCEEDED","data_collections":"public.orders"},"timestamp":1795653068140}}`
	inProgress = `{"id":"r1-1","type":"IN_PROGRESS","aggregate_type":"Incremental Snapshot","additional_data":{"current_collection_in_progress":"public.orders","connector_name":"cdc","maximum_key":"3000",` +
		`"data_collections":"public.orders,public.kinds","last_processed_key":"1124"},"timestamp":1795653067816}`
	completed    = `{"id":"r1-1","type":"COMPLETED","aggregate_type":"Incremental Snapshot","additional_data":{"connector_name":"cdc"},"timestamp":1795653068140}`
	firstCopy    = `{"id":"6e895b28","type":"IN_PROGRESS","aggregate_type":"Initial Snapshot","additional_data":{"connector_name":"cdc","data_collections":"public.orders"},"timestamp":1795653017296}`
	withoutExtra = `{"id":"x","type":"STARTED","aggregate_type":"Incremental Snapshot","additional_data":null,"timestamp":"1695817046353"}`
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, value string
		want        debezium.Notification
		ok          bool
	}{
		{"with its schema", withSchema, debezium.Notification{ID: "r1-1", Type: debezium.TableScanCompleted, Connector: "cdc", Collections: "public.orders", Scanned: "public.orders", Status: "SUCCEEDED", Rows: 2900}, true},
		{"without", inProgress, debezium.Notification{ID: "r1-1", Type: debezium.InProgress, Connector: "cdc", Collections: "public.orders,public.kinds"}, true},
		{"the end", completed, debezium.Notification{ID: "r1-1", Type: debezium.Completed, Connector: "cdc"}, true},
		{"of a first copy", firstCopy, debezium.Notification{ID: "6e895b28", Type: debezium.InProgress, Connector: "cdc", Collections: "public.orders"}, false},
		{"nothing beside the id", withoutExtra, debezium.Notification{ID: "x", Type: debezium.Started}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, ok, err := debezium.Parse([]byte(c.value))
			if err != nil || ok != c.ok || got != c.want {
				t.Errorf("got %+v, %t, %v, want %+v", got, ok, err, c.want)
			}
		})
	}
	for _, bad := range []string{"", "null", "{}", `"text"`, `{"id":7,"type":"STARTED"}`, `{"id":"x"}`, "\x00\x00\x00\x00\x01\x48avro", `{"schema":{},"payload":null}`, `[` + completed + `]`} {
		if n, _, err := debezium.Parse([]byte(bad)); !errors.Is(err, debezium.ErrMalformed) {
			t.Errorf("%q: %+v, %v", bad, n, err)
		}
	}
}

// Whatever stands in the topic, Parse returns, and what it accepts has an id and a type.
func FuzzParse(f *testing.F) {
	for _, s := range []string{withSchema, inProgress, completed, firstCopy, withoutExtra, `{"payload":{"payload":{}}}`, "{", "\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, ok, err := debezium.Parse(b)
		switch {
		case err != nil && (ok || n != debezium.Notification{} || !errors.Is(err, debezium.ErrMalformed)):
			t.Errorf("%+v beside %v", n, err)
		case err == nil && (n.ID == "" || n.Type == "" || n.Rows < 0):
			t.Errorf("accepted %+v", n)
		}
	})
}
