package postgres

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// UnfencedError refuses a read that a replica may be corrected from, because nothing tells whether the source shows what CDC may have delivered. It lasts until
// somebody changes something: a setting, a right, or which server is the primary.
type UnfencedError struct{ Reason string }

func (e *UnfencedError) Error() string {
	return e.Reason + ": drift is reported, and nothing can be corrected from it"
}

// primary is the server that CDC reads, where the source may be a standby of it. It is asked where it stands and what its clock says, and reads no table.
type primary struct {
	pool *pgxpool.Pool

	mu    sync.Mutex
	clock time.Time // what its clock said last
	heard time.Time // when that came in, by the clock of this process
}

// primaryBound is how long the primary may take to say where it is, so that one that is gone without a word keeps nobody for long.
const primaryBound = 5 * time.Second

// moment is where a primary stands now.
type moment struct {
	Position
	xmin, next uint64 // its oldest transaction, and the next one's ID
	clock      time.Time
}

// momentSQL: the clock is read last, so what the columns before it show had happened by then. age() counts from the next transaction ID in a transaction
// that has none itself; a snapshot's xmax would not do, since it is one past the newest transaction that ended, and what hangs in its commit may be newer.
const momentSQL = "SELECT " + positionSQL + `, pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text, pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text,
	pg_catalog.age('3'::xid)::text, (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000::numeric)::bigint::text`

// momentOf asks a server, primary or standby, for its moment.
func momentOf(ctx context.Context, conn *pgxpool.Conn) (m moment, err error) {
	err = each(ctx, conn.Conn().PgConn(), momentSQL, nil, func(row [][]byte) error {
		m.Position = parsePosition(row)
		m.xmin, _ = strconv.ParseUint(string(row[3]), 10, 64)
		xmax, _ := strconv.ParseUint(string(row[4]), 10, 64)
		age, _ := strconv.ParseInt(string(row[5]), 10, 32)
		next := uint32(age) + 3 // modulo 2^32
		m.next = xmax + uint64(next-uint32(xmax))
		m.clock = microseconds(row[6])
		return nil
	})
	return m, err
}

func microseconds(v []byte) time.Time {
	n, _ := strconv.ParseInt(string(v), 10, 64)
	return time.UnixMicro(n).UTC()
}

// now asks the primary for its moment, and refuses where it is none, or not any more.
func (p *primary) now(ctx context.Context) (moment, error) {
	ctx, cancel := context.WithTimeout(ctx, primaryBound)
	defer cancel()
	var m moment
	err := again(ctx, p.pool, func(conn *pgxpool.Conn) (err error) {
		m, err = momentOf(ctx, conn)
		return err
	})
	if err != nil {
		return m, fmt.Errorf("asking the primary where it stands: %w; is TRICKLE_PRIMARY_DSN (--primary) still right, after a failover?", OneLine(err))
	}
	if m.Standby {
		return m, &UnfencedError{"the server that TRICKLE_PRIMARY_DSN (--primary) leads to is a standby: name the one that is the primary now"}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clock, p.heard = m.clock, time.Now()
	return m, nil
}

// time is the primary's clock: not later than it is there, and a little earlier than it would be if it were asked, which is done only when it never was.
func (p *primary) time(ctx context.Context) (time.Time, error) {
	p.mu.Lock()
	clock, heard := p.clock, p.heard
	p.mu.Unlock()
	if !clock.IsZero() {
		return clock.Add(time.Since(heard)), nil
	}
	m, err := p.now(ctx)
	return m.clock, err
}

// vouch gives a standby's read the primary's time, taken after its snapshot was. It says why not where the primary has changed over since the horizon was taken.
func (p *primary) vouch(ctx context.Context, h Horizon, at *At) (why string, err error) {
	m, err := p.now(ctx)
	if err == nil && m.Timeline != h.at.Timeline {
		return "the primary has changed over to another timeline", nil
	}
	at.Time = m.clock
	return "", err
}

// follows tells whether a server has come to where the primary was: on the same timeline, and as far. Where it has not, why; err where waiting won't help.
func follows(server, primary Position) (why string, err error) {
	switch {
	case server.Timeline > primary.Timeline:
		return "", &UnfencedError{fmt.Sprintf("the source is on timeline %d and the primary (TRICKLE_PRIMARY_DSN, --primary) on %d: a failover has left that server behind; name the one that is the primary now",
			server.Timeline, primary.Timeline)}
	case !server.Standby && server.Timeline < primary.Timeline:
		return "", &UnfencedError{fmt.Sprintf("the source takes writes on timeline %d, and the primary (TRICKLE_PRIMARY_DSN, --primary) is on %d: a failover has left the source behind; point --source at a server that belongs to the new primary",
			server.Timeline, primary.Timeline)}
	case server.Timeline == 0:
		return "the standby does not stream from its primary, or the role may not see whether it does (GRANT pg_read_all_stats), so its timeline is unknown", nil
	case server.Timeline < primary.Timeline:
		return fmt.Sprintf("the standby is on timeline %d and the primary on %d", server.Timeline, primary.Timeline), nil
	case server.LSN < primary.LSN:
		return fmt.Sprintf("the standby has replayed %s, and the primary was at %s, %d bytes ahead, when the request came", lsn(server.LSN), lsn(primary.LSN), primary.LSN-server.LSN), nil
	}
	return "", nil
}

// lsn writes a position in the log as Postgres does.
func lsn(v uint64) string { return fmt.Sprintf("%X/%X", v>>32, uint32(v)) }

// begun runs fn in a read-only transaction that sees one snapshot.
func begun(ctx context.Context, conn *pgxpool.Conn, fn func(tx pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, fn)
}
