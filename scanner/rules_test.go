package scanner_test

import (
	"reflect"
	"testing"

	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/scanner"
)

// Everything that the policy says about comparing a table arrives, and no field of the rules is left without a key.
func TestRules(t *testing.T) {
	t.Parallel()
	p, _, err := policy.Parse("f", []byte(`
pipeline: orders
tables:
  - table: public.orders
    columns: {exclude: [note], compare: {amount: text}, rename: {region: area}}
    compare: bytes
    jsonb: text
    where: region = 1
    replica_where: area = 1
    quiet_column: at
`))
	if err != nil {
		t.Fatal(err)
	}
	got := scanner.Rules(p.Tables[0])
	want := postgres.Rules{
		Exclude: []string{"note"}, Compare: map[string]string{"amount": "text"}, Rename: map[string]string{"region": "area"},
		Exact: postgres.ByBytes, JSON: postgres.JSONAsText, Where: "region = 1", ReplicaWhere: "area = 1", QuietColumn: "at",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for field, v := range reflect.ValueOf(got).Fields() {
		if v.IsZero() {
			t.Errorf("no key of the policy sets %s", field.Name)
		}
	}
}
