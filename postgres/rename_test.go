package postgres_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// renamed is a table whose key, a value and the column of the condition have other names in the replica; so have a column that is compared
// looser and one that is left out.
func renamed() (source, replica string, rules postgres.Rules) {
	source = `CREATE TABLE s (region text, id int, amount numeric(9,4), "at" timestamptz, noise int, note text, PRIMARY KEY (region, id));
		INSERT INTO s SELECT CASE i % 2 WHEN 0 THEN 'eu' ELSE 'us' END, i, i + 0.00049, now(), i, 'note ' || i FROM generate_series(1, 20) i`
	// The replica's "region" is another column than the source's.
	replica = `CREATE TABLE r (noise text, note text, "Id" bigint, "total.sum" numeric(9,2), area varchar(9), region int DEFAULT 7, "at" timestamptz, PRIMARY KEY ("Id", area))`
	rules = postgres.Rules{
		Exclude: []string{"noise", "at"}, Compare: map[string]string{"amount": "numeric(12,2)"}, Where: "region = 'eu'", ReplicaWhere: `area = 'eu' AND region = 7`,
		Rename: map[string]string{"region": "area", "id": "Id", "amount": "total.sum"},
	}
	return source, replica, rules
}

func TestColumnsUnderOtherNames(t *testing.T) {
	t.Parallel()
	ddl, other, rules := renamed()
	a, b := fresh(t, ddl), fresh(t, other)
	la := describe(t, a, "public.s", rules)
	lb := fit(t, b, "public.r", la, rules)
	for _, kind := range []digest.Kind{digest.Record, digest.Portable} {
		rows := read(t, a, la, message.Range{}, postgres.Want{Digest: kind, Values: true})
		if len(rows) != 10 {
			t.Fatalf("%d rows under the condition", len(rows))
		}
		targets := make([]postgres.Target, len(rows))
		keys := make([]message.Key, len(rows))
		for i, row := range rows {
			targets[i], keys[i] = postgres.Target{Key: row.Key, Values: row.Values}, row.Key
		}
		on(t, b, func(c *pgconn.PgConn) {
			prints := func() (here, there digest.Thumbprint) {
				t.Helper()
				var err error
				on(t, a, func(c *pgconn.PgConn) {
					here, err = la.Thumbprint(t.Context(), c, message.Range{Lo: message.Key{"eu", "1"}}, nil, kind)
				})
				if err != nil {
					t.Fatal(err)
				}
				if there, err = lb.Thumbprint(t.Context(), c, message.Range{Lo: message.Key{"eu", "1"}}, nil, kind); err != nil {
					t.Fatal(err)
				}
				return here, there
			}
			if images, err := lb.Insert(t.Context(), c, targets, kind); err != nil || len(images) != len(targets) || images[0].Digest != rows[0].Digest {
				t.Fatalf("%s: inserted %+v, %v", kind, images, err)
			}
			if here, there := prints(); here != there || here.Rows != 10 {
				t.Fatalf("%s: %+v and %+v", kind, here, there)
			}
			if _, err := c.Exec(t.Context(), `UPDATE r SET "total.sum" = 0; INSERT INTO r ("Id", area) VALUES (1, 'us'), (3, 'us'); INSERT INTO r ("Id", area, region) VALUES (99, 'eu', 8)`).ReadAll(); err != nil {
				t.Fatal(err)
			}
			if here, there := prints(); here == there || there.Rows != 10 {
				t.Fatalf("%s: a changed value: %+v and %+v", kind, here, there)
			}
			observed, err := lb.Rows(t.Context(), c, keys, postgres.Want{Digest: kind})
			if err != nil {
				t.Fatal(err)
			}
			for i, row := range observed {
				targets[i].Version, targets[i].Digest = row.Version, row.Digest
			}
			for _, sql := range []string{"BEGIN", "COMMIT"} {
				if sql == "COMMIT" {
					locked, err := lb.Lock(t.Context(), c, targets, kind)
					if err != nil || len(locked) != len(targets) || !strings.Contains(locked[0].JSON, `"total.sum": 0.00`) {
						t.Fatalf("%s: locked %+v, %v", kind, locked, err)
					}
					if images, err := lb.Update(t.Context(), c, targets, kind); err != nil || len(images) != len(targets) || !strings.Contains(images[0].KeyJSON, `"area": "eu"`) {
						t.Fatalf("%s: updated %+v, %v", kind, images, err)
					}
				}
				if _, err := c.Exec(t.Context(), sql).ReadAll(); err != nil {
					t.Fatal(err)
				}
			}
			if here, there := prints(); here != there {
				t.Fatalf("%s: after the update %+v and %+v", kind, here, there)
			}
			if n, err := lb.Delete(t.Context(), c, targets); err != nil || n != len(targets) {
				t.Fatalf("%s: deleted %d, %v", kind, n, err)
			}
			if _, there := prints(); there.Rows != 0 {
				t.Fatalf("%s: %+v is left", kind, there)
			}
			if _, err := c.Exec(t.Context(), `TRUNCATE r`).ReadAll(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestRenamesThatCannotBe(t *testing.T) {
	t.Parallel()
	ddl, other, rules := renamed()
	pool := fresh(t, ddl, other)
	source := describe(t, pool, "public.s", rules)
	with := func(change func(*postgres.Rules)) postgres.Rules {
		_, _, r := renamed()
		change(&r)
		return r
	}
	refused := func(err error, want string) {
		t.Helper()
		var mismatch *postgres.MismatchError
		if !errors.As(err, &mismatch) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want a refusal with %q", err, want)
		}
	}
	for want, rules := range map[string]postgres.Rules{
		`columns.rename names "nope"`:          with(func(r *postgres.Rules) { r.Rename["nope"] = "x" }),
		`"region" and "note" both "area"`:      with(func(r *postgres.Rules) { r.Rename["note"] = "area" }),
		`"amount" and "note" both "note"`:      with(func(r *postgres.Rules) { r.Rename["amount"] = "note" }), // onto a column that keeps its name
		`"region" and "id" both "id" in the r`: with(func(r *postgres.Rules) { r.Rename = map[string]string{"region": "id"} }),
	} {
		_, err := postgres.NewSource(pool).Describe(t.Context(), postgres.ParseName("public.s"), rules)
		refused(err, want)
	}
	if _, err := postgres.NewSource(pool).Describe(t.Context(), postgres.ParseName("public.s"), with(func(r *postgres.Rules) { r.Rename["note"] = "noise" })); err != nil {
		t.Errorf("the name of a column that is left out can be taken: %v", err)
	}
	for want, rules := range map[string]postgres.Rules{
		`lacks column "no"`:               with(func(r *postgres.Rules) { r.Rename["note"] = "no" }),
		`lacks column "id"`:               with(func(r *postgres.Rules) { delete(r.Rename, "id") }),
		`"region" and "note" both "area"`: with(func(r *postgres.Rules) { r.Rename["note"] = "area" }),
		`where: "region = 'eu'"`:          with(func(r *postgres.Rules) { r.Where = "area = 'eu'" }),
		`columns.compare`:                 with(func(r *postgres.Rules) { r.Compare["amount"] = "numeric(12,3)" }),
	} {
		on(t, pool, func(c *pgconn.PgConn) {
			own, err := postgres.Describe(t.Context(), c, postgres.ParseName("public.r"))
			if err != nil {
				t.Fatal(err)
			}
			_, err = postgres.Fit(own, source.Schema, rules)
			refused(err, want)
		})
	}
}
