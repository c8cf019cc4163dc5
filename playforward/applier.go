package playforward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/transport"
)

// Log is the CDC's topics, read from a position on; *transport.Player is one.
type Log interface {
	// Ends is how far the logs reach now.
	Ends(ctx context.Context) (transport.Position, error)
	// Next is the partition's next record before end, and false where none will come any more.
	Next(ctx context.Context, at transport.Partition, end int64) (transport.Record, bool, error)
}

// Options of an Applier.
type Options struct {
	Pipeline string
	// Rules is the policy in force: which tables there are, what the replica calls them and their columns.
	Rules func() *policy.Policy
	// Events says how the connector writes what its events do not tell.
	Events debezium.Options
	// Commit is told the read point after each transaction, so that others see how far this has got. Its error is logged, and no more. Nil: nobody is told.
	Commit func(ctx context.Context, at transport.Position) error
	// Progress is called after each transaction. Nil: it is not.
	Progress func(Progress)
	Log      *slog.Logger

	// Batch is how many events one transaction takes at most; 0 for 5000.
	Batch int
	// Patience is how long a row that others have to make room for, such as the parent that a foreign key asks for, is tried again; 0 for 15 seconds. Its event may be in
	// the log before that of the other, which is in another partition.
	Patience time.Duration
}

const (
	manyEvents = 5000
	manyBytes  = 16 << 20
	patience   = 15 * time.Second
	farthest   = 16                     // times as much, where events need each other
	pause      = 250 * time.Millisecond // between two rounds where the first found nothing
)

// Progress is what a run has done.
type Progress struct {
	Applied    uint64    // events
	Duplicates uint64    // events dropped, as Debezium had sent them before
	Incomplete uint64    // updates of rows that are not there, which the events do not hold in full
	Outside    uint64    // events of tables that the policy does not name
	Behind     int64     // records before the ends of the round under way
	At         time.Time // when the newest event applied was committed, the source's clock
}

// BusyError is that somebody else plays into this replica.
type BusyError struct {
	Pipeline string
	PID      int // of the server's process
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("another process plays the log of pipeline %s into this replica (server process %d): there is one at a time; wait until it ends, or stop it", e.Pipeline, e.PID)
}

// Applier applies. It belongs to one goroutine.
type Applier struct {
	options Options
	conn    *pgxpool.Conn
	decoder *debezium.Decoder
	lanes   map[transport.Partition]*lane
	order   []*lane // by topic and partition
	topics  map[string]string
	tables  map[string]*target // by the source's name; nil: not the policy's
	state   map[string]*tableState
	shaped  time.Time
	said    map[string]bool // warnings
	done    Progress
	stuck   *stuck
	reach   int // how many times as much as usual a batch may take, since its events need each other
}

// Open takes the replica for a pipeline and reads how far it was played. It fails with a *BusyError where somebody else has it. The pool gives up one connection until Close.
func Open(ctx context.Context, pool *pgxpool.Pool, o Options) (*Applier, error) {
	o.Batch, o.Patience, o.Log = cmp.Or(o.Batch, manyEvents), cmp.Or(o.Patience, patience), cmp.Or(o.Log, slog.Default())
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connecting to the replica: %w", err)
	}
	a := &Applier{
		options: o, conn: conn, decoder: debezium.NewDecoder(o.Events), lanes: map[transport.Partition]*lane{}, topics: map[string]string{}, tables: map[string]*target{},
		state: map[string]*tableState{}, said: map[string]bool{}, reach: 1,
	}
	if err := a.lock(ctx); err != nil {
		conn.Release()
		return nil, err
	}
	if err := a.load(ctx); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

const lockKey = "pg_catalog.hashtextextended('trickle.playforward ' || $1, 0)"

