// Package heartbeat is a row on the source that says what time it is there, which CDC carries to the replica like any other row.
//
// It decides nothing. What always holds: a beat that has reached the replica proves that every source transaction that committed before the
// time it holds has been applied there too, given that CDC keeps commit order across tables; both times are the source's own clock. It is the one
// thing that the publisher writes to the source, and only where the policy asks for it. Each beat names the timeline that it was written on, so
// that after a failover a beat of the old primary, whose clock may be ahead, is not taken for one of the new. A beat that can't be written is
// logged and tried again; meanwhile the replica's copy ages and the gate closes.
package heartbeat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/telemetry/pulse"
)

// Table is a heartbeat table on one side.
type Table struct {
	pool     *pgxpool.Pool
	name     postgres.Name
	pipeline string
}

// New names the table; the pool stays the caller's.
func New(pool *pgxpool.Pool, name, pipeline string) *Table {
	return &Table{pool: pool, name: postgres.ParseName(name), pipeline: pipeline}
}

// DDL creates the table, on either side.
func (t *Table) DDL() string {
	return "CREATE SCHEMA IF NOT EXISTS " + postgres.Quote(t.name.Schema) + "; " + t.tableDDL()
}

func (t *Table) tableDDL() string {
	return "CREATE TABLE IF NOT EXISTS " + t.name.SQL() + " (pipeline text PRIMARY KEY, at timestamptz NOT NULL, timeline bigint NOT NULL)"
}

// Create makes the table where it is missing. Its error carries the statements for somebody with the right to run them.
func (t *Table) Create(ctx context.Context) error {
	var there, schema, timeline bool
	err := t.pool.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL, to_regnamespace($2) IS NOT NULL,
			EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass($1) AND attname = 'timeline' AND NOT attisdropped)`,
		t.name.SQL(), postgres.Quote(t.name.Schema)).Scan(&there, &schema, &timeline)
	switch {
	case err != nil:
		return fmt.Errorf("looking for the heartbeat table %s: %w", t.name, err)
	case there && !timeline:
		// Not added by itself: CDC that meets a column which the replica lacks may stop.
		return fmt.Errorf("the heartbeat table %s has no column timeline, which tells a beat of the primary from one of the server before it; run, in the replica first and then on the source: ALTER TABLE %s ADD COLUMN timeline bigint NOT NULL DEFAULT 0", t.name, t.name.SQL())
	case there:
		return nil
	}
	ddl := t.DDL()
	if schema {
		ddl = t.tableDDL() // CREATE SCHEMA asks for the right to create it even where it exists
	}
	if _, err := t.pool.Exec(ctx, ddl, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("the heartbeat table %s is missing and can't be created (%w); run as its owner: %s; then GRANT INSERT, UPDATE, SELECT on it", t.name, err, ddl)
	}
	return nil
}

// Write beats once.
func (t *Table) Write(ctx context.Context) error {
	_, err := t.pool.Exec(ctx, "INSERT INTO "+t.name.SQL()+" AS h (pipeline, at, timeline) VALUES ($1, clock_timestamp(), "+postgres.TimelineSQL+
		") ON CONFLICT (pipeline) DO UPDATE SET at = clock_timestamp(), timeline = EXCLUDED.timeline", t.pipeline)
	if err != nil {
		return fmt.Errorf("writing the heartbeat %s: %w", t.name, err)
	}
	return nil
}

// BesideDebezium tells whether Debezium reads this database, as far as it has a session now. It does not keep the order that a beat rests on: with a topic for each table,
// and a sink that writes in batches, the beat overtakes rows that were committed before it.
func (t *Table) BesideDebezium(ctx context.Context) (there bool, err error) {
	err = t.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE datname = pg_catalog.current_database() AND application_name LIKE 'Debezium %')`).Scan(&there)
	if err != nil {
		return false, fmt.Errorf("looking for Debezium beside the heartbeat: %w", err)
	}
	return there, nil
}

// Run beats until the context ends.
func (t *Table) Run(ctx context.Context, every time.Duration, log *slog.Logger) error {
	ctx, end := pulse.Loop(ctx, "the heartbeat")
	defer end()
	tick := time.NewTicker(every)
	defer tick.Stop()
	failing := false
	for {
		pulse.Beat(ctx)
		err := t.Write(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !failing {
			log.Warn("the heartbeat stopped; replicas will close their gates", "err", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Beat reads the table: the last time that came through and the timeline it was written on, zero where none did.
func (t *Table) Beat(ctx context.Context) (at time.Time, timeline uint32, err error) {
	err = t.pool.QueryRow(ctx, "SELECT at, timeline FROM "+t.name.SQL()+" WHERE pipeline = $1", t.pipeline).Scan(&at, &timeline)
	if errors.Is(err, pgx.ErrNoRows) {
		return time.Time{}, 0, nil
	}
	if err != nil {
		return time.Time{}, 0, err
	}
	return at.UTC(), timeline, nil
}
