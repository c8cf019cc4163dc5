package diff_test

import (
	"testing"

	"github.com/trickle-verify/trickle/diff"
)

// What the replica's type holds and the source's can't is a difference, not an error: integers of another width, labels that an enum lacks.
func TestWhatOnlyOneSideCanHold(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ source, replica string }{
		"integers": {
			"CREATE TABLE t (id int PRIMARY KEY, v smallint); INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)",
			"CREATE TABLE t (id bigint PRIMARY KEY, v bigint); INSERT INTO t VALUES (1, 1), (2, 5000000000), (5000000000, 3)",
		},
		"labels": {
			"CREATE TYPE mood AS ENUM ('ok', 'bad', 'odd'); CREATE TABLE t (id mood PRIMARY KEY, v int); INSERT INTO t VALUES ('ok', 1), ('bad', 2), ('odd', 3)",
			"CREATE TYPE mood AS ENUM ('good', 'bad', 'ok'); CREATE TABLE t (id mood PRIMARY KEY, v int); INSERT INTO t VALUES ('ok', 1), ('bad', 3), ('good', 4)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			exec(t, p.source, c.source)
			exec(t, p.replica, c.replica)
			for _, o := range []diff.Options{{Jobs: 1}, {Jobs: 1, Settle: 1}} {
				r, l := p.compare(t, table("public.t"), o)
				if of(r) != (counts{rows: 3, missing: 1, mismatched: 1, extra: 1}) || len(l.found) != 3 {
					t.Errorf("%+v, listed %v", of(r), l.found)
				}
			}
		})
	}
}

// Tables that inherit from one are tables of their own: its key is not theirs, and their rows may be NULL where its may not.
func TestInheritance(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	exec(t, p.source, `CREATE TABLE t (id int PRIMARY KEY, v text, n int); CREATE TABLE child () INHERITS (t); ALTER TABLE ONLY t ALTER v SET NOT NULL, ALTER n SET NOT NULL;
		INSERT INTO t VALUES (1, 'a', 1), (3, 'c', 3), (4, 'd', 4); INSERT INTO child VALUES (2, NULL, NULL), (3, 'x', 3), (4, 'd', 4), (4, 'd', 4)`)
	exec(t, p.replica, "CREATE TABLE t (id int PRIMARY KEY, v text, n int); INSERT INTO t VALUES (1, 'a', 1), (3, 'x', 3), (5, 'e', 5)")
	for _, o := range []diff.Options{{Jobs: 1}, {Jobs: 1, Settle: 1}} {
		r, l := p.compare(t, table("public.t"), o)
		if of(r) != (counts{rows: 3, missing: 1, mismatched: 1, extra: 1}) || len(l.found) != 3 {
			t.Errorf("%+v, listed %v", of(r), l.found)
		}
	}
}
