package postgres

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
)

// At is when and where a read was made.
type At struct {
	Snapshot string // pg_current_snapshot()
	Xmin     uint64
	Xmax     uint64
	LSN      uint64
	// Time is the server's clock after the snapshot was taken: what the read saw was committed before it.
	Time time.Time
	// Standby: the server replays another's log, and may be behind it.
	Standby bool
	// Timeline is that of the server's history; 0: unknown, see TimelineSQL.
	Timeline uint32
	// partitions are those that are read.
	partitions string
}

// SameParts reports that another read was of the same partitions.
func (at At) SameParts(o At) bool { return at.partitions == o.partitions }

// Source reads a source database. It never writes. Whether that is a primary or a standby is asked with each read: a failover may change it.
type Source struct {
	pool    *pgxpool.Pool
	primary *primary // nil: nobody named it

	mu   sync.Mutex
	seen Seen
}

// Seen is what the reads of a source have met so far.
type Seen struct {
	// Standby and Timeline are of the last read's server; Timeline is 0 before the first, or where it is unknown.
	Standby  bool
	Timeline uint32
	// Cancelled counts the reads that a standby cancelled because they were in the way of replay.
	Cancelled uint64
}

// Seen returns it.
func (s *Source) Seen() Seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

// NewSource reads through the pool, which stays the caller's.
func NewSource(pool *pgxpool.Pool) *Source { return &Source{pool: pool} }

// NewStandbySource reads through the pool, whose server may be a standby, and asks its primary how far CDC may have got. Without a primary (nil) nothing
// can be refetched while it is one.
func NewStandbySource(pool, of *pgxpool.Pool) *Source {
	s := NewSource(pool)
	if of != nil {
		s.primary = &primary{pool: of}
	}
	return s
}

// Describe lays a table out under the rules.
func (s *Source) Describe(ctx context.Context, name Name, rules Rules) (*Layout, error) {
	return s.DescribeWith(ctx, new(Types), name, rules)
}

