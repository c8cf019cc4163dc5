package check_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/check"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

const beating = plain + "gate: {heartbeat: {in_commit_order: true}}\n"

func TestNothingIsFoundWhereAllIsWell(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "source replica")
	// Nothing is written: who may not write can't have.
	pgtest.Exec(t, d.source, `ALTER ROLE `+pgx.Identifier{d.role}.Sanitize()+` SET default_transaction_read_only = on`)
	r := d.look("source replica")
	if !r.OK || r.Counts.Failure+r.Counts.Warning > 0 {
		t.Fatalf("something is wrong:\n%s", lines(r))
	}
	if r.Counts.OK < 15 {
		t.Errorf("only %d lines:\n%s", r.Counts.OK, lines(r))
	}
}

func TestFaultsOfTheSource(t *testing.T) {
	t.Parallel()
	for _, f := range []fault{
		{name: "no right to read", source: []string{`REVOKE SELECT ON orders FROM $role`}, group: "tables", check: "rights", object: "public.orders", mend: "source"},
		{name: "no right to the schema", source: []string{`REVOKE USAGE ON SCHEMA public FROM $role`}, group: "tables", check: "rights", object: "public.orders", mend: "source"},
		{name: "no right to a column", source: []string{`REVOKE SELECT ON orders FROM $role`, `GRANT SELECT (id, customer) ON orders TO $role`},
			group: "tables", check: "readable", object: "public.orders", mend: "source"},
		{name: "row-level security", source: []string{`ALTER TABLE orders ENABLE ROW LEVEL SECURITY`}, group: "tables", check: "rights", object: "public.orders", mend: "source"},
		{name: "no key", source: []string{`ALTER TABLE orders DROP CONSTRAINT orders_pkey`}, group: "tables", check: "key", object: "public.orders", mend: "source"},
		{name: "a key that may be NULL", source: []string{`ALTER TABLE orders DROP CONSTRAINT orders_pkey`, `ALTER TABLE orders ALTER id DROP NOT NULL`, `CREATE UNIQUE INDEX ON orders (id)`},
			group: "tables", check: "key", object: "public.orders", mend: "source"},
		{name: "a key that the statistics know", source: []string{`CREATE TABLE plates ("Plate No" text)`, `INSERT INTO plates SELECT 'p' || i FROM generate_series(1, 1000) i`, `ANALYZE plates`,
			`GRANT SELECT ON plates TO $role`}, group: "tables", check: "key", object: "public.plates", mend: "source"},
		{name: "no key to be guessed", source: []string{`CREATE TABLE marks (v text)`, `GRANT SELECT ON marks TO $role`}, group: "tables", check: "key", object: "public.marks", says: "leave the table out"},
		{name: "no key, read", source: []string{`CREATE TABLE marks (v text)`, `GRANT SELECT ON marks TO $role`}, group: "tables", check: "readable", object: "public.marks", verdict: check.NotChecked, says: "the table has no key: see above"},
		{name: "no replica identity", source: []string{`ALTER TABLE orders REPLICA IDENTITY NOTHING`}, group: "tables", check: "replica identity", object: "public.orders",
			verdict: check.Warning, mend: "source"},
		{name: "no replica identity, published", source: []string{`ALTER TABLE orders REPLICA IDENTITY NOTHING`, `CREATE PUBLICATION p FOR TABLE orders`},
			group: "tables", check: "replica identity", object: "public.orders", mend: "source"},
		{name: "a unique index for replica identity", source: []string{`CREATE TABLE codes (code text NOT NULL UNIQUE)`, `GRANT SELECT ON codes TO $role`}, group: "tables", check: "replica identity",
			object: "public.codes", verdict: check.Warning, mend: "source"},
		{name: "replica identity of a partition", source: []string{`CREATE TABLE days (id int PRIMARY KEY) PARTITION BY RANGE (id)`, `CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM (0) TO (9)`,
			`ALTER TABLE days_1 REPLICA IDENTITY NOTHING`, `GRANT SELECT ON days TO $role`}, group: "tables", check: "replica identity", object: "public.days", verdict: check.Warning, mend: "source"},
		{name: "unlogged", source: []string{`ALTER TABLE orders SET UNLOGGED`}, group: "tables", check: "carried", object: "public.orders", mend: "source"},
		{name: "in no publication", source: []string{`CREATE TABLE other (id int PRIMARY KEY)`, `GRANT SELECT ON other TO $role`, `CREATE PUBLICATION p FOR TABLE other`},
			group: "tables", check: "carried", object: "public.orders", verdict: check.Warning, mend: "source"},
		{name: "published by partition", source: []string{`CREATE TABLE days (id int PRIMARY KEY) PARTITION BY RANGE (id)`, `CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM (0) TO (9)`,
			`GRANT SELECT ON days TO $role`, `CREATE PUBLICATION p FOR ALL TABLES`}, group: "tables", check: "carried", object: "public.days", verdict: check.Warning, says: "publish_via_partition_root = true"},
		{name: "published in part", source: []string{`CREATE PUBLICATION p FOR TABLE orders WHERE (id > 1)`}, group: "tables", check: "carried", object: "public.orders", verdict: check.Warning, says: "where:"},
		{name: "a publication without updates", source: []string{`CREATE PUBLICATION p FOR TABLE orders WITH (publish = 'insert')`}, group: "source", check: "publications", object: "p",
			verdict: check.Warning, mend: "source"},
		{name: "an heir", source: []string{`CREATE TABLE heir () INHERITS (orders)`, `ALTER TABLE heir ADD PRIMARY KEY (id)`, `GRANT SELECT ON heir TO $role`}, group: "tables", check: "carried", object: "public.orders",
			verdict: check.Warning, says: "1 table inherits"},
		{name: "an entry that matches nothing", policy: "pipeline: shop\ntables: [{table: public.orders}, {table: public.Orders}]\ngate: {assume_lag: 1m}\n", group: "tables", check: "found", object: "public.Orders", says: "matches no table"},
		{name: "no table at all", policy: "pipeline: shop\ntables: [{table: sales.*}]\ngate: {assume_lag: 1m}\n", group: "tables", check: "found", object: "", says: "none of the 1 tables"},
		{name: "a column that is not there", policy: "pipeline: shop\ntables: [{table: public.orders, columns: {exclude: [colour]}}]\ngate: {assume_lag: 1m}\n",
			group: "tables", check: "readable", object: "public.orders", says: `"colour"`},
		{name: "a condition that is no SQL", policy: "pipeline: shop\ntables: [{table: public.orders, where: \"colour = 'red'\"}]\ngate: {assume_lag: 1m}\n",
			group: "tables", check: "readable", object: "public.orders", says: `"colour" does not exist`},
		{name: "a quiet column that is no time", policy: "pipeline: shop\ntables: [{table: public.orders, quiet_column: amount}]\ngate: {assume_lag: 1m}\n",
			group: "tables", check: "readable", object: "public.orders", says: "quiet_column"},
		{name: "no right to the database", source: []string{`DO $$ BEGIN EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database()); END $$`}, group: "source", check: "connect", mend: "source"},
		{name: "no right to ask who the server is", source: []string{`REVOKE EXECUTE ON FUNCTION pg_catalog.pg_control_system() FROM PUBLIC`}, group: "source", check: "connect", mend: "source"},
		{name: "no right to see sessions", source: []string{`REVOKE pg_read_all_stats FROM $role`}, group: "source", check: "activity", verdict: check.Warning, mend: "source"},
		{name: "a short timeout", source: []string{`ALTER ROLE $role SET statement_timeout = '5s'`}, group: "source", check: "settings", object: "statement_timeout", verdict: check.Warning, mend: "source"},
		{name: "no slot", policy: plain + "gate: {assume_lag: 1m, slot: debezium}\n", group: "source", check: "slot", says: "no replication slot debezium"},
		{name: "no heartbeat table and no right to make it", policy: beating, group: "source", check: "heartbeat", object: "trickle.heartbeat", mend: "source"},
		{name: "no right to write the heartbeat", policy: beating, source: []string{`CREATE SCHEMA trickle`, `CREATE TABLE trickle.heartbeat (pipeline text PRIMARY KEY, at timestamptz NOT NULL, timeline bigint NOT NULL)`},
			group: "source", check: "heartbeat", object: "trickle.heartbeat", mend: "source"},
		{name: "a heartbeat table of another kind", policy: beating, source: []string{`CREATE SCHEMA trickle`, `CREATE TABLE trickle.heartbeat (id int)`, `GRANT USAGE ON SCHEMA trickle TO $role`},
			group: "source", check: "heartbeat", object: "trickle.heartbeat", mend: "source"},
		{name: "a heartbeat table of an older version", policy: beating, source: []string{`CREATE SCHEMA trickle`, `CREATE TABLE trickle.heartbeat (pipeline text PRIMARY KEY, at timestamptz NOT NULL)`,
			`GRANT USAGE ON SCHEMA trickle TO $role`, `GRANT SELECT, INSERT, UPDATE ON trickle.heartbeat TO $role`}, group: "source", check: "heartbeat", object: "trickle.heartbeat", mend: "source"},
		{name: "the heartbeat is not published", policy: beating, source: []string{`CREATE SCHEMA trickle`, `CREATE TABLE trickle.heartbeat (pipeline text PRIMARY KEY, at timestamptz NOT NULL, timeline bigint NOT NULL)`,
			`GRANT USAGE ON SCHEMA trickle TO $role`, `GRANT SELECT, INSERT, UPDATE ON trickle.heartbeat TO $role`, `CREATE PUBLICATION p FOR TABLE orders`},
			group: "source", check: "heartbeat", object: "trickle.heartbeat", mend: "source"},
		{name: "a publisher that does not run", policy: beating, source: []string{`CREATE SCHEMA trickle`, `CREATE TABLE trickle.heartbeat (pipeline text PRIMARY KEY, at timestamptz NOT NULL, timeline bigint NOT NULL)`,
			`GRANT USAGE ON SCHEMA trickle TO $role`, `GRANT SELECT, INSERT, UPDATE ON trickle.heartbeat TO $role`, `INSERT INTO trickle.heartbeat VALUES ('shop', now() - interval '1 hour', 1)`},
			group: "source", check: "heartbeat", object: "trickle.heartbeat", verdict: check.Warning, says: "no publisher runs"},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			f.test(t)
		})
	}
}

