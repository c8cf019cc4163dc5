package postgres_test

import (
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// Values that are stored out of line count: the planner's statistics have a pointer's width for them, and a stream would read the whole table for its first few rows.
func TestLargeValuesAreNotReadForNothing(t *testing.T) {
	t.Parallel()
	const rows, bytes = 2000, 64 << 10
	pool := fresh(t, `CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t ALTER v SET STORAGE EXTERNAL; INSERT INTO t SELECT i, repeat('x', 4000) FROM generate_series(1, `+strconv.Itoa(rows)+`) i`, `VACUUM ANALYZE t`)
	l := describe(t, pool, "public.t", postgres.Rules{})
	on(t, pool, func(c *pgconn.PgConn) {
		script(t, c, "BEGIN")
		defer script(t, c, "ROLLBACK")
		read := func() (fetched, all int) {
			r := c.ExecParams(t.Context(), `SELECT pg_stat_get_xact_blocks_fetched(reltoastrelid), pg_relation_size(reltoastrelid) / 8192 FROM pg_class WHERE oid = 't'::regclass`, nil, nil, nil, nil).Read()
			if r.Err != nil {
				t.Fatal(r.Err)
			}
			fetched, _ = strconv.Atoi(string(r.Rows[0][0]))
			all, _ = strconv.Atoi(string(r.Rows[0][1]))
			return fetched, all
		}
		before, _ := read()
		s, err := l.Stream(t.Context(), c, message.Range{}, postgres.StreamWant{Columns: []string{"id", "v"}, Digest: digest.Record, Settled: everything, Rows: 100_000, Bytes: bytes})
		if err != nil || !s.More || s.Print.Rows != bytes/4010 {
			t.Fatalf("%d rows were streamed: %v", s.Print.Rows, err)
		}
		fetched, all := read()
		if fetched -= before; fetched == 0 || fetched > all/4 {
			t.Errorf("%d blocks were fetched, of %d, for %d of %d rows", fetched, all, s.Print.Rows, rows)
		}
	})
}
