package postgres_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

func TestKeyIsChosen(t *testing.T) {
	t.Parallel()
	pool := fresh(t)
	for i, c := range []struct {
		name, ddl string
		key       []string // nil: refused
	}{
		{"primary key", `CREATE TABLE %s (u int NOT NULL UNIQUE, a int, b text, PRIMARY KEY (b, a))`, []string{"b", "a"}},
		{"replica identity", `CREATE TABLE %[1]s (a int NOT NULL UNIQUE, b int NOT NULL, c int NOT NULL);
			CREATE UNIQUE INDEX ON %[1]s (b, c); ALTER TABLE %[1]s REPLICA IDENTITY USING INDEX %[1]s_b_c_idx`, []string{"b", "c"}},
		{"unique not null, the narrowest", `CREATE TABLE %s (x int, a int NOT NULL, b int NOT NULL, c int NOT NULL UNIQUE, UNIQUE (a, b))`, []string{"c"}},
		{"included columns are no key", `CREATE TABLE %s (a int, b int, PRIMARY KEY (a) INCLUDE (b))`, []string{"a"}},
		{"after dropped columns", `CREATE TABLE %[1]s (z int, a int NOT NULL, b int PRIMARY KEY); ALTER TABLE %[1]s DROP z`, []string{"b"}},
		{"partitioned", `CREATE TABLE %[1]s (a int, b int, PRIMARY KEY (a, b)) PARTITION BY RANGE (b); CREATE TABLE %[1]s_1 PARTITION OF %[1]s FOR VALUES FROM (0) TO (9)`, []string{"a", "b"}},
		{"nothing", `CREATE TABLE %s (a int)`, nil},
		{"nullable", `CREATE TABLE %s (a int UNIQUE)`, nil},
		{"partly nullable", `CREATE TABLE %s (a int NOT NULL, b int, UNIQUE (a, b))`, nil},
		{"deferrable", `CREATE TABLE %s (a int NOT NULL UNIQUE DEFERRABLE)`, nil},
		{"partial", `CREATE TABLE %[1]s (a int NOT NULL); CREATE UNIQUE INDEX ON %[1]s (a) WHERE a > 0`, nil},
		{"expression", `CREATE TABLE %[1]s (a int NOT NULL); CREATE UNIQUE INDEX ON %[1]s (abs(a))`, nil},
		{"not unique", `CREATE TABLE %[1]s (a int NOT NULL); CREATE INDEX ON %[1]s (a)`, nil},
	} {
		table := fmt.Sprintf("k%d", i)
		exec(t, pool, fmt.Sprintf(c.ddl, table))
		l, err := postgres.NewSource(pool).Describe(t.Context(), postgres.ParseName("public."+table), postgres.Rules{})
		if c.key == nil {
			var refusal *postgres.NoKeyError
			if !errors.As(err, &refusal) || !strings.Contains(err.Error(), "public."+table) {
				t.Errorf("%s: %v, want a refusal that names the table", c.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := l.Schema.GetKey(); !slices.Equal(got, c.key) {
			t.Errorf("%s: key %v, want %v", c.name, got, c.key)
		}
	}
}

func TestNamesThatNeedQuotes(t *testing.T) {
	t.Parallel()
	pool := fresh(t, `CREATE SCHEMA "Sch.ema"; CREATE TABLE "Sch.ema"."We""ird.Ta'ble" ("I.d""x" int PRIMARY KEY, "select" text, "a\b" numeric, "$1" int)`,
		`INSERT INTO "Sch.ema"."We""ird.Ta'ble" VALUES (1, 'a', 2, 3)`)
	source := postgres.NewSource(pool)
	names, err := source.Tables(t.Context())
	if err != nil || len(names) != 1 {
		t.Fatalf("tables %v, %v", names, err)
	}
	want := postgres.Name{Schema: "Sch.ema", Table: `We"ird.Ta'ble`}
	if names[0] != want {
		t.Fatalf("listed as %+v", names[0])
	}
	if back := postgres.ParseName(want.String()); back != want {
		t.Fatalf("%s reads back as %+v", want, back)
	}
	l, err := source.Describe(t.Context(), want, postgres.Rules{})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []digest.Kind{digest.Record, digest.Portable} {
		rows := read(t, pool, l, message.Range{Lo: message.Key{"0"}}, postgres.Want{Digest: kind, Values: true})
		if len(rows) != 1 || string(rows[0].Values[1]) != "a" || rows[0].Digest == 0 {
			t.Fatalf("%s: rows %+v", kind, rows)
		}
	}
	on(t, pool, func(c *pgconn.PgConn) {
		after, err := l.Insert(t.Context(), c, []postgres.Target{{Key: message.Key{"2"}, Values: []postgres.Value{[]byte("2"), []byte("x"), []byte("7"), nil}}}, digest.Record)
		if err != nil || len(after) != 1 || after[0].JSON != `{"$1": null, "a\\b": 7, "I.d\"x": 2, "select": "x"}` {
			t.Fatalf("%+v, %v", after, err)
		}
	})
}

func TestTablesAreRootsAndOrdinaryOnes(t *testing.T) {
	t.Parallel()
	pool := fresh(t, `CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE p (id int PRIMARY KEY) PARTITION BY HASH (id);
		CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 1, REMAINDER 0); CREATE VIEW v AS SELECT 1; CREATE MATERIALIZED VIEW m AS SELECT 1 AS id;
		CREATE SEQUENCE s; CREATE SCHEMA trickle; CREATE TABLE trickle.corrections (id int); CREATE SCHEMA a; CREATE TABLE a.z (id int)`)
	names, err := postgres.NewSource(pool).Tables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(names); got != "[a.z public.b public.p]" {
		t.Errorf("tables %s", got)
	}
	_, err = postgres.NewSource(pool).Describe(t.Context(), postgres.ParseName("public.nowhere"), postgres.Rules{})
	if !errors.Is(err, postgres.ErrNoTable) || !strings.Contains(err.Error(), "public.nowhere") {
		t.Errorf("missing table: %v", err)
	}
	if _, err = postgres.NewSource(pool).Describe(t.Context(), postgres.ParseName("public.v"), postgres.Rules{}); !errors.Is(err, postgres.ErrNoTable) {
		t.Errorf("view: %v", err)
	}
}

// Every way to change a table's shape is noticed by the next read, and nothing is read.
func TestEveryAlterIsNoticed(t *testing.T) {
	t.Parallel()
	pool := fresh(t, `CREATE COLLATION other (provider = icu, locale = 'de'); CREATE TYPE mood AS ENUM ('ok'); CREATE DOMAIN short AS varchar(9)`)
	for i, alter := range []string{
		`ALTER TABLE t ADD COLUMN c int`, `ALTER TABLE t ADD COLUMN c int DEFAULT 5`, `ALTER TABLE t DROP COLUMN b`,
		`ALTER TABLE t DROP COLUMN b, ADD COLUMN b text`, `ALTER TABLE t RENAME COLUMN b TO c`, `ALTER TABLE t ALTER b TYPE varchar(10)`,
		`ALTER TABLE t ALTER n TYPE numeric(12,3)`, `ALTER TABLE t ALTER b TYPE text COLLATE other`, `ALTER TABLE t ALTER b SET NOT NULL`,
		`ALTER TABLE t ALTER i ADD GENERATED ALWAYS AS IDENTITY`, `ALTER TABLE t ALTER g DROP EXPRESSION`, `ALTER TABLE t RENAME TO u`, `DROP TABLE t`,
		`ALTER TABLE t SET SCHEMA elsewhere`, `ALTER TABLE t DROP CONSTRAINT t_pkey`, `ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (i)`,
		`ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id) DEFERRABLE`, `ALTER TYPE mood RENAME TO temper`, `ALTER DOMAIN short RENAME TO brief`,
	} {
		schema := fmt.Sprintf("s%d", i)
		exec(t, pool, fmt.Sprintf(`CREATE SCHEMA %[1]s; CREATE SCHEMA IF NOT EXISTS elsewhere; CREATE TABLE %[1]s.t (id int PRIMARY KEY, b text, n numeric(12,2), i int NOT NULL,
			g int GENERATED ALWAYS AS (i + 1) STORED, m mood, s short)`, schema))
		l := describe(t, pool, schema+".t", postgres.Rules{})
		read := func() error {
			return postgres.NewSource(pool).Read(t.Context(), l, func(*pgconn.PgConn, postgres.At) error { return nil })
		}
		if err := read(); err != nil {
			t.Fatalf("before: %v", err)
		}
		exec(t, pool, fmt.Sprintf(`SET search_path = %s, public; %s; SET search_path = public`, schema, alter))
		if err := read(); !errors.Is(err, postgres.ErrChanged) || !strings.Contains(err.Error(), schema+".t") {
			t.Errorf("%s: %v, want ErrChanged that names the table", alter, err)
		}
		on(t, pool, func(c *pgconn.PgConn) {
			if err := l.CheckShape(t.Context(), c); !errors.Is(err, postgres.ErrChanged) {
				t.Errorf("%s: CheckShape says %v", alter, err)
			}
		})
		exec(t, pool, `DROP SCHEMA elsewhere CASCADE; DROP TYPE IF EXISTS temper CASCADE; DROP DOMAIN IF EXISTS brief CASCADE;
			DROP TYPE IF EXISTS mood CASCADE; CREATE TYPE mood AS ENUM ('ok'); DROP DOMAIN IF EXISTS short CASCADE; CREATE DOMAIN short AS varchar(9)`)
	}
}

// A column that is dropped and added again with a default holds other values in rows whose version did not change: what was known of
// them must not pass for the same.
func TestFingerprintTellsAColumnFromItsSuccessor(t *testing.T) {
	t.Parallel()
	pool := fresh(t, `CREATE TABLE t (id int PRIMARY KEY, b int); INSERT INTO t SELECT i, i FROM generate_series(1, 9) i`)
	before := describe(t, pool, "public.t", postgres.Rules{}).Schema.GetFingerprint()
	if again := describe(t, pool, "public.t", postgres.Rules{}).Schema.GetFingerprint(); again != before {
		t.Fatal("the fingerprint is not stable")
	}
	exec(t, pool, `ALTER TABLE t DROP COLUMN b; ALTER TABLE t ADD COLUMN b int DEFAULT 5`)
	if after := describe(t, pool, "public.t", postgres.Rules{}).Schema.GetFingerprint(); after == before {
		t.Error("same fingerprint, though every row changed without a new version")
	}
}

func TestRulesThatNameNoColumn(t *testing.T) {
	t.Parallel()
	pool := fresh(t, `CREATE TABLE t (id int PRIMARY KEY, b int)`)
	for want, rules := range map[string]postgres.Rules{
		"columns.exclude":          {Exclude: []string{"nope"}},
		"columns.compare":          {Compare: map[string]string{"nope": "text"}},
		"quiet_column":             {QuietColumn: "nope"},
		"which belongs to the key": {Exclude: []string{"id"}},
	} {
		var mismatch *postgres.MismatchError
		_, err := postgres.NewSource(pool).Describe(t.Context(), postgres.ParseName("public.t"), rules)
		if !errors.As(err, &mismatch) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "public.t") {
			t.Errorf("%+v: %v", rules, err)
		}
	}
}

func TestFit(t *testing.T) {
	t.Parallel()
	pool := fresh(t, `CREATE TABLE s (id int PRIMARY KEY, b text, n numeric)`)
	source := describe(t, pool, "public.s", postgres.Rules{})
	loose := postgres.Rules{Compare: map[string]string{"b": "text"}}
	for i, c := range []struct {
		name, ddl string
		rules     postgres.Rules
		want      string // part of the refusal; empty: fits
	}{
		{"the same, in another order, wider, with more", `CREATE TABLE %s (extra int, n numeric(9,2), id bigint PRIMARY KEY, b varchar(20))`, postgres.Rules{}, ""},
		{"its key is unique without being the primary key", `CREATE TABLE %s (sk bigserial PRIMARY KEY, id int NOT NULL UNIQUE, b text, n numeric)`, postgres.Rules{}, ""},
		{"lacks a column", `CREATE TABLE %s (id int PRIMARY KEY, b text)`, postgres.Rules{}, `lacks column "n"`},
		{"another type", `CREATE TABLE %s (id int PRIMARY KEY, b bytea, n numeric)`, postgres.Rules{}, `column "b" is pg_catalog.text at the source, compared as pg_catalog.text, and pg_catalog.bytea here`},
		{"another type, on purpose", `CREATE TABLE %s (id int PRIMARY KEY, b bytea, n numeric)`, loose, ""},
		{"another policy", `CREATE TABLE %s (id int PRIMARY KEY, b text, n numeric)`, postgres.Rules{Compare: map[string]string{"b": "varchar(3)"}}, "same policy"},
		{"another key", `CREATE TABLE %s (id int, b text PRIMARY KEY, n numeric)`, postgres.Rules{}, "the source's key is (id)"},
		{"its unique key may be NULL", `CREATE TABLE %s (sk bigserial PRIMARY KEY, id int UNIQUE, b text, n numeric)`, postgres.Rules{}, "the source's key is (id)"},
	} {
		table := fmt.Sprintf("r%d", i)
		exec(t, pool, fmt.Sprintf(c.ddl, table))
		on(t, pool, func(conn *pgconn.PgConn) {
			own, err := postgres.Describe(t.Context(), conn, postgres.ParseName("public."+table))
			if err != nil {
				t.Fatal(err)
			}
			schema := source.Schema
			if c.want == "" {
				schema = describe(t, pool, "public.s", c.rules).Schema
			}
			_, err = postgres.Fit(own, schema, c.rules)
			var mismatch *postgres.MismatchError
			switch {
			case c.want == "" && err != nil:
				t.Errorf("%s: %v", c.name, err)
			case c.want != "" && (!errors.As(err, &mismatch) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
		})
	}
}
