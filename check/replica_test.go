package check_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/check"
	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/sidechannel"
)

const both = "source replica"

func TestFaultsOfTheReplica(t *testing.T) {
	t.Parallel()
	const tables, orders = "replica tables", "public.orders"
	for _, f := range []fault{
		{name: "no right to write", replica: []string{`REVOKE INSERT, DELETE ON orders FROM $role`}, group: tables, check: "rights", object: orders, mend: "replica"},
		{name: "no right to the schema", replica: []string{`REVOKE USAGE ON SCHEMA public FROM $role`}, group: tables, check: "rights", object: orders, mend: "replica"},
		{name: "row-level security", replica: []string{`ALTER TABLE orders ENABLE ROW LEVEL SECURITY`}, group: tables, check: "rights", object: orders, mend: "replica"},
		{name: "no schema trickle", replica: []string{`DROP SCHEMA trickle`}, group: "replica", check: "schema trickle", mend: "replica"},
		{name: "a schema trickle of somebody else", replica: []string{`DROP SCHEMA trickle`, `CREATE SCHEMA trickle`}, group: "replica", check: "schema trickle", mend: "replica"},
		{name: "tables in trickle of somebody else", replica: []string{`CREATE TABLE trickle.pipelines (pipeline text PRIMARY KEY)`}, group: "replica", check: "schema trickle", mend: "replica"},
		{name: "no right to session_replication_role", policy: plain + "gate: {assume_lag: 1m}\ndetect: {session_replication_role: replica}\n", group: "replica", check: "session_replication_role", mend: "replica"},
		{name: "a trigger", replica: []string{`CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'`, `CREATE TRIGGER audit AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION f()`},
			group: tables, check: "side effects", object: orders, verdict: check.Warning, says: "audit"},
		{name: "a cascade", replica: []string{`CREATE TABLE lines (id int PRIMARY KEY, of int CONSTRAINT belongs REFERENCES orders ON DELETE CASCADE)`, `GRANT SELECT, INSERT, UPDATE, DELETE ON lines TO $role`},
			group: tables, check: "side effects", object: orders, verdict: check.Warning, says: "belongs"},
		{name: "no lag is known", policy: plain, group: "gate", check: "lag", verdict: check.Warning, says: "gate.slot and gate.group"},
		{name: "a heartbeat that nobody vouches for", policy: plain + "gate: {heartbeat: true}\n", group: "gate", check: "lag", verdict: check.Warning, says: "proves nothing by itself"},
		{name: "no heartbeat table and no right to make it", policy: beating, replica: []string{`DROP SCHEMA trickle`, `CREATE SCHEMA trickle`}, group: "gate", check: "heartbeat", object: "trickle.heartbeat", mend: "replica"},
		{name: "a heartbeat that stands still", policy: plain + "gate: {heartbeat: {interval: 100ms}, max_lag: 1s}\n", replica: []string{`CREATE TABLE trickle.heartbeat (pipeline text PRIMARY KEY, at timestamptz NOT NULL, timeline bigint NOT NULL)`,
			`GRANT SELECT ON trickle.heartbeat TO $role`, `INSERT INTO trickle.heartbeat VALUES ('shop', now() - interval '1 hour', 1)`},
			group: "gate", check: "heartbeat", object: "trickle.heartbeat", verdict: check.Warning, says: "stands still, 1h0m"},
		{name: "a heartbeat that never came", policy: beating, replica: []string{`CREATE TABLE trickle.heartbeat (pipeline text PRIMARY KEY, at timestamptz NOT NULL, timeline bigint NOT NULL)`, `GRANT SELECT ON trickle.heartbeat TO $role`},
			group: "gate", check: "heartbeat", object: "trickle.heartbeat", verdict: check.Warning, says: "no beat of pipeline shop"},
		{name: "the table is not there", policy: plain + "gate: {assume_lag: 1m}\n", sides: both, source: []string{`CREATE TABLE more (id int PRIMARY KEY)`, `GRANT SELECT ON more TO $role`},
			group: tables, check: "found", object: "public.more", says: "the replica has no table"},
		{name: "a column is missing", sides: both, replica: []string{`ALTER TABLE orders DROP COLUMN amount`}, group: tables, check: "agreement", object: orders, mend: "replica"},
		{name: "two columns are wrong", sides: both, replica: []string{`ALTER TABLE orders DROP COLUMN amount`, `ALTER TABLE orders ALTER customer TYPE bytea USING customer::bytea`},
			group: tables, check: "agreement", object: orders, mend: "replica"},
		{name: "no key in the replica", sides: both, replica: []string{`ALTER TABLE orders DROP CONSTRAINT orders_pkey`, `ALTER TABLE orders ALTER id DROP NOT NULL`},
			group: tables, check: "agreement", object: orders, mend: "replica"},
		{name: "no key in the source", sides: both, source: []string{`CREATE TABLE marks (v text)`, `GRANT SELECT ON marks TO $role`}, replica: []string{`CREATE TABLE marks (v text)`, `GRANT SELECT, INSERT, UPDATE, DELETE ON marks TO $role`},
			group: tables, check: "agreement", object: "public.marks", verdict: check.NotChecked, says: "has no key: see above"},
		{name: "no right to read the source's", sides: both, source: []string{`REVOKE SELECT ON orders FROM $role`}, group: tables, check: "agreement", object: orders, verdict: check.NotChecked, says: "can't be read: see above"},
		{name: "another key in the replica", sides: both, replica: []string{`ALTER TABLE orders DROP CONSTRAINT orders_pkey`, `ALTER TABLE orders ALTER id DROP NOT NULL`, `ALTER TABLE orders ADD UNIQUE (customer)`},
			group: tables, check: "agreement", object: orders, mend: "replica"},
		{name: "less fits into the replica's column", sides: both, replica: []string{`ALTER TABLE orders ALTER amount TYPE numeric(12,1)`}, group: tables, check: "room", object: orders, verdict: check.Warning, mend: "replica"},
		{name: "fewer digits before the point", sides: both, replica: []string{`ALTER TABLE orders ALTER amount TYPE numeric(11,2)`}, group: tables, check: "room", object: orders, verdict: check.Warning, mend: "replica"},
		{name: "a smaller integer", sides: both, replica: []string{`ALTER TABLE orders ALTER id TYPE int2`}, group: tables, check: "room", object: orders, verdict: check.Warning, mend: "replica"},
		{name: "a shorter text", sides: both, replica: []string{`ALTER TABLE orders ALTER customer TYPE varchar(10)`}, group: tables, check: "room", object: orders, verdict: check.Warning, mend: "replica"},
		{name: "a column that nothing fills", sides: both, replica: []string{`ALTER TABLE orders ADD vital int NOT NULL`}, group: tables, check: "room", object: orders, verdict: check.Warning, mend: "replica"},
		{name: "a condition that the replica can't read", policy: "pipeline: shop\ntables: [{table: public.orders, where: id > 0, replica_where: nr > 0}]\ngate: {assume_lag: 1m}\n", sides: both,
			group: tables, check: "agreement", object: orders, says: "replica_where"},
		{name: "text keys sorted differently", sides: both, source: []string{`CREATE TABLE words (w text PRIMARY KEY)`, `GRANT SELECT ON words TO $role`},
			replica: []string{`CREATE TABLE words (w text COLLATE "POSIX" PRIMARY KEY)`, `GRANT SELECT, INSERT, UPDATE, DELETE ON words TO $role`},
			group:   tables, check: "order of text keys", object: "public.words", verdict: check.Warning, says: "POSIX"},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			if f.sides == "" {
				f.sides = "replica"
			}
			f.test(t)
		})
	}
}

