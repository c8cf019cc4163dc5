package diff_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/trickle-verify/trickle/diff"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/postgres"
)

// rowsOfAllSorts fills a table with values whose text, hash or order a major version might change.
const rowsOfAllSorts = `INSERT INTO t (k, a, b, c, d, e, f, g) SELECT (ARRAY['a', 'A', 'ä', 'Z-', ' ', '日本'])[1 + i %% 6] || i,
		CASE WHEN i %% 9 > 0 THEN repeat('ü', i %% 20) || i END, CASE i %% 7 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' WHEN 2 THEN NULL ELSE i / 8.0 END::numeric,
		jsonb_build_object('ä', i, 'n', NULL, 'l', jsonb_build_array(i / 4.0, '', '{}'::jsonb)), CASE i %% 5 WHEN 0 THEN 'infinity' WHEN 1 THEN '-infinity' ELSE timestamptz '2024-01-01 UTC' + i * interval '1 us' END,
		CASE i %% 4 WHEN 0 THEN '-0' WHEN 1 THEN 'NaN' ELSE i / 3.0 END::float8, ARRAY[i, NULL, -i], ('{"b": ' || i || ', "a": 1}')::json
	FROM generate_series(1, %d) AS i;`

func TestTwoMajorVersions(t *testing.T) {
	t.Parallel()
	old, young := open(t, pgtest.Database(t)), open(t, pgtest.DatabaseOf(t, 18))
	for _, p := range []pair{{old, young}, {young, old}} {
		for _, key := range []string{"text", `text COLLATE "C"`} {
			p.both(t, "DROP TABLE IF EXISTS t; CREATE TABLE t (k "+key+" PRIMARY KEY, a text, b numeric, c jsonb, d timestamptz, e float8, f int[], g json)", fmt.Sprintf(rowsOfAllSorts, 20_000))
			if r, l := p.compare(t, table("public.t"), diff.Options{Jobs: 2}); of(r) != (counts{rows: 20_000}) {
				t.Errorf("%s, %s, %s: %+v: %.300v", key, r.Way, r.Digest, of(r), l.ids())
			}
			exec(t, p.replica, `UPDATE t SET b = 0 WHERE k = 'A7'; UPDATE t SET c = c || '{"n": 1}' WHERE k = 'Z-9'; UPDATE t SET d = d + interval '1 us' WHERE k = 'ä8'; UPDATE t SET a = '' WHERE k = 'Z-27';
				UPDATE t SET e = 0, f = '{}', g = '[]' WHERE k = 'A13'; DELETE FROM t WHERE k = ' 10'; INSERT INTO t (k) VALUES ('new')`)
			r, l := p.compare(t, table("public.t"), diff.Options{Jobs: 2})
			want := map[string][]string{
				entry(drift.Mismatched, "A7"): {"b"}, entry(drift.Mismatched, "Z-9"): {"c"}, entry(drift.Mismatched, "ä8"): {"d"}, entry(drift.Mismatched, "Z-27"): {"a"}, entry(drift.Mismatched, "A13"): {"e", "f", "g"},
				entry(drift.Missing, " 10"): {}, entry(drift.Extra, "new"): {},
			}
			if off := firstOff(want, l.found); off != "" || len(l.found) != len(want) {
				t.Errorf("%s, %s, %s: %s: %v", key, r.Way, r.Digest, off, l.found)
			}
		}
	}
}

// numberType is a type of integers, whose hash is this database's own affair: that is what another major version may be like.
func numberType(hash string) string {
	return `CREATE TYPE num; CREATE FUNCTION num_in(cstring) RETURNS num IMMUTABLE STRICT LANGUAGE internal AS 'int4in'; CREATE FUNCTION num_out(num) RETURNS cstring IMMUTABLE STRICT LANGUAGE internal AS 'int4out';
		CREATE TYPE num (INPUT = num_in, OUTPUT = num_out, INTERNALLENGTH = 4, PASSEDBYVALUE, ALIGNMENT = int4, CATEGORY = 'N'); CREATE CAST (num AS int) WITHOUT FUNCTION; CREATE CAST (int AS num) WITHOUT FUNCTION AS ASSIGNMENT;
		CREATE FUNCTION num_eq(num, num) RETURNS bool IMMUTABLE STRICT LANGUAGE internal AS 'int4eq'; CREATE OPERATOR = (LEFTARG = num, RIGHTARG = num, FUNCTION = num_eq, HASHES);
		CREATE FUNCTION num_hash(num) RETURNS int IMMUTABLE STRICT LANGUAGE internal AS 'hashint4';
		CREATE FUNCTION num_hash64(num, bigint) RETURNS bigint IMMUTABLE STRICT LANGUAGE internal AS '` + hash + `';
		CREATE OPERATOR CLASS num_hash DEFAULT FOR TYPE num USING hash AS OPERATOR 1 =, FUNCTION 1 num_hash(num), FUNCTION 2 num_hash64(num, bigint);`
}

