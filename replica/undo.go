package replica

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// UndoJournal is the journal to whoever takes back what it holds.
type UndoJournal interface {
	BeginUndo(ctx context.Context, tx pgx.Tx) error
	Left(ctx context.Context, tx pgx.Tx, c ledger.Recorded) ([]uint64, error)
	Undone(ctx context.Context, tx pgx.Tx, id ledger.CorrectionID, version uint64) error
}

// Undoer takes back corrections that stand in the journal: a row gets the values it had before, if it still is what the correction left, in one transaction with the
// mark in the journal. It asks no source and no gate, since a person does the asking; what it puts back is drift again to whoever compares it.
type Undoer struct {
	pool    *pgxpool.Pool
	journal UndoJournal
	opts    Options

	mu      sync.Mutex
	layouts map[string]*postgres.Layout // by source table and key
}

// NewUndoer works through the pool, which stays the caller's.
func NewUndoer(pool *pgxpool.Pool, journal UndoJournal, o Options) *Undoer {
	return &Undoer{pool: pool, journal: journal, opts: o, layouts: make(map[string]*postgres.Layout)}
}

// Reasons why a row is not what a correction left.
var (
	errGone      = errors.New("the row is gone since")
	errThere     = errors.New("a row with this key is there again")
	errRewritten = errors.New("the row was written again since, with the same values")
	errKept      = errors.New("the replica kept the row as it is, or stored something else (a trigger?): detect.session_replication_role: replica keeps triggers from acting")
)

// now is a row as it is, or as it would be once what comes first is undone.
type now struct {
	image   ledger.Image // nil: there is none
	version uint64       // of what would be put back, the one that it was found under
}

// undoable says why a correction can't be undone of a row; left are the versions that it may have.
func undoable(c ledger.Recorded, n now, left func() ([]uint64, error)) error {
	if c.UndoneAt != nil {
		return fmt.Errorf("it was undone already, at %s", c.UndoneAt.Format("2006-01-02T15:04:05Z"))
	}
	if c.After == nil {
		if n.image != nil {
			return errThere
		}
		return nil
	}
	after, err := ledger.ImageOf(*c.After)
	if err != nil {
		return err
	}
	if n.image == nil {
		return errGone
	}
	if !after.In(n.image) {
		columns := after.Differing(n.image)
		for name := range after {
			if _, ok := n.image[name]; !ok {
				columns = append(columns, name)
			}
		}
		return fmt.Errorf("the row holds something else since, in %s", strings.Join(columns, ", "))
	}
	if n.version == c.Version {
		return nil
	}
	versions, err := left()
	if err != nil {
		return err
	}
	if !slices.Contains(versions, n.version) {
		return errRewritten
	}
	return nil
}

// Check says of each correction why it could not be undone now, nil where it could; they are to be undone in this order, newest first. Nothing is written or locked.
func (u *Undoer) Check(ctx context.Context, list []ledger.Recorded) ([]error, error) {
	reasons := make([]error, len(list))
	byTable := map[string][]int{}
	for i, c := range list {
		switch {
		case !c.ID.Copy:
			byTable[c.Table] = append(byTable[c.Table], i)
		case c.UndoneAt != nil:
			reasons[i] = undoable(c, now{}, nil)
		}
	}
	const page = 500
	for _, table := range slices.Sorted(maps.Keys(byTable)) {
		rows := map[string]now{}
		for at := range slices.Chunk(byTable[table], page) {
			if err := u.checkPage(ctx, list, at, checked{rows, reasons}); err != nil {
				if ctx.Err() != nil || postgres.Broken(err) {
					return nil, err
				}
				for _, i := range at {
					if reasons[i] == nil {
						reasons[i] = plainly(err)
					}
				}
			}
		}
	}
	return reasons, nil
}

// checked is what is known so far of a table's rows, by key, and why corrections can't be undone.
type checked struct {
	rows    map[string]now
	reasons []error
}

func (u *Undoer) checkPage(ctx context.Context, list []ledger.Recorded, at []int, so checked) error {
	return pgx.BeginTxFunc(ctx, u.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var ask []ledger.Recorded
		for _, i := range at {
			if _, known := so.rows[list[i].KeyJSON]; !known {
				so.rows[list[i].KeyJSON] = now{}
				ask = append(ask, list[i])
			}
		}
		if len(ask) > 0 {
			l, keys, err := u.layout(ctx, tx.Conn().PgConn(), ask)
			if err != nil {
				return err
			}
			standing, err := l.Standing(ctx, tx.Conn().PgConn(), keys, postgres.Look)
			if err != nil {
				return err
			}
			for _, s := range standing {
				image, err := ledger.ImageOf(s.JSON)
				if err != nil {
					return err
				}
				so.rows[ask[s.N].KeyJSON] = now{image: image, version: s.Version}
			}
		}
		for _, i := range at {
			c := list[i]
			so.reasons[i] = undoable(c, so.rows[c.KeyJSON], func() ([]uint64, error) { return u.journal.Left(ctx, tx, c) })
			if so.reasons[i] != nil {
				continue
			}
			then := now{version: c.Found}
			if c.Before != nil {
				var err error
				if then.image, err = ledger.ImageOf(*c.Before); err != nil {
					return err
				}
			}
			so.rows[c.KeyJSON] = then
		}
		return nil
	})
}