// Every table of the ledger is looked at, also those that later versions add.
func TestALedgerOfSomebodyElse(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "replica")
	pool, err := postgres.Open(t.Context(), d.replica, postgres.Options{Role: "replica"})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := ledger.New(pool, "shop").Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows, err := pool.Query(t.Context(), `SELECT tablename::text FROM pg_tables WHERE schemaname = 'trickle'`)
	if err != nil {
		t.Fatal(err)
	}
	made, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(made) == 0 {
		t.Fatal(made, err)
	}
	found := bad(d.look("replica"), "replica", "schema trickle", "")
	if len(found) != 1 {
		t.Fatalf("found %+v", found)
	}
	for _, table := range made {
		if !slices.Contains(strings.FieldsFunc(found[0].Detail, func(r rune) bool { return r == ' ' || r == ',' }), table) {
			t.Errorf("nothing about %s in %q", table, found[0].Detail)
		}
	}
}

func TestCollationsOfAnotherVersion(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "source")
	pgtest.Exec(t, d.source, `CREATE COLLATION german (provider = icu, locale = 'de')`, `CREATE TABLE words (w text COLLATE german PRIMARY KEY)`,
		`UPDATE pg_collation SET collversion = '1' WHERE collname = 'german'`, `GRANT SELECT ON words TO `+pgx.Identifier{d.role}.Sanitize())
	found := bad(d.look("source"), "source", "collations", "collation public.german")
	if len(found) != 1 || found[0].Verdict != check.Warning {
		t.Fatal(found)
	}
	pgtest.Exec(t, d.source, strings.Split(found[0].Fix, "; ")...)
	if r := d.look("source"); len(bad(r, "source", "collations", "collation public.german")) > 0 {
		t.Error(lines(r))
	}
}

