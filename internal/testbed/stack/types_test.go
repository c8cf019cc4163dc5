package stack_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/internal/testbed/stack"
	"github.com/trickle-verify/trickle/internal/testbed/workload"
)

// Every common type arrives as it was, by the first copy and by the log, and so does a value that an update left alone and that Postgres keeps apart (TOAST).
// What docs/operating.md says is lost, is lost: the day on which it isn't, that list is too long.
func whichTypesSurvive(t *testing.T, s *stack.Stack) {
	source, replica := pgtest.Database(t), pgtest.Database(t)
	common, lost := workload.CommonTypes(), workload.LostTypes()
	for _, dsn := range []string{source, replica} {
		pgtest.Exec(t, dsn, heartbeat, workload.TypeSchema, `CREATE TABLE common (id int PRIMARY KEY, n int NOT NULL, big text, `+workload.Columns(common)+`)`,
			`CREATE TABLE lost (id int PRIMARY KEY, `+workload.Columns(lost)+`)`)
	}
	pgtest.Exec(t, source, `ALTER TABLE common ALTER big SET STORAGE EXTERNAL`)
	fill := func(from int) {
		pgtest.Exec(t, source, fmt.Sprintf(`INSERT INTO common (id, n) VALUES (%d, 0)`, from))
		for n := range 5 {
			pgtest.Exec(t, source, fmt.Sprintf(`INSERT INTO common VALUES (%d, 0, repeat('big', 10000), %s)`, from+1+n, workload.Row(common, n)))
		}
		for n := range 2 {
			pgtest.Exec(t, source, fmt.Sprintf(`INSERT INTO lost VALUES (%d, %s)`, from+n, workload.Row(lost, n)))
		}
	}
	fill(0)
	from := s.Source("types", source, []string{"public.common", "public.lost"}, nil)
	sink := from.Sink("types-sink", replica, nil)
	t.Cleanup(func() { stop(t, sink.Connector, from.Connector) })
	same := func() {
		equal(t, source, replica, `SELECT string_agg(concat_ws(' ', id, n, md5(big)), ', ' ORDER BY id) FROM common`)
		for i, ty := range common {
			equal(t, source, replica, fmt.Sprintf(`SELECT %s || string_agg(concat_ws(' ', id, c%d::text), ', ' ORDER BY id) FROM common`, quote(ty.Name+": "), i))
		}
		equal(t, source, replica, `SELECT count(*) FROM lost`)
		for i, ty := range lost {
			query := fmt.Sprintf(`SELECT string_agg(concat_ws(' ', id, c%d::text), ', ' ORDER BY id) FROM lost`, i)
			if pgtest.Text(t, source, query) == pgtest.Text(t, replica, query) {
				t.Errorf("%s survives: %s", ty.Name, pgtest.Text(t, replica, query))
			}
		}
	}
	same()
	fill(100)
	pgtest.Exec(t, source, `UPDATE common SET n = 1`)
	same()
}

func quote(v string) string { return "'" + strings.ReplaceAll(v, "'", "''") + "'" }