func TestServersThatHashATypeOtherwise(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		hash string
		want digest.Kind
	}{{"hashint4extended", digest.Record}, {"hashfloat4extended", digest.Portable}} {
		p := newPair(t)
		exec(t, p.source, numberType("hashint4extended"))
		exec(t, p.replica, numberType(c.hash))
		for _, key := range []string{"text", `text COLLATE "C"`} {
			p.both(t, "DROP TABLE IF EXISTS t; CREATE TABLE t (k "+key+" PRIMARY KEY, h num DEFAULT '5', a text, b numeric, c jsonb, d timestamptz, e float8, f int[], g json)", fmt.Sprintf(rowsOfAllSorts, 20_000))
			if r, l := p.compare(t, table("public.t"), diff.Options{Jobs: 2}); r.Digest != c.want || of(r) != (counts{rows: 20_000}) {
				t.Errorf("%s, %s by %s digests: %+v: %.300v", key, r.Way, r.Digest, of(r), l.ids())
			}
			exec(t, p.replica, "UPDATE t SET h = '6' WHERE k = 'A7'; UPDATE t SET b = b + 1, g = '{}' WHERE k = 'ä38'; DELETE FROM t WHERE k = ' 10'; INSERT INTO t (k) VALUES ('new')")
			for _, options := range []diff.Options{{Jobs: 1}, {Jobs: 3, Settle: 1}} {
				r, l := p.compare(t, table("public.t"), options)
				want := map[string][]string{entry(drift.Mismatched, "A7"): {"h"}, entry(drift.Mismatched, "ä38"): {"b", "g"}, entry(drift.Missing, " 10"): {}, entry(drift.Extra, "new"): {}}
				if off := firstOff(want, l.found); off != "" || r.Differences() != 4 {
					t.Errorf("%s, %s by %s digests: %s: %v", key, r.Way, r.Digest, off, l.found)
				}
			}
		}
	}
}

func TestServersWithFewConnections(t *testing.T) {
	t.Parallel()
	const rows = 20_000
	for _, limits := range [][2]int{{2, 2}, {2, 4}, {3, 2}, {4, 4}} {
		dsns := [2]string{pgtest.Database(t), pgtest.Database(t)}
		p := pair{open(t, dsns[0]), open(t, dsns[1])}
		p.both(t, fmt.Sprintf("CREATE TABLE t (id bigint PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, %d) AS i", rows))
		exec(t, p.replica, "UPDATE t SET v = 1 WHERE id % 4 = 0")
		few := pair{open(t, pgtest.Limited(t, dsns[0], limits[0])), open(t, pgtest.Limited(t, dsns[1], limits[1]))}
		for _, options := range []diff.Options{{Jobs: 3}, {Jobs: 3, Settle: 1}} {
			r, l := few.compare(t, table("public.t"), options)
			if of(r) != (counts{rows: rows, mismatched: rows / 4}) || len(l.found) != rows/4 {
				t.Errorf("limits %v: %+v", limits, of(r))
			}
		}
	}
	dsn := pgtest.Database(t)
	p := newPair(t)
	exec(t, open(t, dsn), "CREATE TABLE t (id bigint PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1), (2, 2)")
	exec(t, p.replica, "CREATE TABLE t (id bigint PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)")
	// With one connection rows are counted, and nothing can be listed.
	p.source = open(t, pgtest.Limited(t, dsn, 1))
	r, err := diff.New(p.source, p.replica, diff.Options{Jobs: 3}).Table(t.Context(), table("public.t"))
	if err != nil || of(r) != (counts{rows: 2, missing: 1}) {
		t.Errorf("one connection: %+v, %v", of(r), err)
	}
	r, err = diff.New(p.source, p.replica, diff.Options{Found: newListing().add}).Table(t.Context(), table("public.t"))
	if postgres.State(err) != "53300" || !slices.Contains([]int64{0, 1}, r.Missing) {
		t.Errorf("one connection, and a list: %+v, %v", of(r), err)
	}
}
