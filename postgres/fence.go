package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrUnstable is returned by Refetch where, past its bound, a transaction older than the request was neither over nor seen to be away
// from a SyncRep wait: CDC may have delivered what the source does not show yet. Ask again later.
var ErrUnstable = errors.New("a transaction older than the request may have been delivered and is not visible yet")

// Horizon is the end of the transactions that could have been delivered by CDC when it was taken: every transaction ID below it had begun.
type Horizon uint64

// Fence takes the horizon. Take it when the request arrives, so after whatever the asker observed.
func (s *Source) Fence(ctx context.Context) (Horizon, error) {
	var xmax int64
	err := s.pool.QueryRow(ctx, `SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint`).Scan(&xmax)
	if err != nil {
		return 0, fmt.Errorf("taking the transaction horizon: %w", err)
	}
	return Horizon(xmax), nil
}

// fencePoll is how often an unstable source is looked at again; also how far apart the two looks at a running transaction are.
const fencePoll = 20 * time.Millisecond

// Refetch runs fn in a snapshot that shows everything CDC could have delivered before the horizon was taken: one in which every older
// transaction has ended, or was seen twice, running and not in a SyncRep wait. It waits up to bound for such a snapshot, then fails
// with ErrUnstable.
//
// A commit is in the log, and may be delivered, before it is visible: for a moment, or with synchronous replication for as
// long as its standby makes it wait. Twice, because between writing its commit to the log and entering the wait a backend is in neither state.
func (s *Source) Refetch(ctx context.Context, l *Layout, f Fenced, fn func(c *pgconn.PgConn, at At) error) error {
	deadline := time.Now().Add(f.Bound)
	seen := make(map[uint64]int) // how often a transaction was seen running and not waiting
	for {
		ok, err := s.refetchOnce(ctx, l, f.Horizon, seen, fn)
		if ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("table %s: %w", l.Name, ErrUnstable)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(fencePoll):
		}
	}
}

// Fenced is a horizon and how long to wait for the source to get past it.
type Fenced struct {
	Horizon Horizon
	Bound   time.Duration
}

func (s *Source) refetchOnce(ctx context.Context, l *Layout, h Horizon, seen map[uint64]int, fn func(*pgconn.PgConn, At) error) (bool, error) {
	// What runs is looked at before the snapshot: a transaction that is over by then is in it.
	if err := s.look(ctx, h, seen); err != nil {
		return false, err
	}
	done := false
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		c := tx.Conn().PgConn()
		at, err := begin(ctx, c, l)
		if err != nil {
			return err
		}
		for _, xid := range inProgress(at.Snapshot) {
			if xid < uint64(h) && seen[xid] < 2 {
				return nil
			}
		}
		done = true
		return fn(c, at)
	})
	return done, err
}

// look notes which transactions older than the horizon are running and not waiting for a standby. Without the right to see other
// sessions (pg_read_all_stats) their state is NULL and nothing is noted.
func (s *Source) look(ctx context.Context, h Horizon, seen map[uint64]int) error {
	rows, err := s.pool.Query(ctx, `SELECT x.xid::text::bigint, a.state IS NOT NULL AND a.wait_event IS DISTINCT FROM 'SyncRep'
		FROM pg_snapshot_xip(pg_current_snapshot()) AS x(xid)
		LEFT JOIN pg_stat_activity a ON a.backend_xid::text::bigint = x.xid::text::bigint & 4294967295
		WHERE x.xid::text::bigint < $1`, int64(h))
	if err != nil {
		return fmt.Errorf("looking for running transactions: %w", err)
	}
	var xid int64
	var away bool
	_, err = pgx.ForEachRow(rows, []any{&xid, &away}, func() error {
		if away {
			seen[uint64(xid)]++
		} else {
			delete(seen, uint64(xid))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("looking for running transactions: %w", err)
	}
	return nil
}

// inProgress reads the list of running transactions out of a snapshot "xmin:xmax:a,b,c".
func inProgress(snapshot string) []uint64 {
	parts := strings.SplitN(snapshot, ":", 3)
	if len(parts) < 3 || parts[2] == "" {
		return nil
	}
	var out []uint64
	for _, f := range strings.Split(parts[2], ",") {
		if v, err := strconv.ParseUint(f, 10, 64); err == nil {
			out = append(out, v)
		}
	}
	return out
}
