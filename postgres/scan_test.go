package postgres_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// Ranges cut anywhere cover every row once, whatever the key's type.
func TestRangesAddUp(t *testing.T) {
	t.Parallel()
	pool := fresh(t, `CREATE TYPE mood AS ENUM ('z', 'a', 'm', 'b')`)
	for name, c := range map[string]struct{ columns, key, rows string }{
		"negative ints": {"a int", "a", "SELECT i FROM generate_series(-20, 20, 2) i"},
		"uuid":          {"a uuid", "a", "SELECT md5(i::text)::uuid FROM generate_series(1, 20) i"},
		"text":          {"a text", "a", "VALUES (''), (' '), ('a'), ('A'), ('ä'), ('b''\"\\,{}'), ('NULL'), ('Z'), ('日本')"},
		"composite":     {"a int, b text, c date", "a, b, c", "SELECT i % 3, j::text, '2024-01-01'::date + i FROM generate_series(1, 6) i, generate_series(1, 11, 5) j"},
		"11 and 1":      {"a int, b int", "a, b", "VALUES (1, 11), (11, 1), (1, 1), (11, 11)"},
		"timestamptz":   {"a timestamptz", "a", "VALUES ('-infinity'::timestamptz), ('infinity'), ('2024-01-01 00:00:00.000001+00'), ('2024-01-01 00:00+00'), ('0044-01-01 00:00+00 BC')"},
		"numeric":       {"a numeric", "a", "VALUES (-1.50), (0), (1.0), (1.01), (1e20), ('NaN'), ('Infinity'), ('-Infinity')"},
		"float":         {"a float8", "a", "VALUES (-1.5::float8), (0), (1.1), ('NaN'), ('-Infinity'), ('Infinity')"},
		"bytea":         {"a bytea", "a", `VALUES (''::bytea), ('\x00'), ('\xff'), ('\x61')`},
		"date":          {"a date", "a", "VALUES ('infinity'::date), ('-infinity'), ('2024-02-29'), ('1999-01-01')"},
		"enum":          {"a mood", "a", "VALUES ('z'::mood), ('a'), ('m'), ('b')"},
		"char":          {"a char(3)", "a", "VALUES ('a'), (''), ('ab')"},
		"bool":          {"a bool", "a", "VALUES (true), (false)"},
		"range":         {"a int4range", "a", "VALUES ('empty'::int4range), ('[1,3)'), ('(,)')"},
		"inet":          {"a inet", "a", "VALUES ('10.0.0.1'::inet), ('10.0.0.1/8'), ('::1')"},
		"nothing":       {"a int", "a", "SELECT 1 WHERE false"},
	} {
		table := "t_" + fmt.Sprint(len(name)) + string(name[0]) + string(name[len(name)-1])
		exec(t, pool, fmt.Sprintf(`CREATE TABLE %[1]s (%[2]s, PRIMARY KEY (%[3]s)); INSERT INTO %[1]s %[4]s`, table, c.columns, c.key, c.rows))
		l := describe(t, pool, "public."+table, postgres.Rules{})
		all := read(t, pool, l, message.Range{}, postgres.Want{Digest: digest.Record})
		var whole digest.Thumbprint
		for _, r := range all {
			whole = whole.Row(r.Digest)
		}
		on(t, pool, func(conn *pgconn.PgConn) {
			for range 5 {
				leftOut := map[int]bool{}
				var sum digest.Thumbprint
				r := message.Range{}
				var skip []message.Key
				for i, row := range all {
					if rand.IntN(4) == 0 {
						skip = append(skip, row.Key)
						leftOut[i] = true
						sum = sum.Row(row.Digest)
					}
					if rand.IntN(3) == 0 || i == len(all)-1 {
						r.Hi = row.Key
						if i == len(all)-1 {
							r.Hi = nil
						}
						part, err := l.Thumbprint(t.Context(), conn, r, skip, digest.Record)
						if err != nil {
							t.Fatalf("%s: %s: %v", name, r, err)
						}
						sum = sum.Add(part)
						r, skip = message.Range{Lo: row.Key}, nil
					}
				}
				if len(all) > 0 && sum != whole {
					t.Errorf("%s: parts %+v, whole %+v", name, sum, whole)
				}
			}
			// Pages and boundaries cut alike.
			var paged []postgres.Row
			for r := (message.Range{}); ; {
				page, err := l.Range(t.Context(), conn, r, 2, postgres.Want{Digest: digest.Record})
				if err != nil {
					t.Fatal(err)
				}
				paged = append(paged, page.Rows...)
				if !page.More {
					if page.Covered.Hi != nil {
						t.Errorf("%s: the last page ends at %s", name, page.Covered)
					}
					break
				}
				r.Lo = page.Covered.Hi
			}
			if len(paged) != len(all) {
				t.Errorf("%s: %d rows in pages, %d in all", name, len(paged), len(all))
			}
			bounds, err := l.Boundaries(t.Context(), conn, message.Range{}, 2)
			if err != nil || len(bounds) != len(all)/2 {
				t.Errorf("%s: boundaries %v of %d rows, %v", name, bounds, len(all), err)
			}
			if whole.Rows > 0 {
				rows, err := l.Rows(t.Context(), conn, []message.Key{all[len(all)-1].Key, all[0].Key}, postgres.Want{Digest: digest.Record})
				if err != nil || rows[0].Digest != all[len(all)-1].Digest || rows[1].Digest != all[0].Digest {
					t.Errorf("%s: by key %+v, %v", name, rows, err)
				}
			}
		})
	}
}

