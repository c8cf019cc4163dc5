package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

// What differs is corrected, with a journal; a second run finds nothing, and a row that the replica refuses keeps no other from being fixed.
func TestDiffFixes(t *testing.T) {
	t.Parallel()
	p := newPair(t, pgtest.Server(t, testbed.Options{}), people,
		`CREATE TABLE places (id int PRIMARY KEY, place int UNIQUE)`, `INSERT INTO places VALUES (1, 10), (2, 20), (3, 30)`,
		`CREATE TABLE checked (id int PRIMARY KEY, n int)`, `INSERT INTO checked SELECT i, i FROM generate_series(1, 10) i`,
		`CREATE TABLE shouted (id int PRIMARY KEY, v text)`, `INSERT INTO shouted VALUES (1, 'a'), (2, 'b')`,
		`CREATE TABLE owners (id int PRIMARY KEY)`, `CREATE TABLE owned (id int PRIMARY KEY, owner int REFERENCES owners)`,
		`INSERT INTO owners VALUES (1)`)
	p.src.exec(t, `INSERT INTO owned VALUES (1, 1)`)
	p.dst.exec(t,
		`DELETE FROM people WHERE id = 1`, `UPDATE people SET name = 'drift' WHERE id IN (2, 3)`, `INSERT INTO people VALUES (1001, 'extra')`,
		`DELETE FROM places WHERE id < 3`, `INSERT INTO places VALUES (1, 20), (2, 10)`, // a swap
		`DELETE FROM checked`, `ALTER TABLE checked ADD CONSTRAINT odd CHECK (n <> 7)`,
		`UPDATE shouted SET v = 'x' WHERE id = 2`, `CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := upper(NEW.v); RETURN NEW; END'`,
		`CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON shouted FOR EACH ROW EXECUTE FUNCTION shout()`,
		`DELETE FROM owners`)
	c := p.compare(t, 1, "--fix", "--settle", "0s", "--list")
	for name, want := range map[string][4]int64{ // missing, mismatched, extra, fixed
		"public.people": {1, 2, 1, 4}, "public.places": {0, 2, 0, 2}, "public.checked": {10, 0, 0, 9}, "public.shouted": {0, 1, 0, 0}, "public.owners": {1, 0, 0, 1},
	} {
		if got := c.table(t, name); [4]int64{got.Missing, got.Mismatched, got.Extra, got.Fixed} != want || int64(len(got.Differences)) != want[0]+want[1]+want[2] {
			t.Errorf("%s: %+v, want %v", name, got, want)
		}
	}
	for name, word := range map[string]string{"public.checked": `"odd"`, "public.shouted": "trigger", "public.owned": "foreign key"} {
		got := c.table(t, name)
		said := fmt.Sprint(got.Unfixed)
		if len(got.Unfixed) != 1 || !strings.Contains(said, word) {
			t.Errorf("%s: not fixed because %s, which does not say %s", name, said, word)
		}
	}
	for sql, want := range map[string]int64{
		`SELECT count(*) FROM trickle.corrections WHERE table_name = 'public.people'`:                                                            4,
		`SELECT count(*) FROM trickle.corrections WHERE closed_at IS NULL OR outcome <> 'confirmed' OR resync_id NOT LIKE 'diff-%'`:              0,
		`SELECT count(*) FROM trickle.corrections WHERE kind = 'missing' AND before IS NULL AND after->>'name' = 'name 1' AND key = '{"id": 1}'`: 1,
		`SELECT count(*) FROM trickle.corrections WHERE kind = 'mismatched' AND before->>'name' = 'drift' AND after->>'name' LIKE 'name %'`:      2,
		`SELECT count(*) FROM trickle.corrections WHERE kind = 'extra' AND before->>'name' = 'extra' AND after IS NULL AND key = '{"id": 1001}'`: 1,
		`SELECT count(*) FROM trickle.corrections WHERE table_name = 'public.shouted'`:                                                           0,
	} {
		if n := value[int64](t, p.dst, sql); n != want {
			t.Errorf("%s: %d, want %d", sql, n, want)
		}
	}
	p.prints(t, 0, []string{"public.people: identical, 100 rows", "public.places: identical, 3 rows"}, "--table", "people", "--table", "places", "--fix", "--settle", "0s")
	// Its owner is there by now.
	p.prints(t, 1, []string{"public.owned: 1 missing, 0 mismatched, 0 extra of 1 row", "  1 row fixed: see trickle.corrections in the replica"}, "--table", "owned", "--fix", "--settle", "0s")
	p.prints(t, 0, nil, "--table", "owned")
	p.dst.exec(t, `DROP TRIGGER shout ON shouted`, `ALTER TABLE checked DROP CONSTRAINT odd`)
	p.compare(t, 1, "--fix", "--settle", "0s")
	if c := p.compare(t, 0); !c.Identical {
		t.Errorf("%+v", c)
	}
}