// DescribeWith is Describe with types that were read for other tables.
func (s *Source) DescribeWith(ctx context.Context, types *Types, name Name, rules Rules) (l *Layout, err error) {
	err = s.again(ctx, func(conn *pgxpool.Conn) error {
		t, err := types.Describe(ctx, conn.Conn().PgConn(), name)
		if err != nil {
			return err
		}
		if l, err = NewLayout(t, rules); err != nil {
			return err
		}
		if err := l.Readable(ctx, conn.Conn().PgConn()); err != nil {
			return err
		}
		l.Schema.Probe, err = l.Probe(ctx, conn.Conn().PgConn())
		return err
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Readable finds out now, and not in the middle of a scan, that a right is missing: the catalogue is open to everybody.
func (l *Layout) Readable(ctx context.Context, c *pgconn.PgConn) error {
	sql := "SELECT t.xmin"
	for _, name := range l.ColumnNames() {
		sql += ", t." + Quote(name)
	}
	return each(ctx, c, sql+" FROM "+l.rows()+" t LIMIT 0", nil, func([][]byte) error { return nil })
}

// Tables lists what the policy may choose from.
func (s *Source) Tables(ctx context.Context) (names []Name, err error) {
	err = s.again(ctx, func(conn *pgxpool.Conn) error {
		names, err = Tables(ctx, conn.Conn().PgConn())
		return err
	})
	return names, err
}

// Read runs fn in one snapshot of the source, after checking that the table still looks as described (else ErrChanged). fn must bear being called again where what it
// read was cancelled (see Passing).
func (s *Source) Read(ctx context.Context, l *Layout, fn func(c *pgconn.PgConn, at At) error) error {
	return s.again(ctx, func(conn *pgxpool.Conn) error {
		return begun(ctx, conn, func(tx pgx.Tx) error {
			c := tx.Conn().PgConn()
			at, err := s.begin(ctx, c, l)
			if err == nil && at.Standby && s.primary != nil {
				at.Time, err = s.primary.time(ctx)
			}
			if err != nil {
				return err
			}
			return fn(c, at)
		})
	})
}

const (
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second // so six tries, within a second and a half and what they take
)

// again runs fn on a connection of the source, and counts what is cancelled.
func (s *Source) again(ctx context.Context, fn func(conn *pgxpool.Conn) error) error {
	return again(ctx, s.pool, func(conn *pgxpool.Conn) error {
		err := fn(conn)
		s.count(err)
		return err
	})
}

// again runs fn on a connection and tries again a few times what passes: a standby cancels what is in the way of replay, and a failover cuts every connection.
func again(ctx context.Context, pool *pgxpool.Pool, fn func(conn *pgxpool.Conn) error) error {
	for pause := firstPause; ; pause *= 2 {
		err := pool.AcquireFunc(ctx, fn)
		if !Passing(err) || pause > lastPause || rest(ctx, pause) != nil {
			return err
		}
	}
}

// count counts what a standby cancelled.
func (s *Source) count(err error) {
	if !Conflict(err) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen.Cancelled++
}

// begin notes which server it is.
func (s *Source) begin(ctx context.Context, c *pgconn.PgConn, l *Layout) (At, error) {
	at, err := begin(ctx, c, l)
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.seen.Standby, s.seen.Timeline = at.Standby, at.Timeline
	}
	return at, err
}

// rest waits, and tells the context's end.
func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// begin takes the transaction's snapshot and says what it is. The table is locked first, in the mode that any read takes: a read that took its
// snapshot and then waited for a TRUNCATE or a rewrite to end would find the table empty.
func begin(ctx context.Context, c *pgconn.PgConn, l *Layout) (At, error) {
	var at At
	if err := l.Share(ctx, c); err != nil {
		return At{}, err
	}
	sql := `SELECT pg_current_snapshot()::text,
		(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END - '0/0'::pg_lsn)::text,
		(extract(epoch FROM clock_timestamp()) * 1000000::numeric)::bigint::text, ` + signatureSQL("$1") + ", " + partitionsSQL + ", pg_is_in_recovery(), " + TimelineSQL + "::text"
	err := each(ctx, c, sql, []Arg{text(l.Name.SQL())}, func(row [][]byte) error {
		at.Snapshot = string(row[0])
		parts := strings.SplitN(at.Snapshot, ":", 3)
		at.Xmin, _ = strconv.ParseUint(parts[0], 10, 64)
		at.Xmax, _ = strconv.ParseUint(parts[1], 10, 64)
		at.LSN, _ = strconv.ParseUint(string(row[1]), 10, 64)
		at.Time = microseconds(row[2])
		at.partitions, at.Standby, at.Timeline = string(row[4]), isTrue(row[5]), parseTimeline(row[6])
		if string(row[3]) != l.signature {
			return fmt.Errorf("table %s: %w", l.Name, ErrChanged)
		}
		return nil
	})
	if err != nil {
		return At{}, fmt.Errorf("beginning to read %s: %w", l.Name, err)
	}
	return at, nil
}

// partitionsSQL lists the partitions of $1 of which a statement that begins now would read, also within a snapshot that is older.
const partitionsSQL = "(SELECT string_agg(relid::oid::text, ',' ORDER BY relid::oid) FROM pg_partition_tree(to_regclass($1)))"

// Share locks the table against being truncated or rewritten until the transaction ends. It must be the transaction's first statement.
func (l *Layout) Share(ctx context.Context, c *pgconn.PgConn) error {
	err := c.ExecParams(ctx, "LOCK TABLE "+l.Name.SQL()+" IN ACCESS SHARE MODE", nil, nil, nil, nil).Read().Err
	if State(err) == "42P01" || State(err) == "3F000" {
		return fmt.Errorf("table %s: %w", l.Name, ErrChanged)
	}
	if err != nil {
		return fmt.Errorf("waiting for table %s: %w", l.Name, err)
	}
	return nil
}

// Sample reads the clock and the oldest transaction still running, on the primary where one is named: the transactions that had ended there by that time had ended by
// it wherever its log is replayed, and it is the clock that a heartbeat has.
func (s *Source) Sample(ctx context.Context) (At, error) {
	var m moment
	var err error
	if s.primary != nil {
		m, err = s.primary.now(ctx)
	} else {
		m, err = s.moment(ctx)
	}
	if err != nil {
		return At{}, fmt.Errorf("sampling the transaction horizon: %w", err)
	}
	return At{Xmin: m.xmin, Time: m.clock, LSN: m.LSN, Standby: m.Standby, Timeline: m.Timeline}, nil
}

// moment asks the source itself.
func (s *Source) moment(ctx context.Context) (m moment, err error) {
	err = s.again(ctx, func(conn *pgxpool.Conn) error {
		m, err = momentOf(ctx, conn)
		return err
	})
	return m, err
}

// Scan is what one reading of a range found.
type Scan struct {
	Print     digest.Thumbprint // of the settled rows
	Rows      int               // all of them
	LeftOut   []message.Key     // not settled
	Unchanged bool              // the known thumbprint still holds; only counted
}

// Known is an earlier reading of the same range with every row in it.
type Known struct {
	Print digest.Thumbprint
	Xmin  uint64 // pg_snapshot_xmin of that reading
}

// Scan reads a range on the source without the rows that are not settled. With an earlier reading it first counts: when the count
// is what it was and no row is newer than that reading's snapshot, the thumbprint is what it was.
func (l *Layout) Scan(ctx context.Context, c *pgconn.PgConn, r message.Range, o ScanOptions) (Scan, error) {
	if err := l.checkRange(r); err != nil {
		return Scan{}, err
	}
	if o.Known != nil && o.Known.Xmin != 0 {
		rows, unchanged, err := l.Unchanged(ctx, c, r, *o.Known)
		if err != nil {
			return Scan{}, err
		}
		if unchanged {
			return Scan{Print: o.Known.Print, Rows: int(rows), Unchanged: true}, nil
		}
	}
	p := &params{}
	quiet := l.settledSQL(o.Settled)
	if o.Everything {
		quiet = "true"
	}
	sql := "SELECT count(*), count(*) FILTER (WHERE " + quiet + "), coalesce(sum(" + l.summedSQL(o.Digest) + ") FILTER (WHERE " + quiet + "), 0) FROM " +
		l.rows() + " t" + l.where(p, r)
	var scan Scan
	err := each(ctx, c, sql, p.args, func(row [][]byte) error {
		scan.Rows, _ = strconv.Atoi(string(row[0]))
		var err error
		scan.Print, err = thumbprintOf(row[1], row[2])
		return err
	})
	if err != nil || uint64(scan.Rows) == scan.Print.Rows {
		return scan, err
	}
	p = &params{}
	err = each(ctx, c, "SELECT "+l.keySQL()+" FROM "+l.rows()+" t"+whereAnd(l.where(p, r))+"NOT "+quiet, p.args, func(row [][]byte) error {
		scan.LeftOut = append(scan.LeftOut, keyOf(row))
		return nil
	})
	return scan, err
}

// Unchanged counts a range's rows, and tells whether the known thumbprint still holds.
func (l *Layout) Unchanged(ctx context.Context, c *pgconn.PgConn, r message.Range, known Known) (rows uint64, unchanged bool, err error) {
	if err := l.checkRange(r); err != nil {
		return 0, false, err
	}
	p := &params{}
	sql := "SELECT count(*), count(*) FILTER (WHERE " + l.settledSQL(Settled{Xmin: known.Xmin}) + "), " + l.sameSQL(p, known.Xmin) + " FROM " + l.rows() + " t" + l.where(p, r)
	err = each(ctx, c, sql, p.args, func(row [][]byte) error {
		settled, err := strconv.ParseUint(string(row[1]), 10, 64)
		if err != nil {
			return err
		}
		rows, err = strconv.ParseUint(string(row[0]), 10, 64)
		unchanged = isTrue(row[2]) && rows == settled && rows == known.Print.Rows
		return err
	})
	return rows, unchanged, err
}

// sameSQL is true while the name stands for the same table, of the same partitions, as before a transaction: one that takes another's place, or lies in a schema or a
// database that does, brings rows of any age. Nor may a value of an enum have got another name, where there may be one in a row: that writes no row.
func (l *Layout) sameSQL(p *params, before uint64) string {
	name := "to_regclass(" + p.add(text(l.Name.SQL())) + ")"
	older := func(xmin string) string { return olderSQL(xmin, before) }
	same := "(SELECT " + older("d.xmin") + " FROM pg_database d WHERE d.datname = pg_catalog.current_database()) AND (SELECT " + older("c.xmin") + " AND " + older("n.xmin") +
		" FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = " + name + ")"
	if l.partitioned {
		same += " AND (SELECT bool_and(" + older("c.xmin") + " AND (i.xmin IS NULL OR " + older("i.xmin") +
			")) FROM pg_partition_tree(" + name + ") AS tree JOIN pg_class c ON c.oid = tree.relid LEFT JOIN pg_inherits i ON i.inhrelid = c.oid)"
	}
	if l.ownTypes() {
		same += " AND (SELECT coalesce(bool_and(" + older("e.xmin") + "), true) FROM pg_enum e)"
	}
	return "(" + same + ")"
}

// ownTypes tells whether a compared column is of a type that somebody made, so that there may be an enum in it.
func (l *Layout) ownTypes() bool {
	return slices.ContainsFunc(l.compared, func(i int) bool { return l.types[l.Columns[i].oid].schema != "pg_catalog" })
}

// ScanOptions tell Scan what to take.
type ScanOptions struct {
	Digest     digest.Kind
	Settled    Settled
	Everything bool // rows that are not settled too
	Known      *Known
}

// Load is how busy the source is.
type Load struct {
	Latency        time.Duration // of a query that does nothing
	ReplicationLag time.Duration // of the standby furthest behind, or of the source itself where it is one; 0 where there is none or it can't be seen
	ActiveSessions int
}

// Load measures the source.
func (s *Source) Load(ctx context.Context) (Load, error) {
	var l Load
	began := time.Now()
	if _, err := s.pool.Exec(ctx, "SELECT 1"); err != nil {
		return Load{}, fmt.Errorf("measuring the source: %w", err)
	}
	l.Latency = time.Since(began)
	var lag float64
	err := s.pool.QueryRow(ctx, `SELECT greatest((SELECT max(extract(epoch FROM replay_lag)) FROM pg_stat_replication),
			CASE WHEN pg_last_wal_replay_lsn() < pg_last_wal_receive_lsn() THEN extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END, 0)::float8,
		(SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND backend_type = 'client backend' AND pid <> pg_backend_pid())`).Scan(&lag, &l.ActiveSessions)
	if err != nil {
		return Load{}, fmt.Errorf("measuring the source: %w", err)
	}
	l.ReplicationLag = time.Duration(lag * float64(time.Second))
	return l, nil
}