func (a *Applier) lock(ctx context.Context) error {
	var mine bool
	if err := a.conn.QueryRow(ctx, "SELECT pg_catalog.pg_try_advisory_lock("+lockKey+")", a.options.Pipeline).Scan(&mine); err != nil {
		return fmt.Errorf("locking the replica: %w", err)
	}
	if mine {
		return nil
	}
	busy := &BusyError{Pipeline: a.options.Pipeline}
	err := a.conn.QueryRow(ctx, `SELECT coalesce(max(pid), 0) FROM pg_catalog.pg_locks, (SELECT `+lockKey+` AS k) k WHERE locktype = 'advisory' AND granted AND objsubid = 1
		AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
		AND classid::bigint = (k >> 32 & 4294967295) AND objid::bigint = k & 4294967295`, a.options.Pipeline).Scan(&busy.PID)
	if err != nil {
		return fmt.Errorf("locking the replica: %w", err)
	}
	return busy
}

// Close gives the replica up.
func (a *Applier) Close() error {
	if a.conn == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := a.conn.Exec(ctx, "SELECT pg_catalog.pg_advisory_unlock("+lockKey+")", a.options.Pipeline)
	if err != nil {
		err = errors.Join(err, a.conn.Conn().Close(ctx)) // and the lock with it
	}
	a.conn.Release()
	a.conn = nil
	return err
}

// Done is what was done since Open.
func (a *Applier) Done() Progress { return a.done }

// Follow applies what comes until the context ends.
func (a *Applier) Follow(ctx context.Context, log Log) error {
	return a.rounds(ctx, log, func(transport.Position) bool { return false })
}

// Run applies until the replica has all that was in the logs at a position. Nil is where they end now.
func (a *Applier) Run(ctx context.Context, log Log, until transport.Position) error {
	if until == nil {
		ends, err := log.Ends(ctx)
		if err != nil {
			return err
		}
		until = ends
	}
	return a.rounds(ctx, log, func(at transport.Position) bool { return reached(at, until) })
}

// rounds goes round until enough is true of the read point.
func (a *Applier) rounds(ctx context.Context, log Log, enough func(transport.Position) bool) error {
	tick := time.NewTimer(0)
	defer tick.Stop()
	<-tick.C
	for !enough(a.Position()) {
		moved, err := a.Round(ctx, log)
		if stopped := ctx.Err(); err != nil && stopped != nil && !errors.Is(err, stopped) {
			return fmt.Errorf("%w: %w", stopped, err) // what the server says of a statement that we took back
		}
		if err != nil {
			return err
		}
		if moved || enough(a.Position()) {
			continue
		}
		tick.Reset(pause)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// reached tells whether a position has all that another has.
func reached(at, until transport.Position) bool {
	for _, want := range until {
		has, _ := at.Of(want.Topic)
		for n, offset := range want.Offsets {
			if offset > 0 && (n >= len(has.Offsets) || has.Offsets[n] < offset) {
				return false
			}
		}
	}
	return true
}

// Position is the read point: what the replica has is what was in the logs before it. It is empty before Begin.
func (a *Applier) Position() transport.Position {
	var p transport.Position
	for topic, id := range a.topics {
		p = append(p, transport.TopicPosition{Topic: topic, ID: id})
	}
	slices.SortFunc(p, func(a, b transport.TopicPosition) int { return cmp.Compare(a.Topic, b.Topic) })
	for _, l := range a.order {
		i, _ := slices.BinarySearchFunc(p, l.at.Topic, func(t transport.TopicPosition, topic string) int { return cmp.Compare(t.Topic, topic) })
		for int(l.at.ID) > len(p[i].Offsets) { // never: partitions are numbered without a gap
			p[i].Offsets = append(p[i].Offsets, 0)
		}
		p[i].Offsets = append(p[i].Offsets, l.next())
	}
	return p
}

// Begin has the replica played from a position on, whatever was played into it before.
func (a *Applier) Begin(ctx context.Context, at transport.Position) error {
	err := pgx.BeginFunc(ctx, a.conn, func(tx pgx.Tx) error { return Begin(ctx, tx, a.options.Pipeline, at) })
	if err != nil {
		return err
	}
	return a.load(ctx)
}
