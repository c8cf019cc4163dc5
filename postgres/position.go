package postgres

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
)

// TimelineSQL is the timeline of the history that a server is writing or replaying; NULL where it can't be told: on a standby that does not stream, or
// to a role without pg_read_all_stats there. A primary's comes from the name of the file that it writes, and not from pg_control_checkpoint, which
// names the old one until the first checkpoint after a promotion.
const TimelineSQL = `(CASE WHEN pg_catalog.pg_is_in_recovery() THEN (SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver WHERE status = 'streaming')
	ELSE ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int END)`

// Position is where a server stands in its history.
type Position struct {
	Standby  bool
	Timeline uint32 // 0: unknown, see TimelineSQL
	// LSN is up to where the write-ahead log is replayed, on a standby, or flushed: no CDC can have read further.
	LSN uint64
}

// positionSQL looks at the timeline last: it never goes back, so the LSN was one of that timeline's history or of one that it grew from.
const positionSQL = `pg_catalog.pg_is_in_recovery(),
	((CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END) - '0/0'::pg_lsn)::text, ` +
	TimelineSQL + `::text`

// parsePosition reads the columns of positionSQL.
func parsePosition(row [][]byte) Position {
	p := Position{Standby: isTrue(row[0]), Timeline: parseTimeline(row[2])}
	p.LSN, _ = strconv.ParseUint(string(row[1]), 10, 64)
	return p
}

func parseTimeline(v []byte) uint32 {
	n, _ := strconv.ParseUint(string(v), 10, 32)
	return uint32(n)
}

// positionOf asks a server where it stands.
func positionOf(ctx context.Context, c *pgconn.PgConn) (p Position, err error) {
	err = each(ctx, c, "SELECT "+positionSQL, nil, func(row [][]byte) error {
		p = parsePosition(row)
		return nil
	})
	if err != nil {
		return Position{}, fmt.Errorf("asking the server where it stands: %w", err)
	}
	return p, nil
}