func TestThePinnedSource(t *testing.T) {
	t.Parallel()
	d := newDesk(t, both)
	pool, err := pgxpool.New(t.Context(), d.as(d.replica))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	l := ledger.New(pool, "shop")
	if err := l.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Pin(t.Context(), "1/elsewhere"); err != nil {
		t.Fatal(err)
	}
	if err := l.Brake(t.Context(), "more than 5 deletes"); err != nil {
		t.Fatal(err)
	}
	r := d.look(both)
	found := bad(r, "replica", "pinned source", "")
	if len(found) != 1 || found[0].Verdict != check.Failure || !strings.Contains(found[0].Detail, "1/elsewhere") {
		t.Fatal(lines(r))
	}
	if braked := bad(r, "replica", "brake", ""); len(braked) != 1 || braked[0].Verdict != check.Warning {
		t.Error(lines(r))
	}
	// The fix is a command of ours: trickle-consumer pin --source SYSTEM/DATABASE, if …
	args := strings.Fields(strings.Split(found[0].Fix, ",")[0])
	if err := l.Repin(t.Context(), args[len(args)-1]); err != nil {
		t.Fatal(err)
	}
	if r = d.look(both); len(bad(r, "replica", "pinned source", "")) > 0 {
		t.Error(lines(r))
	}
	same := *d
	same.source = d.replica
	if r = same.look(both); len(bad(r, "replica", "pinned source", "")) != 1 {
		t.Errorf("one database is both:\n%s", lines(r))
	}
}

func TestAHeartbeatThatFlows(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "replica")
	d.policy = plain + "gate: {heartbeat: {interval: 1s}}\n"
	pgtest.Exec(t, d.replica, `CREATE TABLE trickle.heartbeat (pipeline text PRIMARY KEY, at timestamptz NOT NULL, timeline bigint NOT NULL)`, `INSERT INTO trickle.heartbeat VALUES ('shop', now() - interval '1 hour', 1)`,
		`GRANT SELECT ON trickle.heartbeat TO `+pgx.Identifier{d.role}.Sanitize())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { // CDC
		defer close(done)
		for ctx.Err() == nil {
			pgtest.Exec(t, d.replica, `UPDATE trickle.heartbeat SET at = at + interval '1 second'`)
			time.Sleep(50 * time.Millisecond)
		}
	}()
	r := d.look("replica")
	cancel()
	<-done
	if found := bad(r, "gate", "heartbeat", "trickle.heartbeat"); len(found) > 0 {
		t.Error(lines(r))
	}
}

// answers is a publisher that says what it is told.
type answers struct {
	schema *tricklepb.Schema
	source string
	err    error
}

func (a answers) Hello(context.Context, string) (*tricklepb.Schema, string, error) {
	return a.schema, a.source, a.err
}

