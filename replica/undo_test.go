package replica_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/replica"
)

// undo takes back these lines of the journal, newest first, or all that were not, and returns why it could not, by id.
func (p *pair) undo(u *replica.Undoer, ids ...int64) map[string]string {
	p.Helper()
	var f ledger.Filter
	for _, id := range ids {
		f.IDs = append(f.IDs, ledger.CorrectionID{N: id})
	}
	f.NotUndone = len(ids) == 0
	list, err := p.ledger.Corrections(p.Context(), f)
	if err != nil {
		p.Fatal(err)
	}
	told, err := u.Check(p.Context(), list)
	if err != nil {
		p.Fatal(err)
	}
	failed := map[string]string{}
	for i, c := range list {
		_, err := u.Undo(p.Context(), c)
		var not *replica.NotUndoneError
		switch {
		case errors.As(err, &not):
			failed[c.ID.String()] = err.Error()
		case err != nil:
			p.Fatal(err)
		}
		if told[i] != nil && err == nil {
			p.Errorf("%s was undone although the check said: %v", c.ID, told[i])
		}
	}
	return failed
}

func (p *pair) undoer() *replica.Undoer {
	return replica.NewUndoer(p.target, p.ledger, replica.Options{
		Map: func(name string) (replica.Mapping, bool) {
			return replica.Mapping{Name: postgres.ParseName(table)}, name == table
		},
		Write: func() replica.Writing { return p.writing },
	})
}

