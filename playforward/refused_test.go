package playforward_test

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/playforward"
)

// Where values of a unique index change places now and then, a batch is applied in few pieces, and not event by event.
func TestABatchInPieces(t *testing.T) {
	t.Parallel()
	const rows, swaps = 1000, 5
	dsn, pool := replica(t, `CREATE TABLE a (id int PRIMARY KEY, place int UNIQUE)`, fmt.Sprintf(`INSERT INTO a SELECT i, i FROM generate_series(1, %d) i`, rows), `CREATE SEQUENCE statements`,
		`CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('statements'); RETURN NULL; END $$`,
		`CREATE TRIGGER counted AFTER INSERT OR UPDATE OR DELETE ON a FOR EACH STATEMENT EXECUTE FUNCTION counted()`)
	s := newScript(t, "shop.a")
	update := func(id, place int) {
		s.add("u", "a", fmt.Sprintf(`{"id":%d}`, id), fmt.Sprintf(`{"id":%d,"place":%d}`, id, place))
	}
	for id := 1; id < rows; id++ {
		if id%(rows/swaps) != 1 {
			update(id, id)
		}
		if id%(rows/swaps) == 0 {
			update(id, -id)
			update(id+1, id)
			update(id, id+1)
		}
	}
	play(t, pool, s.shelf, playforward.Options{Rules: rules(t, everything)})
	expect(t, dsn, `SELECT count(*) FROM a WHERE id <> place`, strconv.Itoa(2*(swaps-1)))
	// A sequence counts those that were taken back too.
	if n, err := strconv.Atoi(pgtest.Text(t, dsn, `SELECT last_value FROM statements`)); err != nil || n > rows/5 {
		t.Errorf("%d statements for %d events: %v", n, rows, err)
	}
}