func TestThePublisherIsAsked(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "replica")
	r := d.look("replica")
	if found := bad(r, "replica tables", "agreement", ""); len(found) != 1 || found[0].Verdict != check.NotChecked || !r.OK {
		t.Errorf("nobody to ask:\n%s", lines(r))
	}
	d.ask = answers{err: errors.New("no publisher")}
	r = d.look("replica")
	if found := bad(r, "replica tables", "agreement", "public.orders"); len(found) != 1 || found[0].Verdict != check.NotChecked || !strings.Contains(found[0].Detail, "no publisher") {
		t.Errorf("no answer:\n%s", lines(r))
	}
	d.ask = answers{err: &sidechannel.Error{Code: tricklepb.ErrorCode_ERROR_CODE_REFUSED, Reason: "no key"}}
	r = d.look("replica")
	if found := bad(r, "replica tables", "agreement", "public.orders"); len(found) != 1 || found[0].Verdict != check.NotChecked || strings.Contains(found[0].Fix, "start the publisher") {
		t.Errorf("it runs, and answers that it can't say: %v", found)
	}
	d.ask = answers{source: "1/other", schema: &tricklepb.Schema{Key: []string{"id"}, Columns: []*tricklepb.Column{
		{Name: "id", Type: "pg_catalog.int4", Declared: "pg_catalog.int4"}, {Name: "colour", Type: "pg_catalog.text", Declared: "pg_catalog.text"},
	}}}
	r = d.look("replica")
	if found := bad(r, "replica tables", "agreement", "public.orders"); len(found) != 1 || found[0].Verdict != check.Failure || !strings.Contains(found[0].Fix, `ADD COLUMN "colour"`) {
		t.Errorf("a column is missing:\n%s", lines(r))
	}
}

// Which digest both sides compute alike is told either way.
func TestTheDigestIsTold(t *testing.T) {
	t.Parallel()
	d := newDesk(t, both)
	if r := d.look(both); !strings.Contains(lines(r), "replica tables / agreement / : ok: 1 table with the columns, types and key of the source's, whose types both servers hash alike") {
		t.Errorf("equal probes:\n%s", lines(r))
	}
	d.ask = answers{schema: &tricklepb.Schema{Probe: 1, Key: []string{"id"}, Columns: []*tricklepb.Column{
		{Name: "id", Type: "pg_catalog.int4", Declared: "pg_catalog.int4"}, {Name: "customer", Type: "pg_catalog.text", Declared: "pg_catalog.text"},
		{Name: "amount", Type: "pg_catalog.numeric", Declared: "pg_catalog.numeric(12,2)"},
	}}}
	if r := d.look("replica"); !strings.Contains(lines(r), "replica tables / agreement / digest: ok: 1 table by portable digests") || strings.Contains(lines(r), "hash alike") {
		t.Errorf("another probe:\n%s", lines(r))
	}
}