// What corrections changed comes back to the letter, of every kind and of every type that a journal may bend.
func TestUndoBringsBackWhatWasThere(t *testing.T) {
	t.Parallel()
	const odd = `CREATE TYPE mood AS ENUM ('so', 'la la'); CREATE TYPE pt AS (x int, y text); CREATE DOMAIN pos AS numeric(20,4) CHECK (VALUE > 0);
		CREATE TABLE t (id int PRIMARY KEY, n numeric, m numeric(12,3), f4 float4, f8 float8, b bytea, tz timestamptz, ts timestamp, iv interval, j json, jb jsonb, a text[], ia int[], na numeric[], e mood, ea mood[], c pt, d pos,
			ch char(5), vc varchar(20), bits bit(4), vb varbit, u uuid, ip inet, r int4range, x xml, ok boolean, mo money, big bigint, s text, g int GENERATED ALWAYS AS (id * 2) STORED, i int GENERATED ALWAYS AS IDENTITY)`
	const filled = `INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (%d, 1.500, 12345.670, '-Infinity', 0.1, '\x00ff5c', '2024-02-29 23:59:59.999999+05:30', '0044-03-15 01:02:03 BC', '1 year -2 days 03:04:05.678', '{"b": 1, "a":  [1.0]}', '{"b": null, "a": 1.10}',
		ARRAY['a,b', NULL, '', 'q"\'], '[0:1]={1,NULL}', '{NaN,1.10}', 'la la', '{so,NULL}', '(1,"a ""b"" \\ ,")', 0.0100, 'ab', '  x ', B'1010', B'', '00112233-4455-6677-8899-aabbccddeeff', '10.0.0.1/8', '[1,)', '<a>ü</a>', %s, -5, 9223372036854775807, E'tab\tü\n{}', DEFAULT, %d);`
	const nulls = `INSERT INTO t (id) OVERRIDING SYSTEM VALUE VALUES (%d);`
	for _, c := range []struct {
		name, ddl, replica, source, target string
		keys                               []string
		then                               string // run in the replica before anything is undone
		want                               string // why not, "" where all come back
		stays                              bool   // the rows are not what they were
	}{
		{name: "every kind", ddl: simple, source: `INSERT INTO t VALUES (1, 'a'), (2, 'b')`, target: `INSERT INTO t VALUES (2, 'x'), (3, 'extra')`, keys: []string{"1", "2", "3"}},
		{name: "odd types", ddl: odd, source: fmt.Sprintf(filled, 1, "true", 7) + fmt.Sprintf(nulls, 2) + fmt.Sprintf(filled, 4, "false", 9),
			target: fmt.Sprintf(nulls, 1) + fmt.Sprintf(filled, 2, "true", 8) + fmt.Sprintf(filled, 3, "true", 10), keys: []string{"1", "2", "3", "4"}},
		{name: "an identity beside the key", ddl: `CREATE TABLE t (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, v text)`,
			source: `INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (1, 70, 'a'), (2, 5, 'c')`, target: `INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (1, 80, 'x')`, keys: []string{"1", "2"}},
		{name: "a generated key", ddl: `CREATE TABLE t (v int, id int GENERATED ALWAYS AS (v * 2) STORED PRIMARY KEY, w text)`,
			source: `INSERT INTO t VALUES (1, DEFAULT, 'a')`, target: `INSERT INTO t VALUES (1, DEFAULT, 'b'), (2, DEFAULT, 'x')`, keys: []string{"2", "4"}},
		{name: "columns that only the replica has", ddl: simple, replica: `CREATE TABLE t (note text DEFAULT 'new', id int PRIMARY KEY, v text)`,
			source: `INSERT INTO t VALUES (1, 'a'), (2, 'b')`, target: `INSERT INTO t VALUES ('mine', 2, 'x'), (NULL, 3, 'y')`, keys: []string{"1", "2", "3"}},
		{name: "a composite key", ddl: `CREATE TABLE t (a int, b text, v text, PRIMARY KEY (b, a))`, source: `INSERT INTO t VALUES (1, 'a,"', 'x')`, target: `INSERT INTO t VALUES (1, 'a,"', 'y'), (2, '', 'z')`, keys: []string{`a,"/1`, "/2"}},
		{name: "partitions", ddl: simple, replica: `CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (2); CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (2) TO (9)`,
			source: `INSERT INTO t VALUES (1, 'a'), (3, 'c')`, target: `INSERT INTO t VALUES (2, 'b'), (3, 'x')`, keys: []string{"1", "2", "3"}},
		{name: "a column added since", ddl: simple, source: `INSERT INTO t VALUES (1, 'a')`, target: `INSERT INTO t VALUES (1, 'x'), (2, 'y')`, keys: []string{"1", "2"}, then: `ALTER TABLE t ADD COLUMN later int`, stays: true},

		{name: "written again", ddl: simple, source: `INSERT INTO t VALUES (1, 'a')`, target: `INSERT INTO t VALUES (1, 'x')`, keys: []string{"1"}, then: `UPDATE t SET v = 'b'`, want: "holds something else since, in v", stays: true},
		{name: "written again with the same", ddl: simple, source: `INSERT INTO t VALUES (1, 'a')`, target: `INSERT INTO t VALUES (1, 'x')`, keys: []string{"1"}, then: `UPDATE t SET v = 'a'`, want: "with the same values", stays: true},
		{name: "deleted since", ddl: simple, source: `INSERT INTO t VALUES (1, 'a')`, keys: []string{"1"}, then: `DELETE FROM t`, want: "gone since"},
		{name: "there again", ddl: simple, target: `INSERT INTO t VALUES (1, 'x')`, keys: []string{"1"}, then: `INSERT INTO t VALUES (1, 'y')`, want: "there again", stays: true},
		{name: "a column dropped since", ddl: simple, target: `INSERT INTO t VALUES (1, 'x')`, keys: []string{"1"}, then: `ALTER TABLE t DROP COLUMN v`, want: `no column "v" any more`, stays: true},
		{name: "the table is gone", ddl: simple, target: `INSERT INTO t VALUES (1, 'x')`, keys: []string{"1"}, then: `ALTER TABLE t RENAME TO u; CREATE VIEW t AS SELECT * FROM u`, want: `no such table`, stays: true},
		{name: "a trigger that writes something else", ddl: simple, target: `INSERT INTO t VALUES (1, 'x')`, keys: []string{"1"},
			then: `CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := upper(NEW.v); RETURN NEW; END'; CREATE TRIGGER g BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()`, want: "in v", stays: true},
		{name: "a row that is referred to", ddl: simple, source: `INSERT INTO t VALUES (1, 'a')`, keys: []string{"1"}, then: `CREATE TABLE child (t int REFERENCES t ON DELETE CASCADE); INSERT INTO child VALUES (1)`, want: "child", stays: true},
		{name: "a constraint", ddl: simple, target: `INSERT INTO t VALUES (1, 'x')`, keys: []string{"1"}, then: `ALTER TABLE t ADD CHECK (v <> 'x')`, want: "t_v_check", stays: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, c.ddl, options{replicaDDL: c.replica})
			p.on(p.source, c.source)
			p.on(p.target, c.target)
			const all = `SELECT t::text FROM t ORDER BY 1`
			before := p.text(p.target, all)
			p.expect(p.write(p.changes(c.keys...)), strings.Repeat("W", len(c.keys)))
			if c.then == "" && p.text(p.target, all) == before {
				t.Fatal("nothing was corrected")
			}
			p.on(p.target, c.then)
			failed := p.undo(p.undoer())
			if (c.want == "") != (len(failed) == 0) {
				t.Fatalf("not undone: %v", failed)
			}
			for _, why := range failed {
				if !strings.Contains(why, c.want) || strings.Contains(why, "\n") {
					t.Errorf("got %q, want %q", why, c.want)
				}
			}
			if now := p.text(p.target, `SELECT count(*) FILTER (WHERE undone_at IS NOT NULL) FROM trickle.corrections`); c.want == "" && now != fmt.Sprint(len(c.keys)) || c.want != "" && now != "0" {
				t.Errorf("%s of %d are marked as undone", now, len(c.keys))
			}
			if now := p.text(p.target, `SELECT count(*) FROM trickle.corrections WHERE closed_at IS NULL`); c.want == "" && now != "0" {
				t.Errorf("%s undone ones wait for their confirmation", now)
			}
			if c.stays {
				return
			}
			if now := p.text(p.target, all); now != before && c.then == "" {
				t.Errorf("before:\n%s\nundone:\n%s", before, now)
			}
		})
	}
}

