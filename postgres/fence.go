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
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrUnstable is returned by Refetch where the source did not, within the bound, come to show all that CDC may have delivered when the request came: a standby had
// not replayed it, or an older transaction was neither over nor known to be away from its commit. Ask again later.
var ErrUnstable = errors.New("what may have been delivered is not visible yet")

// Horizon is the end of what CDC could have delivered when it was taken, on the server that CDC reads: how far its log was flushed, and the
// next transaction ID, so that every transaction that had begun is below it.
type Horizon struct {
	at    Position
	next  uint64
	apart bool // taken on another connection pool's server, which the source may be a standby of
}

// Fence takes the horizon, on the primary where one is named. Take it when the request arrives, so after whatever the asker observed. Without a primary it
// fails with an *UnfencedError where the source is a standby, which may be behind.
func (s *Source) Fence(ctx context.Context) (Horizon, error) {
	if s.primary != nil {
		m, err := s.primary.now(ctx)
		return Horizon{at: m.Position, next: m.next, apart: true}, err
	}
	m, err := s.moment(ctx)
	if err != nil {
		return Horizon{}, fmt.Errorf("taking the transaction horizon: %w", err)
	}
	if m.Standby {
		return Horizon{}, errStandby
	}
	return Horizon{at: m.Position, next: m.next}, nil
}

// errStandby refuses to let a replica be corrected from a standby that nobody vouches for.
var errStandby = &UnfencedError{"the source is a standby, which may be behind what CDC has delivered, and no primary is named (TRICKLE_PRIMARY_DSN, --primary)"}

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

// Refetch runs fn in a snapshot that shows everything CDC could have delivered before the horizon was taken. It waits up to the bound for such a snapshot,
// then fails with ErrUnstable. fn is called again where the server cancels it (see Passing).
//
// On a primary that is one in which every older transaction has ended, or is known not to be committing: its session is idle, or was running and not in a
// SyncRep wait for some time. A commit is in the log, and may be delivered, before it is visible: for a moment, or with synchronous replication for as
// long as its standby makes it wait.
//
// On a standby it is one taken after the standby had replayed what the primary had flushed, on the same timeline: all that was in the log by then is visible,
// also what still hangs on the primary. The read's time is the primary's clock, as every other that a replica compares it with.
func (s *Source) Refetch(ctx context.Context, l *Layout, f Fenced, fn func(c *pgconn.PgConn, at At) error) error {
	deadline := time.Now().Add(f.Bound)
	running := make(away)
	for {
		why, err := s.refetchOnce(ctx, l, fenceCheck{f.Horizon, running}, fn)
		s.count(err)
		switch late := time.Now().After(deadline); {
		case err == nil && why == "":
			return nil
		case err != nil && (late || !Passing(err)):
			return err
		case late:
			return fmt.Errorf("table %s: %w: %s", l.Name, ErrUnstable, why)
		}
		if err := rest(ctx, fencePoll); err != nil {
			return err
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

// passed tells whether a primary's snapshot shows every transaction below the horizon that could have been delivered; where not, why.
func (f fenceCheck) passed(at At) (why string) {
	for _, xid := range inProgress(at.Snapshot) {
		if xid < f.horizon.next && !f.running.from(xid) {
			return fmt.Sprintf("transaction %d is older than the request and may be committing", xid)
		}
	}
	// What is not below the snapshot's xmax had not ended when it was taken.
	for xid := at.Xmax; xid < f.horizon.next; xid++ {
		if !f.running.from(xid) {
			return fmt.Sprintf("transaction %d is older than the request and may be committing", xid)
		}
	}
	return ""
}

// refetchOnce runs fn if the source has got past the horizon, and else says why it has not.
func (s *Source) refetchOnce(ctx context.Context, l *Layout, check fenceCheck, fn func(*pgconn.PgConn, At) error) (why string, err error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return "", fmt.Errorf("connecting to the source: %w", OneLine(err))
	}
	defer conn.Release()
	// Before the snapshot: the log that is replayed by then is in it. Asked within, its answer would be newer than what is read.
	here, err := positionOf(ctx, conn.Conn().PgConn())
	if err != nil {
		return "", err
	}
	if here.Standby && !check.horizon.apart {
		return "", errStandby
	}
	if why, err = follows(here, check.horizon.at); why != "" || err != nil {
		return why, err
	}
	err = begun(ctx, conn, func(tx pgx.Tx) error {
		c := tx.Conn().PgConn()
		at, err := s.begin(ctx, c, l)
		if err != nil {
			return err
		}
		switch {
		case at.Standby != here.Standby || at.Timeline != here.Timeline:
			why = "the source is changing over to another timeline"
		case at.Standby:
			why, err = s.primary.vouch(ctx, check.horizon, &at)
		default:
			why = check.passed(at)
		}
		if why != "" || err != nil {
			return err
		}
		return fn(c, at)
	})
	if why != "" && err == nil && !here.Standby {
		// What is seen now runs after the horizon was taken: if it is away from its commit, it was not delivered before.
		err = look(ctx, conn, check)
	}
	return why, err
}

// look notes which transactions are away from their commit. Each holds a lock on its ID, and on those of its subtransactions, until it is visible.
// Without the right to see other sessions (pg_read_all_stats) their state is NULL and nothing is noted; nor is a prepared transaction, which
// has no session.
func look(ctx context.Context, conn *pgxpool.Conn, check fenceCheck) error {
	next, running := check.horizon.next, check.running
	rows, err := conn.Query(ctx, `SELECT l.transactionid::text::bigint, coalesce(a.state LIKE 'idle in transaction%', false),
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
		behind := uint32(next) - uint32(short) // modulo 2^32
		xid := next - uint64(behind)
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
