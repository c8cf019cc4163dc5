package postgres_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// decoys are functions and operators that fit what trickle calls better than Postgres's own, and raise.
func decoys() string {
	var b strings.Builder
	for _, signature := range []string{
		"array_ndims(int[]) RETURNS int", "array_lower(int[], int) RETURNS int", "array_dims(int[]) RETURNS text", "cardinality(int[]) RETURNS int",
		"hashint8extended(int, bigint) RETURNS bigint", "hashint8extended(bigint, int) RETURNS bigint", "hashtextextended(text, int) RETURNS bigint",
		"hash_numeric_extended(int, bigint) RETURNS bigint", "octet_length(varchar) RETURNS int", "unnest(text[]) RETURNS SETOF text", "unnest(smallint[]) RETURNS SETOF smallint", "unnest(oid[]) RETURNS SETOF oid",
		"quote_ident(name) RETURNS text", "jsonb_build_object(text, int) RETURNS jsonb", "jsonb_build_object(text, text) RETURNS jsonb", "unnest(mood[]) RETURNS SETOF mood", "enum_range(mood) RETURNS mood[]",
	} {
		fmt.Fprintf(&b, "CREATE FUNCTION public.%s LANGUAGE plpgsql AS $$ BEGIN RAISE USING MESSAGE = 'decoy %s'; END $$;\n", signature, signature)
	}
	for n, operator := range []string{
		"< numeric int boolean", "> numeric int boolean", "- numeric bigint numeric", "- numeric int numeric", "|| text int text", "& bigint int bigint", "% bigint int bigint", "= bigint int boolean",
		"= varchar varchar boolean", "> varchar varchar boolean", "<= varchar varchar boolean", "= mood mood boolean", "> mood mood boolean", "<= mood mood boolean",
	} {
		f := strings.Fields(operator)
		fmt.Fprintf(&b, "CREATE FUNCTION public.decoy%d(%s, %s) RETURNS %s LANGUAGE plpgsql AS $$ BEGIN RAISE USING MESSAGE = 'decoy %s'; END $$;\n", n, f[1], f[2], f[3], operator)
		fmt.Fprintf(&b, "CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.decoy%d);\n", f[0], f[1], f[2], n)
	}
	return b.String()
}

// Whoever may create in public must not have what he made there called by whoever compares.
func TestWhatIsInPublicIsNotCalled(t *testing.T) {
	t.Parallel()
	pool := fresh(t, `CREATE TYPE mood AS ENUM ('sad', 'ok')`, decoys())
	for _, key := range []struct{ typ, one, other string }{{"varchar(9)", "a", "b"}, {"mood", "sad", "ok"}, {"int", "1", "2"}} {
		exec(t, pool, fmt.Sprintf(`DROP TABLE IF EXISTS f, t; CREATE TABLE t (id %[1]s PRIMARY KEY, n numeric, i int, b bigint, l int[], m mood, ns numeric[], v varchar);
			CREATE TABLE f (id int PRIMARY KEY, t %[1]s REFERENCES t ON DELETE CASCADE);
			INSERT INTO t VALUES ('%[2]s', 1.5, 1, 2, '{1,2}', 'ok', '{1.0}', 'x'), ('%[3]s', 2.5, 1, 2, '{1,2}', 'ok', '{1.0}', 'x'); INSERT INTO f VALUES (1, '%[2]s')`, key.typ, key.one, key.other))
		l := describe(t, pool, "public.t", postgres.Rules{})
		ctx := t.Context()
		one, other := message.Key{key.one}, message.Key{key.other}
		for _, kind := range []digest.Kind{digest.Record, digest.Portable} {
			on(t, pool, func(c *pgconn.PgConn) {
				check := func(what string, err error) {
					t.Helper()
					if err != nil {
						t.Errorf("%s, %s, %s: %v", key.typ, kind, what, err)
					}
				}
				_, err := l.Probe(ctx, c)
				check("probe", err)
				_, err = l.Thumbprint(ctx, c, message.Range{Lo: one, Hi: other}, []message.Key{one}, kind)
				check("thumbprint", err)
				_, err = l.Sums(ctx, c, []message.Range{{Hi: one}, {Lo: one, Hi: other}, {Lo: other}}, kind)
				check("sums", err)
				_, err = l.SumBuckets(ctx, c, postgres.Buckets{Mask: 3}, kind)
				check("buckets", err)
				check("list", l.List(ctx, c, postgres.Part{Mask: 3, Buckets: []int64{0, 1, 2, 3}}, kind, func(postgres.Entry) error { return nil }))
				_, err = l.Boundaries(ctx, c, message.Range{}, 1)
				check("boundaries", err)
				rows, err := l.Rows(ctx, c, []message.Key{one, other}, postgres.Want{Digest: kind, Settled: postgres.Settled{Xmin: 3}, Values: true})
				check("rows", err)
				targets := make([]postgres.Target, len(rows))
				for i, r := range rows {
					if !r.Present {
						t.Errorf("%s: row %d is not there", key.typ, i)
					}
					targets[i] = postgres.Target{Key: r.Key, Version: r.Version, Digest: r.Digest, Values: r.Values}
				}
				found, err := l.Cascades(ctx, c, targets)
				check("cascades", err)
				if !strings.Contains(found, "public.f") {
					t.Errorf("%s: cascades: %q", key.typ, found)
				}
				images, err := l.Lock(ctx, c, targets, kind)
				check("lock", err)
				if len(images) != 2 {
					t.Errorf("%s: %d of 2 rows locked", key.typ, len(images))
				}
				_, err = l.Update(ctx, c, targets, kind)
				check("update", err)
				_, err = l.Delete(ctx, c, targets[1:])
				check("delete", err)
				images, err = l.Insert(ctx, c, targets[1:], kind)
				check("insert", err)
				if len(images) != 1 || images[0].N != 0 {
					t.Errorf("%s: inserted %v", key.typ, images)
				}
			})
		}
	}
}