// Corrections of one row are undone from the newest on, at once or one at a time, and none out of turn.
func TestUndoARowThatWasCorrectedAgain(t *testing.T) {
	t.Parallel()
	p := newPair(t, simple, options{})
	p.on(p.target, `INSERT INTO t VALUES (1, 'x')`)
	for _, source := range []string{`INSERT INTO t VALUES (1, 'a')`, `UPDATE t SET v = 'b'`, `DELETE FROM t`, `INSERT INTO t VALUES (1, 'c')`} {
		p.on(p.source, source)
		p.expect(p.write(p.changes("1")), "W")
	}
	u := p.undoer()
	if failed := p.undo(u, 2); !strings.Contains(failed["2"], "holds something else") {
		t.Fatalf("out of turn: %v", failed)
	}
	later, err := p.ledger.Later(t.Context(), []int64{1, 2, 4})
	if err != nil || len(later) != 2 || later[1] != 2 || later[2] != 3 {
		t.Errorf("later ones: %v, %v", later, err)
	}
	if failed := p.undo(u, 4); len(failed) > 0 {
		t.Fatal(failed)
	}
	if failed := p.undo(p.undoer(), 2, 3); len(failed) > 0 { // the row that 3 brings back is not the version that 2 wrote
		t.Fatal(failed)
	}
	if failed := p.undo(u, 2); !strings.Contains(failed["2"], "undone already") {
		t.Errorf("twice: %v", failed)
	}
	if failed := p.undo(u); len(failed) > 0 {
		t.Fatal(failed)
	}
	if got := p.text(p.target, `SELECT v FROM t`); got != "x" {
		t.Errorf("the row is %q", got)
	}
}