func TestServersThatCantServe(t *testing.T) {
	t.Parallel()
	primary := pgtest.Server(t, testbed.Options{Settings: map[string]string{"wal_level": "replica", "max_prepared_transactions": "2"}})
	dsn, err := primary.CreateDatabase(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, dsn, `CREATE TABLE orders (id int PRIMARY KEY)`, `CREATE SCHEMA trickle`)
	standby := pgtest.Standby(t, primary, testbed.StandbyOptions{Settings: map[string]string{"max_prepared_transactions": "2"}})
	d := &desk{t: t, role: "postgres", policy: plain + "gate: {heartbeat: true, slot: debezium}\n", source: standby.DSN("shop"), replica: standby.DSN("shop")}
	r := d.look("source replica")
	for _, want := range []struct{ group, name, says string }{
		{"source", "standing", "the heartbeat can't be written"}, {"replica", "standing", "can't be written"},
	} {
		if found := bad(r, want.group, want.name, ""); len(found) != 1 || found[0].Verdict != check.Failure || !strings.Contains(found[0].Detail, want.says) {
			t.Errorf("%s/%s:\n%s", want.group, want.name, lines(r))
		}
	}
	if found := bad(r, "source", "slot", ""); len(found) != 1 || found[0].Verdict != check.NotChecked {
		t.Errorf("a slot on a standby:\n%s", lines(r))
	}
	side := d.side("primary", dsn)
	d.primary = &side
	if r = d.look("source"); len(bad(r, "source", "standing", "")) > 0 || len(bad(r, "source", "heartbeat", "trickle.heartbeat")) > 0 {
		t.Errorf("a standby with its primary:\n%s", lines(r))
	}
	if found := bad(r, "source", "slot", ""); len(found) != 1 || found[0].Verdict != check.Failure || !strings.Contains(found[0].Detail, "wal_level is replica") {
		t.Errorf("the slot is looked for on the primary:\n%s", lines(r))
	}
	itself := d.side("primary", standby.DSN("shop"))
	d.primary = &itself
	if found := bad(d.look("source"), "source", "standing", ""); len(found) != 1 || found[0].Verdict != check.Failure {
		t.Errorf("a primary that is none: %v", found)
	}
	d.primary = nil
	d.source = primary.DSN("shop")
	pgtest.Exec(t, dsn, `BEGIN`+`; INSERT INTO orders VALUES (1); PREPARE TRANSACTION 'forgotten'`)
	found := bad(d.look("source"), "source", "transactions", "transaction forgotten")
	if len(found) != 1 || found[0].Verdict != check.Warning {
		t.Fatalf("a prepared transaction: %v", found)
	}
	rollback, _, _ := strings.Cut(found[0].Fix, ", or")
	pgtest.Exec(t, dsn, rollback)
	// The fix of wal_level, then a slot that nobody reads.
	slot := bad(d.look("source"), "source", "slot", "")
	if len(slot) != 1 || slot[0].Verdict != check.Failure || !strings.Contains(slot[0].Detail, "wal_level is replica") {
		t.Fatalf("wal_level: %v", slot)
	}
	set, _, _ := strings.Cut(slot[0].Fix, ", and")
	pgtest.Exec(t, dsn, set)
	if err := primary.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, dsn, `SELECT pg_create_logical_replication_slot('debezium', 'pgoutput')`)
	r = d.look("source")
	if found := bad(r, "source", "slot", "debezium"); len(found) != 1 || found[0].Verdict != check.Warning || !strings.Contains(found[0].Detail, "nobody reads") {
		t.Error(lines(r))
	}
	// Those that CDC can't read this database through.
	pgtest.Exec(t, dsn, `SELECT pg_create_physical_replication_slot('standby')`)
	pgtest.Exec(t, primary.DSN("postgres"), `SELECT pg_create_logical_replication_slot('elsewhere', 'pgoutput')`)
	for slot, says := range map[string]string{"standby": "a physical slot", "elsewhere": "belongs to database postgres, and not to shop"} {
		d.policy = plain + "gate: {assume_lag: 1m, slot: " + slot + "}\n"
		r = d.look("source")
		if found := bad(r, "source", "slot", slot); len(found) != 1 || found[0].Verdict != check.Failure || !strings.Contains(found[0].Detail, says) {
			t.Errorf("%s:\n%s", slot, lines(r))
		}
	}
}

func TestADatabaseThatCantBeReached(t *testing.T) {
	t.Parallel()
	d := &desk{t: t, role: "nobody", policy: plain, source: "postgres://nobody@127.0.0.1:1/x", replica: "postgres://nobody@127.0.0.1:1/x"}
	r := d.look("source replica")
	if r.OK || r.Counts.OK > 1 { // what the gate's policy says needs no database
		t.Errorf("something is ok:\n%s", lines(r))
	}
	for _, f := range r.Checks {
		if f.Check == "connect" && (f.Verdict != check.Failure || f.Fix == "") || f.Check == "key" && (f.Verdict != check.NotChecked || !strings.Contains(f.Detail, "source connect failed")) {
			t.Errorf("%+v", f)
		}
	}
	if r.Counts.Failure != 2 {
		t.Errorf("%d failures, and not one for each side:\n%s", r.Counts.Failure, lines(r))
	}
}
