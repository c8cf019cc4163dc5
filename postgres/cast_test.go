package postgres_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// thumbprint is that of the whole table.
func thumbprint(t testing.TB, l *postgres.Layout, c *pgconn.PgConn, kind digest.Kind) digest.Thumbprint {
	t.Helper()
	print, err := l.Thumbprint(t.Context(), c, message.Range{}, nil, kind)
	if err != nil {
		t.Fatal(err)
	}
	return print
}

// From Postgres 18 on a cast makes NULL of a jsonb null, so that a column that is NOT NULL has one all the same.
func TestACastThatMakesNullHidesNoRow(t *testing.T) {
	t.Parallel()
	pool := open(t, pgtest.DatabaseOf(t, 18))
	exec(t, pool, `CREATE TABLE one (id int PRIMARY KEY, n jsonb NOT NULL, v text NOT NULL); CREATE TABLE other (LIKE one INCLUDING ALL);
		INSERT INTO one VALUES (1, 'null', 'a'), (2, '2', 'b'); INSERT INTO other VALUES (1, 'null', 'changed'), (2, '2', 'b')`)
	rules := postgres.Rules{Compare: map[string]string{"n": "numeric"}}
	one, other := describe(t, pool, "public.one", rules), describe(t, pool, "public.other", rules)
	on(t, pool, func(c *pgconn.PgConn) {
		for _, kind := range []digest.Kind{digest.Record, digest.Portable} {
			if thumbprint(t, one, c, kind) == thumbprint(t, other, c, kind) {
				t.Errorf("%s: a row with a cast that makes NULL can change unseen", kind)
			}
		}
	})
}