// What CDC has written between two corrections of a row stays, whatever is undone of what came later.
func TestUndoStopsAtWhatWasWrittenBetween(t *testing.T) {
	t.Parallel()
	p := newPair(t, simple, options{})
	p.on(p.target, `INSERT INTO t VALUES (1, 'x')`)
	p.on(p.source, `INSERT INTO t VALUES (1, 'a')`)
	p.expect(p.write(p.changes("1")), "W")
	p.on(p.target, `UPDATE t SET v = 'a'`)
	p.on(p.source, `UPDATE t SET v = 'b'`)
	p.expect(p.write(p.changes("1")), "W")
	list, err := p.ledger.Corrections(t.Context(), ledger.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	u := p.undoer()
	if reasons, err := u.Check(t.Context(), list); err != nil || reasons[0] != nil || reasons[1] == nil {
		t.Errorf("the check: %v, %v", reasons, err)
	}
	if failed := p.undo(u); len(failed) != 1 || !strings.Contains(failed["1"], "with the same values") {
		t.Errorf("not undone: %v", failed)
	}
	if got := p.text(p.target, `SELECT v FROM t`); got != "a" {
		t.Errorf("the row is %q", got)
	}
}

// No reason quotes a row: what a server says may.
func TestNoReasonQuotesARow(t *testing.T) {
	t.Parallel()
	p := newPair(t, simple, options{})
	p.on(p.target, `INSERT INTO t VALUES (1, 'secret')`)
	p.expect(p.write(p.changes("1")), "W")
	for _, ddl := range []string{
		`ALTER TABLE t ALTER COLUMN v TYPE int USING id`,
		`ALTER TABLE t ALTER COLUMN v TYPE text; CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''not %'', NEW.v; END'; CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()`,
		`DROP TRIGGER g ON t; CREATE DOMAIN short AS text CHECK (length(VALUE) < 3); ALTER TABLE t ALTER COLUMN v TYPE short`,
		`ALTER TABLE t ALTER COLUMN v TYPE varchar(3)`,
	} {
		p.on(p.target, ddl)
		if why := p.undo(p.undoer())["1"]; why == "" || strings.Contains(why, "secret") || !strings.Contains(why, "SQLSTATE") {
			t.Errorf("%s: %q", ddl, why)
		}
	}
}

// Rows that exchanged a unique value can only go together.
func TestUndoASwap(t *testing.T) {
	t.Parallel()
	p := newPair(t, `CREATE TABLE t (id int PRIMARY KEY, v text UNIQUE)`, options{})
	p.on(p.source, `INSERT INTO t VALUES (1, 'a'), (2, 'b')`)
	p.on(p.target, `INSERT INTO t VALUES (1, 'b'), (2, 'a')`)
	p.expect(p.write(p.changes("1", "2")), "WW")
	list, err := p.ledger.Corrections(t.Context(), ledger.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	u := p.undoer()
	_, err = u.Undo(t.Context(), list[0])
	var not *replica.NotUndoneError
	if !errors.As(err, &not) || !not.Crowded() {
		t.Fatalf("alone: %v", err)
	}
	if err := u.Together(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	if got := p.text(p.target, `SELECT string_agg(v, '' ORDER BY id) FROM t`); got != "ba" {
		t.Errorf("got %s", got)
	}
}

// While a restore writes all rows anew nothing is undone.
func TestNothingIsUndoneUnderARestore(t *testing.T) {
	t.Parallel()
	p := newPair(t, simple, options{})
	p.on(p.source, `INSERT INTO t VALUES (1, 'a')`)
	p.expect(p.write(p.changes("1")), "W")
	p.on(p.target, `INSERT INTO trickle.restores (id, pipeline, set_name, source, state) VALUES ('r', 'p', 's', 'x', 'loading'); UPDATE trickle.pipelines SET brake_reason = 'on'`)
	list, err := p.ledger.Corrections(t.Context(), ledger.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.undoer().Undo(t.Context(), list[0]); !errors.Is(err, ledger.ErrUnderRestore) {
		t.Errorf("got %v", err)
	}
	p.on(p.target, `DELETE FROM trickle.restores`)
	if failed := p.undo(p.undoer()); len(failed) > 0 { // a brake that is on is a reason to undo, not against it
		t.Error(failed)
	}
}
