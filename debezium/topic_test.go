package debezium_test

import (
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/postgres"
)

func TestTopic(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 300)
	for _, tc := range []struct {
		schema, table, want string
	}{
		{"public", "orders", "shop.public.orders"},
		{"public", "Order Items", "shop.public.Order_Items"},
		{"my-schema", "a.b", "shop.my-schema.a.b"},
		{"öffentlich", "größe", "shop._ffentlich.gr__e"},
		{"public", "t🐟", "shop.public.t__"}, // two units of UTF-16
		{"public", `quo"te$`, "shop.public.quo_te_"},
		{"public", long, "shop.public." + long[:249-len("shop.public.")]},
	} {
		if got := debezium.Topic("shop", postgres.Name{Schema: tc.schema, Table: tc.table}); got != tc.want {
			t.Errorf("%s.%s: %q, want %q", tc.schema, tc.table, got, tc.want)
		}
	}
}
