package postgres_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/postgres"
)

// special is a new database made in this way, next to one that is dropped at the end.
func special(t testing.TB, how string) *pgxpool.Pool {
	t.Helper()
	u, err := url.Parse(pgtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	pool := open(t, u.String())
	name := strings.TrimPrefix(u.Path, "/") + "_special"
	exec(t, pool, fmt.Sprintf("CREATE DATABASE %s TEMPLATE template0 %s", pgx.Identifier{name}.Sanitize(), how))
	t.Cleanup(func() { exec(t, pool, fmt.Sprintf("DROP DATABASE %s (FORCE)", pgx.Identifier{name}.Sanitize())) })
	u.Path = "/" + name
	return open(t, u.String())
}

// sides are what two databases make of one table.
type sides struct {
	probes, records, portables [2]uint64
}

func compared(t *testing.T, source, replica *pgxpool.Pool) (s sides) {
	t.Helper()
	l := describe(t, source, "public.t", postgres.Rules{})
	for i, side := range []struct {
		pool   *pgxpool.Pool
		layout *postgres.Layout
	}{{source, l}, {replica, fit(t, replica, "public.t", l, postgres.Rules{})}} {
		on(t, side.pool, func(c *pgconn.PgConn) {
			var err error
			if s.probes[i], err = side.layout.Probe(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			s.records[i] = thumbprint(t, side.layout, c, digest.Record).Sum
			s.portables[i] = thumbprint(t, side.layout, c, digest.Portable).Sum
		})
	}
	return s
}

func TestServersOfTwoEncodings(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"LATIN1", "KOI8R", "EUC_JP"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			word := map[string]string{"LATIN1": "Müller", "KOI8R": "щи", "EUC_JP": "日本"}[encoding]
			utf8, other := fresh(t), special(t, "ENCODING '"+encoding+"' LOCALE 'C'")
			for _, pool := range []*pgxpool.Pool{utf8, other} {
				exec(t, pool, `CREATE TABLE t (id int PRIMARY KEY, v text, j jsonb); INSERT INTO t VALUES (1, '`+word+`', '{"a": "`+word+`"}'), (2, NULL, NULL)`)
			}
			for _, pools := range [][2]*pgxpool.Pool{{utf8, other}, {other, utf8}} {
				s := compared(t, pools[0], pools[1])
				if s.probes[0] == s.probes[1] {
					t.Error("servers of two encodings have one probe")
				}
				if s.portables[0] != s.portables[1] {
					t.Error("equal rows have two portable digests")
				}
			}
			if s := compared(t, other, other); s.probes[0] != s.probes[1] || s.records[0] != s.records[1] {
				t.Errorf("one server has two record digests: %v", s)
			}
		})
	}
}

// The bytes of one encoding read as another's are another text, though they are the same bytes.
func TestBytesOfAnotherEncodingAreAnotherText(t *testing.T) {
	t.Parallel()
	utf8, latin := fresh(t), special(t, "ENCODING 'LATIN1' LOCALE 'C'")
	exec(t, utf8, "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'Müller')")
	exec(t, latin, "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'MÃ¼ller')")
	for _, pools := range [][2]*pgxpool.Pool{{utf8, latin}, {latin, utf8}} {
		if s := compared(t, pools[0], pools[1]); s.probes[0] == s.probes[1] || s.portables[0] == s.portables[1] {
			t.Errorf("two texts of the same bytes are one: %v", s)
		}
	}
}

// citext hashes a text as the database's locale folds it.
func TestLocalesThatFoldOtherwiseHaveTwoProbes(t *testing.T) {
	t.Parallel()
	pools := [2]*pgxpool.Pool{special(t, "LOCALE_PROVIDER icu ICU_LOCALE 'en' LOCALE 'C.UTF-8' ENCODING 'UTF8'"), special(t, "LOCALE_PROVIDER icu ICU_LOCALE 'tr' LOCALE 'C.UTF-8' ENCODING 'UTF8'")}
	for _, pool := range pools {
		exec(t, pool, "CREATE EXTENSION citext; CREATE TABLE t (id int PRIMARY KEY, v citext); INSERT INTO t VALUES (1, 'IT')")
	}
	s := compared(t, pools[0], pools[1])
	if s.probes[0] == s.probes[1] {
		t.Error("databases that fold I otherwise have one probe")
	}
	if s.portables[0] != s.portables[1] {
		t.Error("equal rows have two portable digests")
	}
}
