package check

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/transport"
)

func TestTheBaseLineView(t *testing.T) {
	t.Parallel()
	const week = 7 * 24 * time.Hour
	there := []transport.Extent{{End: 3}}
	good := transport.Retention{Time: week}
	for _, tc := range []struct {
		name    string
		check   string
		logs    []transport.Log
		store   error
		standby bool
		want    map[Verdict]string // part of a detail
	}{
		{name: "a store", check: "store", want: map[Verdict]string{OK: "2 complete sets"}},
		{name: "a folder that is not there", check: "store", store: ErrNotMade, want: map[Verdict]string{OK: "is made when trickle starts"}},
		{name: "a store that refuses", check: "store", store: errors.New("the store refuses these credentials"), want: map[Verdict]string{Failure: "refuses these credentials"}},
		{name: "a primary", check: "fence", want: map[Verdict]string{OK: "ranges can be read"}},
		{name: "a standby alone", check: "fence", standby: true, want: map[Verdict]string{Failure: "no set can be built"}},
		{
			name: "topics", check: "logs", logs: []transport.Log{{Topic: "shop.public.a", Partitions: there, Retention: good}, {Topic: "shop.public.b", Partitions: there, Retention: good}},
			want: map[Verdict]string{OK: "2 tables: the CDC's log is in 2 topics"},
		},
		{
			name: "a table without a topic", check: "logs", logs: []transport.Log{{Topic: "shop.public.a", Partitions: there}, {Topic: "shop.public.b"}},
			want: map[Verdict]string{OK: "1 table", Warning: "there is no topic shop.public.b"},
		},
		{name: "no topic at all", check: "logs", logs: []transport.Log{{Topic: "shop.public.a"}}, want: map[Verdict]string{Failure: "none of the CDC's topics is there"}},
		{name: "long enough", check: "retention", logs: []transport.Log{{Topic: "shop.public.a", Partitions: there, Retention: good}}, want: map[Verdict]string{OK: "long enough"}},
		{
			name: "too short", check: "retention", logs: []transport.Log{{Topic: "shop.public.a", Partitions: there, Retention: transport.Retention{Time: 10 * time.Hour}}},
			want: map[Verdict]string{Warning: "less than twice baseline.refresh (6h0m0s): the view is refreshed every 5h0m0s"},
		},
		{
			name: "not to be seen", check: "retention", logs: []transport.Log{{Topic: "shop.public.a", Partitions: there, Retention: transport.Retention{Unknown: true}}},
			want: map[Verdict]string{Warning: "may not see how long"},
		},
		{
			name: "compacted", check: "retention", logs: []transport.Log{{Topic: "shop.public.a", Partitions: there, Retention: transport.Retention{Compacted: true, Tombstones: week}}},
			want: map[Verdict]string{Warning: "is compacted: where an update"},
		},
		{
			name: "by size", check: "retention", logs: []transport.Log{{Topic: "shop.public.a", Partitions: there, Retention: transport.Retention{Time: week, Bytes: 1}}},
			want: map[Verdict]string{Warning: "limited by size"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			source := &Source{Side: Side{Name: "source", identity: postgres.Identity{Standby: tc.standby}}}
			for _, name := range []string{"a", "b"} {
				source.tables = append(source.tables, sourceTable{name: postgres.Name{Schema: "public", Table: name}})
			}
			b := &Baseline{
				Source: source, Refresh: 6 * time.Hour,
				Sets:    func(context.Context) (int, error) { return 2, tc.store },
				Topics:  func([]postgres.Name) ([]string, error) { return []string{"shop.public.a", "shop.public.b"}, nil },
				TopicOf: func(n postgres.Name) string { return "shop." + n.String() },
				Logs:    func(context.Context, []string) ([]transport.Log, error) { return tc.logs, nil },
			}
			checks := b.Checks()
			for i := range checks {
				checks[i].Needs = nil
			}
			if tc.check == "retention" {
				if _, err := b.find(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			got := map[Verdict]string{}
			for _, c := range checks {
				if c.Name == tc.check {
					for _, f := range Run(t.Context(), []Check{c}, time.Minute).Checks {
						got[f.Verdict] += f.Detail
					}
				}
			}
			if len(got) != len(tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			for v, detail := range tc.want {
				if !strings.Contains(got[v], detail) {
					t.Errorf("%s: %q, want %q", v, got[v], detail)
				}
			}
		})
	}
}
