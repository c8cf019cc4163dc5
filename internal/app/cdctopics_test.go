package app

import (
	"errors"
	"slices"
	"testing"

	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
)

func TestCDCTopics(t *testing.T) {
	t.Parallel()
	tables := []postgres.Name{{Schema: "public", Table: "orders"}, {Schema: "public", Table: "Order Items"}, {Schema: "audit", Table: "log"}, {Schema: "trickle", Table: "heartbeat"}}
	for _, tc := range []struct {
		name, lines string
		want        []string
	}{
		{"of a connector", "resync: {debezium: {topic_prefix: shop}}", []string{"shop.public.Order_Items", "shop.public.orders"}},
		{
			"with the heartbeat", "resync: {debezium: {topic_prefix: shop}}\ngate: {heartbeat: {in_commit_order: true}}",
			[]string{"shop.public.Order_Items", "shop.public.orders", "shop.trickle.heartbeat"},
		},
		{"named", "baseline: {url: 'mem://', topics: [cdc.all, 'x.*']}\nresync: {debezium: {topic_prefix: shop}}", []string{"cdc.all", "x.*"}},
		{"unknown", "", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p, _, err := policy.Parse("policy.yaml", []byte("pipeline: shop\ntables: [{table: public.*}]\n"+tc.lines))
			if err != nil {
				t.Fatal(err)
			}
			got, err := cdcTopics(p, tables)
			if tc.want == nil != errors.Is(err, errNoTopics) || !slices.Equal(got, tc.want) {
				t.Errorf("%q, %v; want %q", got, err, tc.want)
			}
		})
	}
}