func TestExtensionsInASchemaOfTheirOwn(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	exec(t, open(t, dsn), `CREATE SCHEMA "my extensions"; CREATE EXTENSION ltree SCHEMA "my extensions"; CREATE EXTENSION citext SCHEMA "my extensions"`)
	pool := open(t, dsn)
	for _, c := range []struct{ typ, one, other, spelt string }{{"ltree", "a.b", "a.c", "a.b"}, {"citext", "A", "B", "a"}} {
		exec(t, pool, fmt.Sprintf(`DROP TABLE IF EXISTS t; CREATE TABLE t (id "my extensions".%[1]s, n int, v "my extensions".%[1]s, PRIMARY KEY (id, n)); INSERT INTO t VALUES ('%[2]s', 1, '%[2]s'), ('%[3]s', 1, NULL)`, c.typ, c.one, c.other))
		l := describe(t, pool, "public.t", postgres.Rules{Where: "v = v OR v IS NULL"})
		on(t, pool, func(conn *pgconn.PgConn) {
			for _, kind := range []digest.Kind{digest.Record, digest.Portable} {
				rows, err := l.Rows(t.Context(), conn, []message.Key{{c.spelt, "1"}}, postgres.Want{Digest: kind, Values: true})
				if err != nil || !rows[0].Present {
					t.Errorf("%s: no row is found by its key %s: %v", c.typ, c.spelt, err)
				}
				print, err := l.Thumbprint(t.Context(), conn, message.Range{Lo: message.Key{c.spelt, "1"}, Hi: message.Key{c.other, "1"}}, nil, kind)
				if err != nil || print.Rows != 1 {
					t.Errorf("%s: %d rows follow the first: %v", c.typ, print.Rows, err)
				}
			}
		})
	}
}

// Nor by whoever describes a table, samples it or takes a snapshot of it.
func TestWhatIsInPublicIsNotCalledByASnapshot(t *testing.T) {
	t.Parallel()
	pool := fresh(t, `CREATE TABLE t (id int PRIMARY KEY, v text) ; INSERT INTO t SELECT i, repeat('v', 50) FROM generate_series(1, 9000) i; ANALYZE t`)
	var decoys strings.Builder
	for n, signature := range []string{
		`concat_ws(text, smallint, name, oid, regtype, int, oid, boolean, "char", "char") RETURNS text`, "concat_ws(text, int2vector, smallint, boolean, boolean) RETURNS text",
		"format(text, bigint, int) RETURNS text", "generate_series(int, bigint) RETURNS SETOF bigint", "pg_relation_size(oid) RETURNS bigint", "cardinality(smallint[]) RETURNS int",
		"generate_subscripts(smallint[], int) RETURNS SETOF int", "to_jsonb(pg_database) RETURNS jsonb", "times(numeric, int) RETURNS numeric",
	} {
		fmt.Fprintf(&decoys, "CREATE FUNCTION public.%s LANGUAGE plpgsql AS $$ BEGIN RAISE USING MESSAGE = 'decoy %d'; END $$;\n", signature, n)
	}
	exec(t, pool, decoys.String(), "CREATE OPERATOR public.* (LEFTARG = numeric, RIGHTARG = int, FUNCTION = public.times)")
	l := describe(t, pool, "public.t", postgres.Rules{})
	s, err := postgres.OpenSnapshot(t.Context(), pool, l, postgres.SnapshotOptions{Connections: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.Do(t.Context(), func(c *pgconn.PgConn) error {
		ordered, err := l.Ordered(t.Context(), c)
		if err != nil || !ordered {
			return fmt.Errorf("ordered: %t, %w", ordered, err)
		}
		sample, err := l.Sample(t.Context(), c, 100, 100)
		if len(sample.Keys) == 0 {
			return fmt.Errorf("no sample: %w", err)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if err := s.Unchanged(t.Context()); err != nil {
		t.Error(err)
	}
}
