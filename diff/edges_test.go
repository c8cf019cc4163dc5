package diff_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/diff"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/postgres"
)

// fill makes a table on both sides, of as many rows as each shall have.
func (p pair) fill(t fataler, key string, source, replica string) {
	t.Helper()
	for i, rows := range []string{source, replica} {
		pool := p.source
		if i == 1 {
			pool = p.replica
		}
		exec(t, pool, "DROP TABLE IF EXISTS t", "CREATE TABLE t (id "+key+" PRIMARY KEY, v text)", "INSERT INTO t "+rows)
	}
}

// asc are the rows from one number to another, in this order.
func asc(from, to int) string {
	return fmt.Sprintf("SELECT i, 'v' || i FROM generate_series(%d, %d) AS i ORDER BY i", from, to)
}

func TestNothingAndEverything(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	const n = 12_000
	none := "SELECT 1, 'x' WHERE false"
	for _, key := range []string{"bigint", "numeric", `text COLLATE "en-x-icu"`} {
		for name, c := range map[string]struct {
			source, replica string
			want            counts
		}{
			"both empty":                     {none, none, counts{}},
			"source empty":                   {none, asc(1, n), counts{extra: n}},
			"replica empty":                  {asc(1, n), none, counts{rows: n, missing: n}},
			"one row":                        {asc(1, 1), asc(1, 1), counts{rows: 1}},
			"another row":                    {asc(1, 1), asc(2, 2), counts{rows: 1, missing: 1, extra: 1}},
			"everything differs":             {asc(1, n), asc(1, n) + " ; UPDATE t SET v = v || '!'", counts{rows: n, mismatched: n}},
			"nothing in common":              {asc(1, n), asc(n+1, 2*n), counts{rows: n, missing: n, extra: n}},
			"the replica is much larger":     {asc(1000, 1010), asc(1, n), counts{rows: 11, extra: n - 11}},
			"the source is much larger":      {asc(1, n), asc(1000, 1010), counts{rows: n, missing: n - 11}},
			"rows behind and before the end": {asc(1, n), asc(-100, n+100), counts{rows: n, extra: 201}},
		} {
			p.fill(t, key, strings.Replace(c.source, "SELECT i", "SELECT i::"+key[:min(len(key), 7)], 1), c.replica)
			for _, jobs := range []int{1, 3} {
				r, l := p.compare(t, table("public.t"), diff.Options{Jobs: jobs})
				counted, err := diff.New(p.source, p.replica, diff.Options{Jobs: jobs}).Table(t.Context(), table("public.t"))
				if err != nil || of(r) != c.want || of(counted) != c.want {
					t.Errorf("%s, %s, %d jobs: listed %+v, counted %+v, there are %+v: %v", key, name, jobs, of(r), of(counted), c.want, err)
				}
				if int64(len(l.found)) != r.Differences() {
					t.Errorf("%s, %s: %d listed of %d", key, name, len(l.found), r.Differences())
				}
			}
		}
	}
}

// A listing that has had enough costs no more than that, and counts go on.
func TestListEnds(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.fill(t, "bigint", asc(1, 9000), asc(1, 9000)+"; UPDATE t SET v = 'other'")
	for _, most := range []int{0, 1, 700} {
		l := newListing()
		r, _ := p.compare(t, table("public.t"), diff.Options{Jobs: 3, Found: l.add, List: func() bool { return len(l.whole) < most }})
		if r.Mismatched != 9000 || len(l.whole) != most {
			t.Errorf("%d counted, %d listed of %d", r.Mismatched, len(l.whole), most)
		}
	}
}

func TestLargeValuesAreListed(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	// Their sizes differ, so one side's page ends before the other's.
	const rows = 60
	p.both(t, "CREATE TABLE t (id bigint PRIMARY KEY, v text, w int); ALTER TABLE t ALTER v SET STORAGE EXTERNAL",
		fmt.Sprintf("INSERT INTO t SELECT i, repeat(i %% 10 || '-', 600000 + 10000 * i), 0 FROM generate_series(1, %d) AS i", rows))
	exec(t, p.replica, "UPDATE t SET v = CASE WHEN id % 2 = 0 THEN v || 'x' ELSE 'short' END; DELETE FROM t WHERE id = 7; UPDATE t SET w = 1 WHERE id = 8")
	for _, options := range []diff.Options{{Jobs: 3}, {Jobs: 1, Settle: 1}} {
		r, l := p.compare(t, table("public.t"), options)
		if of(r) != (counts{rows: rows, missing: 1, mismatched: rows - 1}) || len(l.whole) != rows {
			t.Errorf("%+v, %d listed", of(r), len(l.whole))
		}
		for _, d := range l.whole {
			if d.Kind != drift.Mismatched {
				continue
			}
			if len(d.Columns) == 0 || d.Columns[0].Name != "v" || len(d.Columns[0].Source) < 1<<20 || bytes.Equal(d.Columns[0].Source, d.Columns[0].Replica) {
				t.Fatalf("row %s: %d columns", d.Key[0].Value, len(d.Columns))
			}
			if (len(d.Columns) == 2) != (d.Key[0].Value == "8") {
				t.Errorf("row %s: %d columns differ", d.Key[0].Value, len(d.Columns))
			}
		}
	}
}

