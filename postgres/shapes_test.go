package postgres_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// whole is a table's thumbprint.
func whole(t *testing.T, pool *pgxpool.Pool, l *postgres.Layout, kind digest.Kind) (print digest.Thumbprint) {
	t.Helper()
	on(t, pool, func(c *pgconn.PgConn) {
		var err error
		if print, err = l.Thumbprint(t.Context(), c, message.Range{}, nil, kind); err != nil {
			t.Fatal(err)
		}
	})
	return print
}

// Two tables of the same rows have one thumbprint however each keeps them, and a changed value shows.
func TestTablesOfAnyShape(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		source, replica string // DDL, with the rows where they can't come by inserts
		table           string // empty: public.t on both sides
		insert          string // on both sides
		change          string // in the replica
	}{
		"generated at one side and plain at the other": {
			source:  `CREATE TABLE t (id int PRIMARY KEY, v int, g int GENERATED ALWAYS AS (v * 2) STORED)`,
			replica: `CREATE TABLE t (g int, v int, id int PRIMARY KEY); CREATE FUNCTION twice() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.g := NEW.v * 2; RETURN NEW; END'; CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION twice()`,
			insert:  `INSERT INTO t (id, v) SELECT i, i FROM generate_series(1, 9) i`, change: `UPDATE t SET g = 0 WHERE id = 3`,
		},
		"identity": {
			source:  `CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text)`,
			replica: `CREATE TABLE t (v varchar(10), id int PRIMARY KEY)`,
			insert:  `INSERT INTO t (id, v) OVERRIDING SYSTEM VALUE SELECT i, i::text FROM generate_series(1, 9) i`, change: `UPDATE t SET id = 30 WHERE id = 3`,
		},
		"other partitions": {
			source: `CREATE TABLE t (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id); CREATE TABLE low PARTITION OF t FOR VALUES FROM (MINVALUE) TO (5); CREATE TABLE high PARTITION OF t FOR VALUES FROM (5) TO (MAXVALUE)`,
			replica: `CREATE TABLE t (gone int, v text, id int PRIMARY KEY) PARTITION BY HASH (id); ALTER TABLE t DROP gone; CREATE TABLE even PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);
				CREATE TABLE odd (id int NOT NULL, junk int, v text); ALTER TABLE odd DROP junk; ALTER TABLE t ATTACH PARTITION odd FOR VALUES WITH (MODULUS 2, REMAINDER 1)`,
			insert: `INSERT INTO t (id, v) SELECT i, i::text FROM generate_series(1, 9) i`, change: `UPDATE t SET v = NULL WHERE id = 9`,
		},
		"partitions of partitions and no partitions": {
			source: `CREATE TABLE t (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at); CREATE TABLE y PARTITION OF t FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY LIST (id);
				CREATE TABLE y1 PARTITION OF y FOR VALUES IN (1, 2, 3); CREATE TABLE rest PARTITION OF y DEFAULT`,
			replica: `CREATE TABLE t (id int, at date, PRIMARY KEY (id, at))`,
			insert:  `INSERT INTO t (id, at) SELECT i, date '2024-01-01' + i FROM generate_series(1, 9) i`, change: `DELETE FROM t WHERE id = 9`,
		},
		"an inheritance child with rows of its own": {
			source:  `CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE child (more int) INHERITS (t); INSERT INTO child SELECT i, i::text, 1 FROM generate_series(1, 109) i`,
			replica: `CREATE TABLE t (id int PRIMARY KEY, v text)`,
			insert:  `INSERT INTO t SELECT i, i::text FROM generate_series(1, 9) i`, change: `UPDATE t SET v = '' WHERE id = 9`,
		},
		"names that need quotes": {
			table:   `"Sch.ema"."We""ird.Ta'ble"`,
			source:  `CREATE SCHEMA "Sch.ema"; CREATE TABLE "Sch.ema"."We""ird.Ta'ble" ("I.d""x" int PRIMARY KEY, "select" text, "a\b" numeric, "$1" int)`,
			replica: `CREATE SCHEMA "Sch.ema"; CREATE TABLE "Sch.ema"."We""ird.Ta'ble" ("$1" int, "SELECT" int, "a\b" numeric, "I.d""x" int PRIMARY KEY, "select" text)`,
			insert:  `INSERT INTO "Sch.ema"."We""ird.Ta'ble" ("I.d""x", "select", "a\b") SELECT i, '\' || i, i FROM generate_series(1, 9) i`, change: `UPDATE "Sch.ema"."We""ird.Ta'ble" SET "a\b" = -"a\b" WHERE "I.d""x" = 4`,
		},
		"large values, kept compressed, apart, or both": {
			source:  `CREATE TABLE t (id int PRIMARY KEY, v text, b bytea, j jsonb, a int[], n numeric, x xml)`,
			replica: `CREATE TABLE t (id int PRIMARY KEY, v text, b bytea, j jsonb, a int[], n numeric, x xml); ALTER TABLE t ALTER v SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL, ALTER j SET STORAGE EXTERNAL, ALTER a SET STORAGE EXTERNAL, ALTER n SET STORAGE EXTERNAL`,
			insert: `INSERT INTO t SELECT i, repeat('ü' || i, 600000), decode(repeat('00ff', 600000), 'hex'), jsonb_build_object('v', repeat('x', 1200000)), array_agg(k), ('1' || repeat('0', 40000))::numeric + i, ('<a>' || repeat('y', 1200000) || '</a>')::xml
				FROM generate_series(1, 2) i, generate_series(1, 300000) k GROUP BY i`,
			change: `UPDATE t SET v = v || 'x' WHERE id = 1`,
		},
		"one of a million elements": {
			source: `CREATE TABLE t (id int PRIMARY KEY, a int[])`, replica: `CREATE TABLE t (id int PRIMARY KEY, a int[])`,
			insert: `INSERT INTO t SELECT 1, array_agg(k) FROM generate_series(1, 1000000) k`, change: `UPDATE t SET a[500000] = 0`,
		},
		"nothing": {
			source: `CREATE TABLE t (id int PRIMARY KEY)`, replica: `CREATE TABLE t (id int PRIMARY KEY, v int)`, insert: `SELECT 1`, change: `INSERT INTO t VALUES (0)`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.table == "" {
				c.table = "public.t"
			}
			a, b := fresh(t, c.source, c.insert), fresh(t, c.replica, c.insert)
			la := describe(t, a, c.table, postgres.Rules{})
			lb := fit(t, b, c.table, la, postgres.Rules{})
			prints := make(map[digest.Kind]digest.Thumbprint)
			for _, kind := range []digest.Kind{digest.Record, digest.Portable} {
				prints[kind] = whole(t, a, la, kind)
				if there := whole(t, b, lb, kind); there != prints[kind] {
					t.Errorf("%s: %+v and %+v", kind, prints[kind], there)
				}
			}
			exec(t, b, c.change)
			lb = fit(t, b, c.table, la, postgres.Rules{})
			for kind, here := range prints {
				if there := whole(t, b, lb, kind); there == here {
					t.Errorf("%s: %s: does not show", kind, c.change)
				}
			}
		})
	}
}

