package postgres_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// sample takes a sample of about one row in so many.
func sample(t *testing.T, pool *pgxpool.Pool, table string, rows int) (s postgres.Sample) {
	t.Helper()
	l := describe(t, pool, table, postgres.Rules{})
	on(t, pool, func(c *pgconn.PgConn) {
		var err error
		if s, err = l.Sample(t.Context(), c, rows, 1000); err != nil {
			t.Fatal(err)
		}
	})
	return s
}

func TestSampleTellsTheOrderOfTheHeap(t *testing.T) {
	t.Parallel()
	const rows = 20_000
	pool := fresh(t)
	for i, c := range []struct {
		name, key, columns, order string
		least, most               float64
	}{
		{"forwards", "id", "i AS id", "i", 0.95, 1},
		{"backwards", "id", "i AS id", "i DESC", 0.95, 1},
		{"random", "id", "i AS id", "hashint8(i)", 0, 0.4},
		{"two columns, forwards", "a, id", "(i / 5000)::int AS a, i % 5000 AS id", "i", 0.95, 1},
		{"two columns, by the second", "a, id", "(i % 50)::int AS a, i AS id", "i", 0, 0.7},
		{"random keys in their order", "id", "md5(i::text)::uuid AS id", "1", 0.95, 1},
		{"random keys", "id", "md5(i::text)::uuid AS id", "i", 0, 0.4},
		{"huge gaps", "id", "i * i * i * 1000000 AS id", "i", 0.95, 1},
		{"two halves changed over", "id", "i AS id", "i < 10000, i", 0.9, 1},
	} {
		table := fmt.Sprintf("public.t%d", i)
		order := c.order
		if order == "1" {
			order = c.key
		}
		exec(t, pool, fmt.Sprintf("CREATE TABLE %s AS SELECT * FROM (SELECT %s, i, repeat('x', 100) AS pad FROM generate_series(1::bigint, %d) AS i) AS s ORDER BY %s; ALTER TABLE %s ADD PRIMARY KEY (%s); ANALYZE %s",
			table, c.columns, rows, order, table, c.key, table))
		s := sample(t, pool, table, 100)
		if s.Order < c.least || s.Order > c.most {
			t.Errorf("%s: order %.3f of %d keys, not between %v and %v", c.name, s.Order, len(s.Keys), c.least, c.most)
		}
		if len(s.Keys) < 100 || len(s.Keys) > 200 || s.Rows != rows {
			t.Errorf("%s: %d keys for %d rows, one in a hundred was asked for", c.name, len(s.Keys), s.Rows)
		}
	}
}

// rising fails unless the keys of a bigint column rise.
func rising(t *testing.T, pool *pgxpool.Pool, keys []message.Key) {
	t.Helper()
	values := make([]string, len(keys))
	for i, k := range keys {
		values[i] = k[0]
	}
	var ok bool
	err := pool.QueryRow(t.Context(), "SELECT coalesce(bool_and(b > a), true) FROM (SELECT k AS b, lag(k) OVER (ORDER BY n) AS a FROM unnest($1::text[]::bigint[]) WITH ORDINALITY AS u(k, n)) AS s",
		"{"+strings.Join(values, ",")+"}").Scan(&ok)
	if err != nil || !ok {
		t.Errorf("the keys do not rise: %v", err)
	}
}

// A sample must see a table whatever became of its first rows: of a page that was updated in place, the first half of the places are empty.
func TestSampleSeesThroughChurn(t *testing.T) {
	t.Parallel()
	pool := fresh(t)
	const fill = "CREATE TABLE t (id bigint PRIMARY KEY, n int, pad text) WITH (fillfactor = 45, autovacuum_enabled = off); INSERT INTO t SELECT i, 0, repeat('x', 60) FROM generate_series(1, 20000) AS i; "
	for name, churn := range map[string]string{
		"never analysed":            "",
		"updated in place":          "UPDATE t SET n = 1",
		"updated, vacuumed":         "UPDATE t SET n = 1; VACUUM t",
		"updated again and again":   "UPDATE t SET n = 1; VACUUM t; UPDATE t SET n = 2; VACUUM t; UPDATE t SET n = 3; VACUUM t",
		"half of the rows deleted":  "DELETE FROM t WHERE id % 2 = 0; VACUUM t",
		"half of them not vacuumed": "DELETE FROM t WHERE id % 2 = 0",
	} {
		exec(t, pool, "DROP TABLE IF EXISTS t", fill)
		for part := range strings.SplitSeq(churn, "; ") {
			exec(t, pool, part)
		}
		s := sample(t, pool, "public.t", 100)
		if len(s.Keys) < 50 {
			t.Errorf("%s: only %d keys of %d rows, one in a hundred was asked for", name, len(s.Keys), s.Rows)
		}
		if s.Order < 0.9 {
			t.Errorf("%s: the heap follows the key, and not by %.2f", name, s.Order)
		}
		rising(t, pool, s.Keys)
	}
}