// Keys that Postgres's own hashes take for one: bigint folds its halves onto each other, numeric leaves out the sign.
func TestKeysOfOneHash(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	for key, c := range map[string]struct {
		source, replica string
		want            []string
	}{
		"bigint":    {"(1), (-1), (5)", "(4294967296), (4294967295), (5)", []string{"extra 4294967295", "extra 4294967296", "missing -1", "missing 1"}},
		"numeric":   {"(1), (-2.50), ('NaN'), (7)", "(-1), (2.5), ('Infinity'), (7.0)", []string{"extra -1", "extra 2.5", "extra Infinity", "missing -2.50", "missing 1", "missing NaN"}},
		"numeric[]": {"('{1}'), ('{}')", "('{-1}'), ('{NULL}')", []string{"extra {-1}", "extra {NULL}", "missing {1}", "missing {}"}},
	} {
		exec(t, p.source, "DROP TABLE IF EXISTS t; CREATE TABLE t (k "+key+" PRIMARY KEY, v int DEFAULT 1); INSERT INTO t VALUES "+c.source)
		exec(t, p.replica, "DROP TABLE IF EXISTS t; CREATE TABLE t (k "+key+" PRIMARY KEY, v int DEFAULT 1); INSERT INTO t VALUES "+c.replica)
		r, l := p.compare(t, table("public.t"), diff.Options{})
		if !slices.Equal(l.ids(), c.want) || r.Differences() != int64(len(c.want)) {
			t.Errorf("%s: %d: %q, not %q", key, r.Differences(), l.ids(), c.want)
		}
	}
	// What differs is told by the same hashes, column by column.
	p.both(t, "DROP TABLE t; CREATE TABLE t (k int PRIMARY KEY, a bigint, b numeric, c text, d jsonb)")
	exec(t, p.source, `INSERT INTO t VALUES (1, 1, 1.0, 'x', NULL)`)
	exec(t, p.replica, `INSERT INTO t VALUES (1, 4294967296, -1, 'y', '[[]]')`)
	if _, l := p.compare(t, table("public.t"), diff.Options{}); !slices.Equal(l.found["mismatched 1"], []string{"a", "b", "c", "d"}) {
		t.Errorf("columns %v", l.found)
	}
}

// A key column that sorts otherwise on the other side, or that only looks otherwise, makes no false difference.
func TestCollationsMakeNoDifference(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	sorts := []string{`text COLLATE "C"`, `text COLLATE "en-x-icu"`, `text COLLATE "de-x-icu"`, "text", `varchar(30) COLLATE "C"`}
	for i, sort := range sorts {
		for j, other := range sorts {
			if i == j && i > 0 {
				continue
			}
			for k, typ := range []string{sort, other} {
				pool := []string{"", "DELETE FROM t WHERE k = 'ä17'; UPDATE t SET v = 1 WHERE k = 'Z-100'; INSERT INTO t VALUES ('zz', 0)"}
				sql := "DROP TABLE IF EXISTS t; CREATE TABLE t (k " + typ + ` PRIMARY KEY, v int); INSERT INTO t SELECT (ARRAY['a', 'A', 'ä', 'z', 'Z-', ' ', '-'])[1 + i % 7] || i, 0 FROM generate_series(1, 12000) AS i;` +
					`INSERT INTO t VALUES ('ä17', 0), ('Z-100', 0) ON CONFLICT DO NOTHING;` + pool[k]
				if k == 0 {
					exec(t, p.source, sql)
				} else {
					exec(t, p.replica, sql)
				}
			}
			r, l := p.compare(t, table("public.t"), diff.Options{Jobs: 2})
			want := []string{entry(drift.Extra, "zz"), entry(drift.Mismatched, "Z-100"), entry(drift.Missing, "ä17")}
			if !slices.Equal(l.ids(), want) {
				t.Errorf("%s against %s, %s: %v", sort, other, r.Way, l.ids())
			}
			if strings.Contains(other+sort, "icu") && r.Way == postgres.ByKey {
				t.Errorf("%s against %s is read %s", sort, other, r.Way)
			}
		}
	}
}

// Postgres's hash of a time folds its 64 bits onto 32: no key is taken for another that folds alike.
func TestKeysThatFoldAlike(t *testing.T) {
	t.Parallel()
	for typ, keys := range map[string][2]string{
		"timestamptz": {"2000-01-01 00:00:00.000001+00", "2000-01-01 01:11:34.967296+00"},
		"timestamp":   {"2000-01-01 00:00:00.000001", "2000-01-01 01:11:34.967296"},
		"time":        {"00:00:00.000001", "01:11:34.967296"},
		"interval":    {"00:00:00.000001", "01:11:34.967296"},
		"tstzrange":   {"[2000-01-01 00:00:00.000001+00,)", "[2000-01-01 01:11:34.967296+00,)"},
		"time[]":      {"{00:00:00.000001}", "{01:11:34.967296}"},
	} {
		t.Run(typ, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.both(t, "CREATE TABLE t (k "+typ+" PRIMARY KEY, v int)")
			exec(t, p.source, "INSERT INTO t VALUES ('"+keys[0]+"', 1)")
			exec(t, p.replica, "INSERT INTO t VALUES ('"+keys[1]+"', 2)")
			if r, l := p.compare(t, table("public.t"), diff.Options{Jobs: 1}); of(r) != (counts{rows: 1, missing: 1, extra: 1}) || len(l.found) != 2 {
				t.Errorf("%+v, listed %v", of(r), l.found)
			}
		})
	}
}

