// Package heartbeat is a row on the source that says what time it is there, which CDC carries to the replica like any other row.
//
// It decides nothing. What always holds: a beat that has reached the replica proves that every source transaction that committed before the
// time it holds has been applied there too, given that CDC keeps commit order; both times are the source's own clock. It is the one
// thing that the publisher writes to the source, and only where the policy asks for it. A beat that can't be written is logged and tried
// again; meanwhile the replica's copy ages and the gate closes.
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
	return "CREATE TABLE IF NOT EXISTS " + t.name.SQL() + " (pipeline text PRIMARY KEY, at timestamptz NOT NULL)"
}

// Create makes the table where it is missing. Its error carries the statements for somebody with the right to run them.
func (t *Table) Create(ctx context.Context) error {
	var there, schema bool
	err := t.pool.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL, to_regnamespace($2) IS NOT NULL`, t.name.SQL(), postgres.Quote(t.name.Schema)).Scan(&there, &schema)
	if err != nil {
		return fmt.Errorf("looking for the heartbeat table %s: %w", t.name, err)
	}
	if there {
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
	_, err := t.pool.Exec(ctx, "INSERT INTO "+t.name.SQL()+" AS h (pipeline, at) VALUES ($1, clock_timestamp()) ON CONFLICT (pipeline) DO UPDATE SET at = clock_timestamp()", t.pipeline)
	if err != nil {
		return fmt.Errorf("writing the heartbeat %s: %w", t.name, err)
	}
	return nil
}

// Run beats until the context ends.
func (t *Table) Run(ctx context.Context, every time.Duration, log *slog.Logger) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	failing := false
	for {
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

// Beat reads the table: the last time that came through, zero where none did.
func (t *Table) Beat(ctx context.Context) (time.Time, error) {
	var at time.Time
	err := t.pool.QueryRow(ctx, "SELECT at FROM "+t.name.SQL()+" WHERE pipeline = $1", t.pipeline).Scan(&at)
	if errors.Is(err, pgx.ErrNoRows) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	return at.UTC(), nil
}
