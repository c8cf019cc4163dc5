package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Tip is a moment of the server's clock and a position at which the log ended after it.
type Tip struct {
	At time.Time
	// LSN: whatever had committed before At, as any snapshot showed it, has its commit record below. Unset on a standby.
	LSN      uint64
	Timeline uint32 // see TimelineSQL
	Standby  bool
}

// Tip reads the clock first and the log's end after it. The end is that of what was inserted, not of what was written or flushed: with synchronous_commit off
// a commit is visible before its record leaves the buffers. A record is inserted before its transaction is seen as ended, so what a snapshot showed as
// committed before the clock was read lies below the end that is read then.
func (s *Source) Tip(ctx context.Context) (Tip, error) {
	var t Tip
	err := s.pool.QueryRow(ctx, `SELECT c.at, coalesce((CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE pg_catalog.pg_current_wal_insert_lsn() END - '0/0'::pg_lsn)::bigint, 0),
			coalesce(`+TimelineSQL+`, 0), pg_catalog.pg_is_in_recovery()
		FROM (SELECT pg_catalog.clock_timestamp() AS at OFFSET 0) AS c`).Scan(&t.At, &t.LSN, &t.Timeline, &t.Standby)
	if err != nil {
		return Tip{}, fmt.Errorf("reading the end of the source's log: %w", err)
	}
	t.At = t.At.UTC()
	return t, nil
}

// Slot is a replication slot as pg_replication_slots shows it to everybody.
type Slot struct {
	Logical  bool
	Plugin   string // that decodes it
	Active   bool   // somebody reads it now
	Database string // that it decodes
	Here     string // the database of this connection
	// Confirmed: whoever reads it has confirmed every transaction whose commit record lies below. 0: none yet.
	Confirmed uint64
	// Behind is how many bytes of log there are that nobody has confirmed.
	Behind uint64
	// Scarce: some of these may be removed at the next checkpoint.
	Scarce bool
	// Lost is why it can never be read again; empty: it can.
	Lost string
}

// Slot reads a replication slot; false: there is none of that name.
func (s *Source) Slot(ctx context.Context, name string) (Slot, bool, error) {
	var v Slot
	// Columns that only newer versions have are read by way of the row's JSON.
	err := s.pool.QueryRow(ctx, `SELECT slot_type = 'logical', coalesce(plugin, ''), active, coalesce(database, ''), pg_catalog.current_database(),
			coalesce((confirmed_flush_lsn - '0/0'::pg_lsn)::bigint, 0),
			coalesce(greatest(CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END
				- coalesce(confirmed_flush_lsn, restart_lsn), 0)::bigint, 0), coalesce(wal_status = 'unreserved', false),
			coalesce(j->>'invalidation_reason', CASE WHEN wal_status = 'lost' THEN 'the log that it needs has been removed'
				WHEN (j->>'conflicting')::bool THEN 'a conflict with recovery' END, '')
		FROM pg_catalog.pg_replication_slots s, LATERAL pg_catalog.to_jsonb(s) AS j WHERE slot_name = $1`, name).
		Scan(&v.Logical, &v.Plugin, &v.Active, &v.Database, &v.Here, &v.Confirmed, &v.Behind, &v.Scarce, &v.Lost)
	if errors.Is(err, pgx.ErrNoRows) {
		return Slot{}, false, nil
	}
	if err != nil {
		return Slot{}, false, fmt.Errorf("reading replication slot %s: %w", name, err)
	}
	return v, true, nil
}