// Two spellings of one interval are one key.
func TestIntervalKeysThatAreEqual(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.both(t, "CREATE TABLE t (k interval PRIMARY KEY, v int)")
	exec(t, p.source, "INSERT INTO t VALUES ('1 mon', 1), ('1 year 1 day', 1), ('-2 years -1 hour', 1), ('3 days', 1)")
	exec(t, p.replica, "INSERT INTO t VALUES ('30 days', 1), ('361 days', 1), ('-719 days -25 hours', 1), ('72:00:00', 2)")
	if r, l := p.compare(t, table("public.t"), diff.Options{Jobs: 1}); of(r) != (counts{rows: 4, mismatched: 1}) || len(l.found) != 1 {
		t.Errorf("%+v, listed %v", of(r), l.found)
	}
}

// A partition that is attached in the middle is read by some statements and not by others: the table is begun anew.
func TestPartitionAttachedMeanwhile(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.both(t, `CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE a PARTITION OF t FOR VALUES FROM (0) TO (10); INSERT INTO t VALUES (1);
		CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (11);
		CREATE FUNCTION gate() RETURNS bool LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN true; END'`)
	exec(t, p.replica, "ALTER TABLE t ATTACH PARTITION b FOR VALUES FROM (10) TO (20)")
	guard, err := p.source.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer guard.Release()
	if _, err := guard.Exec(t.Context(), "SELECT pg_advisory_lock(1)"); err != nil {
		t.Fatal(err)
	}
	compared := table("public.t")
	compared.Rules.Where = "gate()"
	type outcome struct {
		result diff.Result
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		r, err := diff.New(p.source, p.replica, diff.Options{Jobs: 1}).Table(t.Context(), compared)
		done <- outcome{r, err}
	}()
	eventually(t, patience, func() error {
		var waiting int
		err := guard.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database WHERE d.datname = current_database() AND locktype = 'advisory' AND NOT granted").Scan(&waiting)
		if err == nil && waiting == 0 {
			err = errors.New("nobody reads yet")
		}
		return err
	})
	exec(t, p.source, "ALTER TABLE t ATTACH PARTITION b FOR VALUES FROM (10) TO (20)")
	if _, err := guard.Exec(t.Context(), "SELECT pg_advisory_unlock(1)"); err != nil {
		t.Fatal(err)
	}
	if o := <-done; o.err != nil || of(o.result) != (counts{rows: 2}) {
		t.Errorf("%+v, %v", of(o.result), o.err)
	}
}

// In SQL_ASCII text is whatever bytes were written. They are compared, and listed as they are.
func TestKeysOfNoEncoding(t *testing.T) {
	t.Parallel()
	ascii := func() *pgxpool.Pool {
		dsn, err := url.Parse(pgtest.Database(t))
		if err != nil {
			t.Fatal(err)
		}
		admin, name := open(t, dsn.String()), strings.TrimPrefix(dsn.Path, "/")+"_ascii"
		exec(t, admin, `CREATE DATABASE "`+name+`" TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'`)
		t.Cleanup(func() { exec(t, admin, `DROP DATABASE "`+name+`" WITH (FORCE)`) })
		dsn.Path = "/" + name
		return open(t, dsn.String())
	}
	p := pair{ascii(), ascii()}
	p.both(t, `CREATE TABLE t (id text PRIMARY KEY, v text); INSERT INTO t SELECT lpad(i::text, 7, '0') || E'\374', 'x' FROM generate_series(1, 20000) i; ANALYZE t`)
	exec(t, p.replica, `UPDATE t SET v = E'\344' WHERE id LIKE '0000100%'; DELETE FROM t WHERE id LIKE '0000200%'`)
	for _, list := range []bool{false, true} {
		r, l := p.compare(t, table("public.t"), diff.Options{Jobs: 1, List: func() bool { return list }})
		if of(r) != (counts{rows: 20000, missing: 1, mismatched: 1}) || r.Way != postgres.ByHeap {
			t.Errorf("%+v, %s", of(r), r.Way)
		}
		if _, ok := l.found[entry(drift.Mismatched, "0000100\xfc")]; list && (!ok || len(l.found) != 2) {
			t.Errorf("listed %q", l.ids())
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := diff.New(p.source, p.replica, diff.Options{Settle: time.Millisecond}).Table(ctx, table("public.t")); err == nil || !strings.Contains(err.Error(), "SQL_ASCII") {
		t.Errorf("%v: does not say what to do", err)
	}
}