// What compares as one type on both sides may be written with other modifiers, under a domain or at another width.
func TestTypesThatCompare(t *testing.T) {
	t.Parallel()
	pool := fresh(t, `CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext; CREATE DOMAIN cents AS numeric(9,2); CREATE DOMAIN label AS varchar(9); CREATE TYPE mood AS ENUM ('1', '5')`)
	for i, c := range []struct {
		source, replica, literal string
		fits                     bool
	}{
		{"int2", "int8", "5", true}, {"int8", "int4", "-5", true}, {"numeric", "numeric(9,2)", "-1.50", true}, {"cents", "numeric", "1.50", true}, {"text", "varchar(9)", "a ", true}, {"label", "text", "a", true},
		{"mood", "text", "5", true}, {"text", "mood", "5", true}, {"timestamptz(3)", "timestamptz", "2024-01-01 00:00+00", true}, {"json", "jsonb", `{"b": 1, "a": 2}`, true}, {"float8", "float8", "-0", true},
		{"int4", "numeric", "5", false}, {"int4", "text", "5", false}, {"timestamp", "timestamptz", "2024-01-01", false}, {"float4", "float8", "1.1", false}, {"text", "ext.citext", "a", false}, {"text", "char(9)", "a", false}, {"text", "name", "a", false},
		{"uuid", "text", "00112233-4455-6677-8899-aabbccddeeff", false}, {"int4[]", "int8[]", "{1}", false}, {"bytea", "text", "a", false},
	} {
		s, r := fmt.Sprintf("s%d", i), fmt.Sprintf("r%d", i)
		exec(t, pool, fmt.Sprintf(`CREATE TABLE %[1]s (id int PRIMARY KEY, v %[2]s); CREATE TABLE %[3]s (v %[4]s, id int PRIMARY KEY); INSERT INTO %[1]s VALUES (1, '%[5]s'), (2, NULL); INSERT INTO %[3]s (id, v) SELECT id, v::text::%[4]s FROM %[1]s`,
			s, c.source, r, c.replica, c.literal))
		for _, rules := range []postgres.Rules{{}, {Compare: map[string]string{"v": "text"}}} {
			source := describe(t, pool, "public."+s, rules)
			on(t, pool, func(conn *pgconn.PgConn) {
				own, err := postgres.Describe(t.Context(), conn, postgres.ParseName("public."+r))
				if err != nil {
					t.Fatal(err)
				}
				l, err := postgres.Fit(own, source.Schema, rules)
				if fits := c.fits || rules.Compare != nil; fits != (err == nil) {
					t.Fatalf("%s at the source, %s in the replica: %v", c.source, c.replica, err)
				} else if !fits {
					says(t, err, `column "v"`, "columns.compare", declared(c.source), declared(c.replica))
					return
				}
				if rules.Compare != nil && (c.source == "json" || c.source == "numeric" || c.source == "cents") {
					return // not the same text
				}
				for _, kind := range []digest.Kind{digest.Record, digest.Portable} {
					here, err := source.Thumbprint(t.Context(), conn, message.Range{}, nil, kind)
					if err != nil {
						t.Fatal(err)
					}
					if there, err := l.Thumbprint(t.Context(), conn, message.Range{}, nil, kind); err != nil || c.fits && here != there {
						t.Errorf("%s at the source, %s in the replica, %s, %v: %+v and %+v, %v", c.source, c.replica, kind, rules.Compare, here, there, err)
					}
				}
			})
		}
	}
}