// No more rows are deleted than the brake allows, by default a thousand, and what is said leads on.
func TestDiffFixHeedsTheBrake(t *testing.T) {
	t.Parallel()
	p := newPair(t, pgtest.Server(t, testbed.Options{}), `CREATE TABLE emptied (id int PRIMARY KEY)`, people)
	p.dst.exec(t, `INSERT INTO emptied SELECT generate_series(1, 2500)`)
	left := func() int { return value[int](t, p.dst, `SELECT count(*) FROM emptied`) }
	c := p.compare(t, 1, "--fix", "--settle", "0s")
	got := c.table(t, "public.emptied")
	said := fmt.Sprint(got.Unfixed)
	if got.Extra != 2500 || got.Fixed != 1000 || left() != 1500 {
		t.Errorf("%+v; %d are left", got, left())
	}
	for _, word := range []string{"brake", "1000", "detect.brake.deletes", "--policy"} {
		if !strings.Contains(said, word) {
			t.Errorf("%s does not say %s", said, word)
		}
	}
	// It stays on for deletes, and is none for the others.
	p.dst.exec(t, `UPDATE people SET name = 'drift' WHERE id = 7`)
	c = p.compare(t, 1, "--fix", "--settle", "0s")
	if got := c.table(t, "public.people"); got.Fixed != 1 || left() != 1500 {
		t.Errorf("%+v; %d are left", got, left())
	}
	// The way that it says, with limits of its own: first too low, then released.
	policy := writeFile(t, "policy.yaml", "pipeline: p\ntables: [{table: public.*}]\ndetect: {brake: {deletes: 800}}\n")
	c = p.compare(t, 1, "--fix", "--settle", "0s", "--policy", policy)
	if got := c.table(t, "public.emptied"); got.Fixed != 800 || left() != 700 || !strings.Contains(fmt.Sprint(got.Unfixed), "trickle-consumer brake --release") {
		t.Errorf("%+v; %d are left", got, left())
	}
	if code, _, stderr := run(t, trickleConsumer("brake", "--release", "--policy", policy, "--replica", p.dst.dsn)); code != 0 {
		t.Errorf("releasing ends with %d: %s", code, stderr)
	}
	c = p.compare(t, 1, "--fix", "--settle", "0s", "--policy", policy)
	if got := c.table(t, "public.emptied"); got.Fixed != 700 || left() != 0 {
		t.Errorf("%+v; %d are left", got, left())
	}
	p.compare(t, 0, "--policy", policy)
}

// What must not be written is refused before the first row is read.
func TestDiffFixRefuses(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, testbed.Options{})
	standby := pgtest.Standby(t, server, testbed.StandbyOptions{})
	p, other := newPair(t, server, people), connect(t, pgtest.DatabaseOn(t, server))
	other.exec(t, people)
	p.dst.exec(t, `UPDATE people SET name = 'drift' WHERE id = 7`, `CREATE ROLE looker LOGIN`, `GRANT SELECT ON people TO looker`)
	refused := func(name string, words []string, args ...string) {
		code, stdout, stderr := run(t, p.diff(append(args, "--fix", "--settle", "0s")...))
		if code != 2 || stdout != "" {
			t.Errorf("%s: exit status %d, %q", name, code, stdout)
		}
		for _, word := range words {
			if !strings.Contains(stderr, word) {
				t.Errorf("%s: %q does not say %q", name, stderr, word)
			}
		}
	}
	address := func(dsn string) string { return strings.Replace(dsn, server.Address(), standby.Address(), 1) }
	await(t, patience, "the standby has both databases", func() bool {
		end := value[string](t, p.src, `SELECT pg_current_wal_lsn()::text`)
		return value[bool](t, connect(t, standby.DSN("postgres")), `SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn`, end)
	})
	refused("the source is a standby", []string{"source", "standby", "primary", "--fix"}, "--source", address(p.src.dsn))
	refused("the replica is a standby", []string{"replica", "standby", "--fix"}, "--replica", address(p.dst.dsn))
	refused("no right to keep a journal", []string{"schema trickle", "GRANT CREATE ON DATABASE"}, "--replica", as(t, p.dst.dsn, "looker", ""))
	p.prints(t, 1, nil, "--replica", as(t, p.dst.dsn, "looker", "")) // SELECT is enough to compare
	p.prints(t, 1, nil, "--source", address(p.src.dsn))

	p.compare(t, 1, "--fix", "--settle", "0s")
	p.dst.exec(t, `UPDATE people SET name = 'drift' WHERE id = 7`)
	refused("another source", []string{"--source", "trickle-consumer pin", `"diff"`}, "--source", other.dsn)
	if got := value[string](t, p.dst, `SELECT name FROM people WHERE id = 7`); got != "drift" {
		t.Errorf("somebody corrected it to %s", got)
	}
	p.compare(t, 1, "--source", other.dsn) // comparing is free
}

// The brake on deletes holds deletes: what the replica lacks behind them, in the same table, is inserted all the same.
func TestDiffFixGoesOnBehindTheBrake(t *testing.T) {
	t.Parallel()
	p := newPair(t, pgtest.Server(t, testbed.Options{}), `CREATE TABLE half (id int PRIMARY KEY); INSERT INTO half SELECT generate_series(10000, 60000, 2)`)
	p.dst.exec(t, `INSERT INTO half SELECT generate_series(1, 3000)`)
	p.src.exec(t, `INSERT INTO half SELECT generate_series(30001, 30999, 2)`)
	policy := writeFile(t, "policy.yaml", "pipeline: p\ntables: [{table: public.*}]\ndetect: {brake: {deletes: 0}}\n")
	got := p.compare(t, 1, "--fix", "--settle", "0s", "--policy", policy).table(t, "public.half")
	if lacks := value[int](t, p.dst, `SELECT 500 - count(*) FROM half WHERE id % 2 = 1 AND id > 10000`); got.Extra != 3000 || got.Fixed != 500 || lacks != 0 {
		t.Errorf("%d rows fixed, the replica still lacks %d: %v", got.Fixed, lacks, got.Unfixed)
	}
}