func scan(t *testing.T, pool *pgxpool.Pool, l *postgres.Layout, o postgres.ScanOptions) (s postgres.Scan, at postgres.At) {
	t.Helper()
	o.Digest = digest.Record
	err := postgres.NewSource(pool).Read(t.Context(), l, func(c *pgconn.PgConn, when postgres.At) (err error) {
		at = when
		s, err = l.Scan(t.Context(), c, message.Range{}, o)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, at
}

// alone waits until the transactions of other tests that are older than the rows of t are over: the horizon is the whole server's.
func alone(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	for passed := false; !passed; {
		err := pool.QueryRow(t.Context(), `SELECT max(xmin::text::bigint) < pg_snapshot_xmin(pg_current_snapshot())::text::bigint FROM t`).Scan(&passed)
		if err != nil {
			t.Fatal(err)
		}
	}
}

// sorted are keys of one column each, in order.
func sorted(keys []message.Key) string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = k.String()
	}
	slices.Sort(out)
	return fmt.Sprint(out)
}

func TestQuietRows(t *testing.T) {
	t.Parallel()
	pool := fresh(t, `CREATE TABLE t (id int PRIMARY KEY, v text, at timestamptz); INSERT INTO t SELECT i, 'x', now() - interval '1 day' FROM generate_series(1, 5) i`)
	l := describe(t, pool, "public.t", postgres.Rules{Where: "id < 100"})
	alone(t, pool)
	source := postgres.NewSource(pool)
	open, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open.Exec(t.Context(), `INSERT INTO t VALUES (6, 'early')`); err != nil {
		t.Fatal(err)
	}
	sample, err := source.Sample(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `UPDATE t SET v = 'y', at = now() WHERE id = 2; INSERT INTO t VALUES (7, 'late'), (100, 'not in where')`)
	if err := open.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	quiet := postgres.ScanOptions{Settled: postgres.Settled{Xmin: sample.Xmin}}
	if s, _ := scan(t, pool, l, quiet); s.Rows != 7 || s.Print.Rows != 4 || sorted(s.LeftOut) != "[2 6 7]" {
		t.Errorf("%+v", s)
	}
	exec(t, pool, `VACUUM (FREEZE) t`)
	if s, _ := scan(t, pool, l, quiet); s.Rows != 7 || s.Print.Rows < 4 {
		t.Errorf("frozen: %+v", s)
	}
	if s, _ := scan(t, pool, l, postgres.ScanOptions{}); s.Print.Rows != 0 || len(s.LeftOut) != 7 {
		t.Errorf("without a sample: %+v", s)
	}
	if s, _ := scan(t, pool, l, postgres.ScanOptions{Everything: true}); s.Print.Rows != 7 || s.LeftOut != nil {
		t.Errorf("everything: %+v", s)
	}
	hourAgo := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339Nano)
	if s, _ := scan(t, pool, l, postgres.ScanOptions{Settled: postgres.Settled{Column: "at", Before: hourAgo}}); s.Print.Rows != 6 || fmt.Sprint(s.LeftOut) != "[2]" {
		t.Errorf("by column: %+v", s)
	}
}

