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

// ErrUnstable is returned by Refetch where, past its bound, a transaction older than the request was neither over nor known to be away
// from its commit: CDC may have delivered what the source does not show yet. Ask again later.
var ErrUnstable = errors.New("a transaction older than the request may have been delivered and is not visible yet")

// Horizon is the end of the transactions that could have been delivered by CDC when it was taken: the next transaction ID, so every one that
// had begun is below it. (A snapshot's xmax would not do: it is one past the newest transaction that ended, and what hangs in its commit may
// be newer.)
type Horizon uint64

// Fence takes the horizon. Take it when the request arrives, so after whatever the asker observed.
func (s *Source) Fence(ctx context.Context) (Horizon, error) {
	var xmax int64
	var age int32
	// age() counts from the next transaction ID in a transaction that has none itself.
	err := s.pool.QueryRow(ctx, `SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint, age('3'::xid)`).Scan(&xmax, &age)
	if err != nil {
		return 0, fmt.Errorf("taking the transaction horizon: %w", err)
	}
	next := uint32(age) + 3 // modulo 2^32
	return Horizon(uint64(xmax) + uint64(next-uint32(xmax))), nil
}

const (
	// fencePoll is how often an unstable source is looked at again.
	fencePoll = 10 * time.Millisecond
	// awayFor is how long a transaction must have been seen running and not waiting before it counts as away from its commit: between writing
	// the commit to the log and entering the wait for a standby, or being seen as ended, a backend is in neither state.
	awayFor = 250 * time.Millisecond
)

// Fenced is a horizon and how long to wait for the source to get past it.
type Fenced struct {
	Horizon Horizon
	Bound   time.Duration
}

// Refetch runs fn in a snapshot that shows everything CDC could have delivered before the horizon was taken: one in which every older
// transaction has ended, or is known not to be committing: its session is idle, or was running and not in a SyncRep wait for some time. It waits
// up to the bound for such a snapshot, then fails with ErrUnstable.
//
// A commit is in the log, and may be delivered, before it is visible: for a moment, or with synchronous replication for as
// long as its standby makes it wait.
func (s *Source) Refetch(ctx context.Context, l *Layout, f Fenced, fn func(c *pgconn.PgConn, at At) error) error {
	deadline := time.Now().Add(f.Bound)
	running := make(away)
	for {
		ok, err := s.refetchOnce(ctx, l, fenceCheck{f.Horizon, running}, fn)
		if ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("table %s: %w", l.Name, ErrUnstable)
		}
		// What is seen now runs after the horizon was taken: if it is away from its commit, it was not delivered before.
		if err := s.look(ctx, f.Horizon, running); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(fencePoll):
		}
	}
}

// away holds since when a transaction has been seen away from its commit in every look; the zero time: it can't be committing.
type away map[uint64]time.Time

func (a away) from(xid uint64) bool {
	since, ok := a[xid]
	return ok && time.Since(since) >= awayFor
}

type fenceCheck struct {
	horizon Horizon
	running away
}

// passed tells whether a snapshot shows every transaction below the horizon that could have been delivered.
func (f fenceCheck) passed(at At) bool {
	for _, xid := range inProgress(at.Snapshot) {
		if xid < uint64(f.horizon) && !f.running.from(xid) {
			return false
		}
	}
	// What is not below the snapshot's xmax had not ended when it was taken.
	for xid := at.Xmax; xid < uint64(f.horizon); xid++ {
		if !f.running.from(xid) {
			return false
		}
	}
	return true
}

func (s *Source) refetchOnce(ctx context.Context, l *Layout, check fenceCheck, fn func(*pgconn.PgConn, At) error) (bool, error) {
	done := false
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		c := tx.Conn().PgConn()
		at, err := begin(ctx, c, l)
		if err != nil || !check.passed(at) {
			return err
		}
		done = true
		return fn(c, at)
	})
	return done, err
}

// look notes which transactions are away from their commit. Each holds a lock on its ID, and on those of its subtransactions, until it is visible.
// Without the right to see other sessions (pg_read_all_stats) their state is NULL and nothing is noted; nor is a prepared transaction, which
// has no session.
func (s *Source) look(ctx context.Context, h Horizon, running away) error {
	rows, err := s.pool.Query(ctx, `SELECT l.transactionid::text::bigint, coalesce(a.state LIKE 'idle in transaction%', false),
			a.state IS NOT NULL AND a.wait_event IS DISTINCT FROM 'SyncRep'
		FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted`)
	if err != nil {
		return fmt.Errorf("looking for running transactions: %w", err)
	}
	now := time.Now()
	var short int64
	var idle, elsewhere bool
	_, err = pgx.ForEachRow(rows, []any{&short, &idle, &elsewhere}, func() error {
		behind := uint32(h) - uint32(short) // modulo 2^32
		xid := uint64(h) - uint64(behind)
		switch since, known := running[xid]; {
		case known && since.IsZero(): // it had not begun to commit when the horizon was taken, whatever it does since
		case idle:
			running[xid] = time.Time{}
		case !elsewhere:
			delete(running, xid)
		case !known:
			running[xid] = now
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
	for f := range strings.SplitSeq(parts[2], ",") {
		if v, err := strconv.ParseUint(f, 10, 64); err == nil {
			out = append(out, v)
		}
	}
	return out
}