// layout is the replica's table of corrections that are all of one, and their keys in its order.
func (u *Undoer) layout(ctx context.Context, c *pgconn.PgConn, list []ledger.Recorded) (*postgres.Layout, []message.Key, error) {
	images := make([]ledger.Image, len(list))
	for i, e := range list {
		var err error
		if images[i], err = ledger.ImageOf(e.KeyJSON); err != nil {
			return nil, nil, err
		}
	}
	names := slices.Sorted(maps.Keys(images[0]))
	l, err := u.laidOut(ctx, c, list[0].Table, names)
	if err != nil {
		return nil, nil, err
	}
	keys := make([]message.Key, len(list))
	for i, image := range images {
		if len(image) != len(names) {
			return nil, nil, fmt.Errorf("the journal has corrections of %s under different keys: undo them one by one", list[0].Table)
		}
		for _, name := range names {
			text, ok := image.Text(name)
			if !ok {
				return nil, nil, fmt.Errorf("the journal has corrections of %s under different keys: undo them one by one", list[0].Table)
			}
			keys[i] = append(keys[i], text)
		}
	}
	return l, keys, nil
}

func (u *Undoer) laidOut(ctx context.Context, c *pgconn.PgConn, table string, key []string) (*postgres.Layout, error) {
	id := table + "\x00" + strings.Join(key, "\x00")
	u.mu.Lock()
	l := u.layouts[id]
	u.mu.Unlock()
	if l != nil {
		err := begin(ctx, c, l)
		if err == nil || !errors.Is(err, postgres.ErrChanged) {
			return l, err
		}
	}
	t, err := u.describe(ctx, c, table)
	if err != nil {
		return nil, err
	}
	if l, err = postgres.Journalled(t, key); err != nil {
		return nil, err
	}
	if err := begin(ctx, c, l); err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.layouts[id] = l
	return l, nil
}

func (u *Undoer) describe(ctx context.Context, c *pgconn.PgConn, table string) (*postgres.Table, error) {
	m, ok := u.opts.Map(table)
	if !ok {
		return nil, fmt.Errorf("table %s is in no entry of the policy any more, so there is no telling what the replica calls it", table)
	}
	t, err := postgres.Describe(ctx, c, m.Name)
	if err != nil {
		return nil, fmt.Errorf("in the replica: %w", err)
	}
	return t, nil
}

// Undo takes back one line of the journal, of which a copy may have lost rows to others since: it returns how many rows it deleted or wrote. What is the
// row's fault, or the line's, is a *NotUndoneError, and nothing was written.
func (u *Undoer) Undo(ctx context.Context, c ledger.Recorded) (rows int64, err error) {
	if !c.ID.Copy {
		return 1, u.Together(ctx, []ledger.Recorded{c})
	}
	err = u.transact(ctx, func(tx pgx.Tx, w Writing) error {
		conn := tx.Conn().PgConn()
		t, err := u.describe(ctx, conn, c.Table)
		if err != nil {
			return err
		}
		if err := w.set(ctx, conn); err != nil {
			return err
		}
		n, key, err := postgres.UndoCopy(ctx, conn, t, postgres.CopyUndo{Statement: c.Undo, Version: c.Version, Triggers: w.Role != "replica"})
		switch {
		case err != nil:
			return err
		case key != "":
			return fmt.Errorf("%w: %s", errCascades, key)
		case n == 0 && c.Rows > 0:
			return errors.New("none of its rows is as the copy wrote it: all were written again, or deleted, since")
		}
		rows = int64(n)
		return u.journal.Undone(ctx, tx, c.ID, 0)
	})
	return rows, err
}

// Together takes back corrections of different rows of one table in one transaction, all of them or none: for rows that can't go one by one, since
// they exchanged a unique value.
func (u *Undoer) Together(ctx context.Context, list []ledger.Recorded) error {
	return u.transact(ctx, func(tx pgx.Tx, w Writing) error {
		conn := tx.Conn().PgConn()
		l, keys, err := u.layout(ctx, conn, list)
		if err != nil {
			return err
		}
		if err := w.set(ctx, conn); err != nil {
			return err
		}
		if err := u.guard(ctx, tx, guarded{l, list, keys}); err != nil {
			return err
		}
		if err := putBack(ctx, conn, guarded{l, list, keys}, w); err != nil {
			return err
		}
		standing, err := l.Standing(ctx, conn, keys, postgres.Look)
		if err != nil {
			return err
		}
		rows := make([]*postgres.Standing, len(list))
		for _, s := range standing {
			rows[s.N] = &s
		}
		for i, c := range list {
			if err := stored(l, c, rows[i]); err != nil {
				return err
			}
			var version uint64
			if rows[i] != nil {
				version = rows[i].Version
			}
			if err := u.journal.Undone(ctx, tx, c.ID, version); err != nil {
				return err
			}
		}
		return nil
	})
}

// NotUndoneError says why nothing was undone.
type NotUndoneError struct{ Err error }

func (e *NotUndoneError) Error() string { return e.Err.Error() }

func (e *NotUndoneError) Unwrap() error { return e.Err }

// Crowded tells that another row had a value that has to be unique: undoing both together may do.
func (e *NotUndoneError) Crowded() bool { return postgres.State(e.Err) == uniqueViolation }

func (u *Undoer) transact(ctx context.Context, fn func(pgx.Tx, Writing) error) error {
	err := pgx.BeginTxFunc(ctx, u.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if err := u.journal.BeginUndo(ctx, tx); err != nil {
			return err
		}
		return fn(tx, u.opts.Write())
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil, errors.Is(err, ledger.ErrUnderRestore), errors.Is(err, ledger.ErrOutdated), postgres.Broken(err), postgres.State(err) == "57P01":
		return err
	default:
		return &NotUndoneError{plainly(err)}
	}
}

// plainly puts a server's answer into one line.
func plainly(err error) error {
	switch postgres.State(err) {
	case "":
		return err
	case lockNotAvailable, deadlockDetected, serializationFailure:
		return fmt.Errorf("somebody else is writing the row: try again (%w)", postgres.Guarded(err))
	default:
		return postgres.Guarded(err)
	}
}