// The shortcut is taken where nothing changed, and only there.
func TestUnchanged(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sql       string
		unchanged bool
	}{
		"nothing": {`SELECT 1`, true}, "elsewhere": {`CREATE TABLE u (id int); INSERT INTO u VALUES (1)`, true}, "vacuum": {`VACUUM (FREEZE) t`, true},
		"rolled back": {`BEGIN; UPDATE t SET v = 'y'; ROLLBACK`, true},
		"update":      {`UPDATE t SET v = 'y' WHERE id = 1`, false}, "delete": {`DELETE FROM t WHERE id = 1`, false}, "insert": {`INSERT INTO t VALUES (9, 'n')`, false},
		"one for another": {`DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (9, 'n')`, false}, "another key": {`UPDATE t SET id = 9 WHERE id = 1`, false},
		"emptied and filled": {`TRUNCATE t; INSERT INTO t SELECT i, 'z' FROM generate_series(1, 5) i`, false}, "there and back": {`UPDATE t SET v = 'y'; UPDATE t SET v = 'x'`, false},
		"by one that ran": {`COMMIT`, false},
		// What stands in its place by now was written before the reading.
		"another table of that name": {`ALTER TABLE t RENAME TO old; ALTER TABLE other RENAME TO t`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := fresh(t, `CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'x' FROM generate_series(1, 5) i`,
				`CREATE TABLE other (id int PRIMARY KEY, v text); INSERT INTO other SELECT i, 'z' FROM generate_series(1, 5) i`)
			l := describe(t, pool, "public.t", postgres.Rules{})
			alone(t, pool)
			tx, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if name == "by one that ran" { // it wrote before the first reading and commits after it
				if _, err := tx.Exec(t.Context(), `DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (9, 'n')`, pgx.QueryExecModeSimpleProtocol); err != nil {
					t.Fatal(err)
				}
			}
			before, at := scan(t, pool, l, postgres.ScanOptions{Everything: true})
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			exec(t, pool, c.sql)
			fresh, _ := scan(t, pool, l, postgres.ScanOptions{Everything: true})
			s, _ := scan(t, pool, l, postgres.ScanOptions{Everything: true, Known: &postgres.Known{Print: before.Print, Xmin: at.Xmin}})
			if s.Unchanged != c.unchanged || s.Print != fresh.Print || s.Rows != fresh.Rows {
				t.Errorf("%+v, in truth %+v", s, fresh)
			}
		})
	}
}

// A partition that takes another's place brings rows that are older than the reading.
func TestUnchangedButForAPartition(t *testing.T) {
	t.Parallel()
	pool := fresh(t, `CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE a PARTITION OF t FOR VALUES FROM (1) TO (6); CREATE TABLE b (LIKE a INCLUDING ALL)`,
		`INSERT INTO t SELECT i, 'x' FROM generate_series(1, 5) i; INSERT INTO b SELECT i, 'z' FROM generate_series(1, 5) i`)
	l := describe(t, pool, "public.t", postgres.Rules{})
	alone(t, pool)
	before, at := scan(t, pool, l, postgres.ScanOptions{Everything: true})
	known := postgres.ScanOptions{Everything: true, Known: &postgres.Known{Print: before.Print, Xmin: at.Xmin}}
	if s, _ := scan(t, pool, l, known); !s.Unchanged {
		t.Errorf("nothing changed, and it was read again: %+v", s)
	}
	exec(t, pool, `ALTER TABLE t DETACH PARTITION a; ALTER TABLE t ATTACH PARTITION b FOR VALUES FROM (1) TO (6)`)
	fresh, _ := scan(t, pool, l, postgres.ScanOptions{Everything: true})
	if s, _ := scan(t, pool, l, known); s.Unchanged || s.Print != fresh.Print {
		t.Errorf("%+v, in truth %+v", s, fresh)
	}
}
