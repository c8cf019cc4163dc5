package postgres_test

import (
	"testing"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/postgres"
)

// Postgres keeps the encoding that a document names and shows it to nobody, so CDC does not bring it: the document is compared as it is read.
func TestXMLIsComparedAsItIsRead(t *testing.T) {
	t.Parallel()
	const ddl = `CREATE TABLE t (id int PRIMARY KEY, x xml, y xml[])`
	a := fresh(t, ddl, `INSERT INTO t VALUES (1, '<?xml version="1.0" encoding="ISO-8859-1"?><a>ü</a>', ARRAY['<?xml version="1.0" encoding="UTF-8" standalone="yes"?><a/>'::xml]), (2, '<?xml version="1.0" encoding="UTF-8"?><a/>', NULL), (3, NULL, NULL), (4, '<a/>', '{}')`)
	b := fresh(t, ddl)
	la := describe(t, a, "public.t", postgres.Rules{})
	lb := fit(t, b, "public.t", la, postgres.Rules{})
	streamed(t, a, b, la, lb, false)
	streamed(t, a, b, la, lb, true)
	exec(t, b, `INSERT INTO t VALUES (1, '<a>ü</a>', ARRAY['<?xml version="1.0" standalone="yes"?><a/>'::xml]), (2, '<a/>', NULL), (3, NULL, NULL), (4, '<a/>', '{}')`)
	for _, kind := range []digest.Kind{digest.Record, digest.Portable} {
		if x, y := sumUp(t, a, la, kind), sumUp(t, b, lb, kind); x != y {
			t.Errorf("%s: %+v, in the replica %+v", kind, x, y)
		}
	}
	exec(t, b, `UPDATE t SET x = '<b/>' WHERE id = 2`)
	if x, y := sumUp(t, a, la, digest.Record), sumUp(t, b, lb, digest.Record); x == y {
		t.Error("another document has the same digest")
	}
}