// The checks run at once, and what they learn of the primary one of them learns: under the race detector this fails where two connect.
func TestThePrimaryIsConnectedToOnce(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "source")
	d.policy = plain + "gate: {slot: cdc, heartbeat: {in_commit_order: true}}\n"
	var times atomic.Int32
	primary := d.side("primary", d.as(d.source))
	open := primary.Open
	primary.Open = func(ctx context.Context) (*pgxpool.Pool, error) {
		times.Add(1)
		return open(ctx)
	}
	d.primary = &primary
	if r := d.look("source"); times.Load() != 1 || len(bad(r, "source", "standing", "")) > 0 || len(bad(r, "source", "order", "")) > 0 {
		t.Errorf("connected %d times:\n%s", times.Load(), lines(r))
	}
}

// Beside Debezium a heartbeat alone proves nothing, and the preflight says so as long as Debezium is there to be seen, also to who may not see what sessions do.
func TestAHeartbeatAloneBesideDebezium(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "source")
	d.policy = beating
	pgtest.Exec(t, d.source, `REVOKE pg_read_all_stats FROM `+pgx.Identifier{d.role}.Sanitize())
	config, err := pgx.ParseConfig(d.source)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["application_name"] = "Debezium Streaming"
	connector, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connector.Close(context.Background()) })
	found := bad(d.look("source"), "source", "order", "")
	if len(found) != 1 || found[0].Verdict != check.Warning || !strings.Contains(found[0].Fix, "group: connect-") {
		t.Errorf("found %+v", found)
	}
	d.policy = plain + "gate: {heartbeat: true, slot: debezium, group: sink}\n"
	if found := bad(d.look("source"), "source", "order", ""); len(found) > 0 {
		t.Errorf("with slot and group: %+v", found)
	}
	d.policy = beating
	if err := connector.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); len(bad(d.look("source"), "source", "order", "")) > 0; { // its session ends a moment later
		if time.Now().After(deadline) {
			t.Fatal("Debezium has gone, and it is still warned of")
		}
	}
}