// declared is a type of the table above as an error calls it.
func declared(typ string) string {
	switch typ {
	case "char(9)":
		return "pg_catalog.bpchar"
	case "ext.citext":
		return typ
	case "int4[]", "int8[]":
		return "pg_catalog._" + typ[:4]
	default:
		return "pg_catalog." + typ
	}
}

func says(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v: does not say %s", err, part)
		}
	}
}

// A type may have a hash in one version of its extension and none in another.
func TestTypeThatOnlyOneSideCanHash(t *testing.T) {
	t.Parallel()
	const ddl = `CREATE TYPE code; CREATE FUNCTION code_in(cstring) RETURNS code LANGUAGE internal IMMUTABLE STRICT AS 'byteain'; CREATE FUNCTION code_out(code) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'byteaout';
		CREATE TYPE code (INPUT = code_in, OUTPUT = code_out, LIKE = bytea, CATEGORY = 'S'); CREATE DOMAIN short AS code; CREATE TABLE t (id int PRIMARY KEY, v code, w short); INSERT INTO t VALUES (1, 'a', 'b'), (2, NULL, '')`
	const hash = `CREATE FUNCTION code_eq(code, code) RETURNS bool LANGUAGE internal IMMUTABLE STRICT AS 'byteaeq'; CREATE OPERATOR = (LEFTARG = code, RIGHTARG = code, FUNCTION = code_eq, HASHES);
		CREATE FUNCTION code_hash(code) RETURNS int LANGUAGE internal IMMUTABLE STRICT AS 'hashvarlena'; CREATE FUNCTION code_hash(code, bigint) RETURNS bigint LANGUAGE internal IMMUTABLE STRICT AS 'hashvarlenaextended';
		CREATE OPERATOR CLASS code_ops DEFAULT FOR TYPE code USING hash AS OPERATOR 1 =, FUNCTION 1 code_hash(code), FUNCTION 2 code_hash(code, bigint)`
	hashes, cannot := fresh(t, ddl, hash), fresh(t, ddl)
	for name, c := range map[string]struct {
		source, replica *pgxpool.Pool
		alike           bool // in their record digests
	}{
		"the replica can't": {hashes, cannot, false},
		"the source can't":  {cannot, hashes, true}, // as text
		"both can":          {hashes, hashes, true},
	} {
		ls := describe(t, c.source, "public.t", postgres.Rules{})
		lr := fit(t, c.replica, "public.t", ls, postgres.Rules{})
		on(t, c.replica, func(conn *pgconn.PgConn) {
			probe, err := lr.Probe(t.Context(), conn)
			if err != nil || (probe == ls.Schema.GetProbe()) != c.alike {
				t.Errorf("%s: probes %x and %x, %v", name, ls.Schema.GetProbe(), probe, err)
			}
		})
		if here, there := whole(t, c.source, ls, digest.Portable), whole(t, c.replica, lr, digest.Portable); here != there {
			t.Errorf("%s: %+v and %+v", name, here, there)
		}
		if c.alike {
			if here, there := whole(t, c.source, ls, digest.Record), whole(t, c.replica, lr, digest.Record); here != there {
				t.Errorf("%s: %+v and %+v", name, here, there)
			}
		}
	}
}