func TestSampleOfSmallAndEmptyTables(t *testing.T) {
	t.Parallel()
	pool := fresh(t, "CREATE TABLE t (id bigint PRIMARY KEY)")
	for _, rows := range []int{0, 1, 2, 99} {
		exec(t, pool, fmt.Sprintf("TRUNCATE t; INSERT INTO t SELECT generate_series(1, %d); ANALYZE t", rows))
		if s := sample(t, pool, "public.t", 100); s.Order != 1 || len(s.Keys) != 0 {
			t.Errorf("%d rows: %+v; they are one piece", rows, s)
		}
	}
	// Most of its blocks are empty, and the planner's number of rows is out of date.
	exec(t, pool, "TRUNCATE t; INSERT INTO t SELECT generate_series(1, 50000); ANALYZE t; DELETE FROM t WHERE id BETWEEN 2000 AND 49000")
	rising(t, pool, sample(t, pool, "public.t", 100).Keys)
}

func TestSampleOfAPartitionedTable(t *testing.T) {
	t.Parallel()
	pool := fresh(t, `CREATE TABLE t (id bigint PRIMARY KEY) PARTITION BY RANGE (id);
		CREATE TABLE small PARTITION OF t FOR VALUES FROM (MINVALUE) TO (100); CREATE TABLE large PARTITION OF t FOR VALUES FROM (100) TO (MAXVALUE);
		INSERT INTO t SELECT generate_series(1, 30000); ANALYZE t`)
	s := sample(t, pool, "public.t", 100)
	if len(s.Keys) < 50 || s.Order < 0.9 || s.Blocks < 100 {
		t.Errorf("%d keys, order %.2f, %d blocks", len(s.Keys), s.Order, s.Blocks)
	}
	rising(t, pool, s.Keys)
}

func TestOrderedIsOnlyWhatSortsAlikeEverywhere(t *testing.T) {
	t.Parallel()
	pool := fresh(t, "CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TYPE pair AS (a int, b int); CREATE DOMAIN plain AS int; CREATE EXTENSION citext; CREATE COLLATION c2 FROM \"C\"")
	for key, want := range map[string]bool{
		"bigint": true, "int": true, "uuid": true, "numeric": true, "timestamptz": true, "date": true, "bytea": true, "bool": true, "inet": true, "plain": true, "int[]": true, "int4range": true,
		`text COLLATE "C"`: true, `varchar(10) COLLATE "POSIX"`: true, "name": true, `text[] COLLATE "C"`: true,
		`text COLLATE "en-x-icu"`: false, `char(4) COLLATE "de-x-icu"`: false, `text[] COLLATE "en-x-icu"`: false, "mood": false, "pair": false, "regclass": false, "citext": false, "jsonb": false,
	} {
		exec(t, pool, "DROP TABLE IF EXISTS t", "CREATE TABLE t (a int, k "+key+", PRIMARY KEY (a, k))")
		l := describe(t, pool, "public.t", postgres.Rules{})
		on(t, pool, func(c *pgconn.PgConn) {
			if got, err := l.Ordered(t.Context(), c); err != nil || got != want {
				t.Errorf("%s: ordered %v, %v", key, got, err)
			}
		})
	}
	exec(t, pool, "DROP TABLE t; CREATE TABLE t (k text COLLATE \"C\" PRIMARY KEY, v int)")
	for rules, want := range map[string]bool{"v": true, "k": false} {
		l := describe(t, pool, "public.t", postgres.Rules{Compare: map[string]string{rules: "varchar"}})
		on(t, pool, func(c *pgconn.PgConn) {
			if got, err := l.Ordered(t.Context(), c); err != nil || got != want {
				t.Errorf("compare: {%s: varchar}: ordered %v, %v", rules, got, err)
			}
		})
	}
}

// Ranges of a key whose columns no index has first, in this order, would each take a scan of the whole table.
func TestOrderedTakesAnIndexInTheOrderOfTheKey(t *testing.T) {
	t.Parallel()
	source := fresh(t, "CREATE TABLE t (a int, b text COLLATE \"C\", v int, PRIMARY KEY (a, b))")
	l := describe(t, source, "public.t", postgres.Rules{})
	pool := fresh(t, `CREATE TABLE t (a int, b text COLLATE "C", v int, PRIMARY KEY (b, a))`)
	for ddl, want := range map[string]bool{
		"":                                  false,
		"CREATE INDEX other ON t (b, a, v)": false,
		"CREATE INDEX other ON t (a)":       false,
		"CREATE INDEX other ON t (a, v, b)": false,
		"CREATE INDEX other ON t (a) INCLUDE (b)":           false,
		"CREATE INDEX other ON t (a, b) WHERE v > 0":        false,
		"CREATE INDEX other ON t (a, lower(b))":             false,
		"CREATE INDEX other ON t (a, b DESC)":               false,
		"CREATE INDEX other ON t (a, b text_pattern_ops)":   false,
		`CREATE INDEX other ON t (a, b COLLATE "en-x-icu")`: false,
		"CREATE INDEX other ON t (a, b)":                    true,
		"CREATE INDEX other ON t (a, b, v)":                 true,
		"CREATE INDEX other ON t (a DESC, b DESC)":          true,
		"CREATE INDEX other ON t (a, b); UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'other'::regclass": false,
	} {
		exec(t, pool, "DROP INDEX IF EXISTS other; "+ddl)
		there := fit(t, pool, "public.t", l, postgres.Rules{})
		on(t, pool, func(c *pgconn.PgConn) {
			if got, err := there.Ordered(t.Context(), c); err != nil || got != want {
				t.Errorf("%q: ordered %v, %v", ddl, got, err)
			}
		})
	}
}
