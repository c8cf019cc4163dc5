package playforward

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/postgres"
)

// stuck is an event that waits for another, and since when.
type stuck struct {
	lane   *lane
	offset int64
	since  time.Time
}

const passingTries = 5

// outcome is what became of a batch. An event that waits, and all behind it, are kept.
type outcome int

const (
	whole   outcome = iota
	short           // one waits for what may be behind the batch
	waiting         // one waits for what another round may bring
)

// apply writes a batch and the read point behind it.
func (a *Applier) apply(ctx context.Context, b *batch) (outcome, error) {
	if len(b.events) == 0 && !a.unsaved() {
		return whole, nil
	}
	var n int
	var err error
	var refused *RowError
	for try := 1; ; try++ {
		clear(b.state)
		err = pgx.BeginTxFunc(ctx, a.conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
			n, refused = 0, nil
			if err := a.write(ctx, tx, b, &n); err != nil && !errors.As(err, &refused) {
				return err
			}
			return a.save(ctx, tx, b, n)
		})
		if err == nil || !postgres.Passing(err) || postgres.Broken(err) || try == passingTries {
			break
		}
	}
	if err != nil {
		return whole, fmt.Errorf("applying events to the replica: %w", err)
	}
	a.settle(ctx, b, n)
	if refused == nil {
		a.stuck, a.reach = nil, 1
		return whole, nil
	}
	first := b.events[n]
	if a.stuck == nil || a.stuck.lane != first.lane || a.stuck.offset != first.offset {
		a.stuck = &stuck{first.lane, first.offset, time.Now()}
	}
	switch {
	case refused.waits() && b.cut && a.reach < farthest:
		a.reach *= 2 // a transaction may be larger than a batch
		return short, nil
	case !refused.waits() || time.Since(a.stuck.since) > a.options.Patience:
		return whole, refused
	}
	return waiting, nil
}

// unsaved tells whether partitions were read further than is saved.
func (a *Applier) unsaved() bool {
	for _, l := range a.order {
		if l.next() != l.stored || !l.known {
			return true
		}
	}
	return false
}

// settle remembers what was committed, and puts back what was not applied.
func (a *Applier) settle(ctx context.Context, b *batch, applied int) {
	_, marks := b.behind(applied)
	for l, m := range marks {
		l.saved = m
	}
	for i := len(b.events) - 1; i >= applied; i-- {
		l := b.events[i].lane
		l.held = append([]event{b.events[i]}, l.held...)
	}
	for _, l := range a.order {
		l.stored, l.known = l.next(), true
	}
	for name, s := range b.state {
		a.done.Incomplete += uint64(s.incomplete)
		a.state[name] = s
	}
	a.done.Applied += uint64(applied)
	a.done.Behind = a.behind()
	for i := range b.events[:applied] {
		if at := b.events[i].Time; at.After(a.done.At) {
			a.done.At = at
		}
	}
	if a.options.Commit != nil {
		if err := a.options.Commit(ctx, a.Position()); err != nil && ctx.Err() == nil {
			a.options.Log.Warn("the read point is saved in the replica, and could not be committed to Kafka: the lag that is seen there is too great", "err", err)
		}
	}
	if a.options.Progress != nil {
		a.options.Progress(a.done)
	}
}

// write applies as much of a batch as the replica takes. Its error is a *RowError of the first event that it does not take.
func (a *Applier) write(ctx context.Context, tx pgx.Tx, b *batch, applied *int) error {
	setting := ""
	if a.options.Rules().Detect.SessionReplicationRole == "replica" {
		setting = "SET LOCAL session_replication_role = replica"
	}
	c := tx.Conn().PgConn()
	if err := c.Exec(ctx, setting).Close(); err != nil {
		return fmt.Errorf("detect.session_replication_role: %w", err)
	}
	if len(b.events) == 0 {
		return nil
	}
	err := a.attempt(ctx, c, b, b.events)
	if err == nil {
		*applied = len(b.events)
		return nil
	}
	if hopeless(ctx, err) {
		return err
	}
	// In halves, down to the one event that is refused, and up again behind it.
	for n := len(b.events) / 2; *applied < len(b.events); {
		rest := b.events[*applied:]
		n = max(min(n, len(rest)), 1)
		err := a.attempt(ctx, c, b, rest[:n])
		if err != nil && n > 1 && !hopeless(ctx, err) {
			n /= 2
			continue
		}
		// Rows that need each other, such as those of one statement that refer to one another.
		if err != nil && constraint(err) && !hopeless(ctx, err) {
			if together, ok := a.together(ctx, c, b, rest); ok {
				n, err = together, nil
			}
		}
		switch {
		case err == nil:
			*applied += n
			n *= 2
		case hopeless(ctx, err):
			return err
		default:
			return a.refusal(ctx, c, &rest[0], err)
		}
	}
	return nil
}

// together looks for how many of the next events the replica takes as one.
func (a *Applier) together(ctx context.Context, c *pgconn.PgConn, b *batch, rest []event) (n int, ok bool) {
	const few = 16 // up to here each number is tried
	for n = 2; len(rest) > 1; n = min(n, len(rest)) {
		switch {
		case a.attempt(ctx, c, b, rest[:n]) == nil:
			return n, true
		case n == len(rest):
			return 0, false
		case n < few:
			n++
		default:
			n *= 2
		}
	}
	return 0, false
}

// hopeless tells errors that are no event's fault.
func hopeless(ctx context.Context, err error) bool {
	return ctx.Err() != nil || postgres.Broken(err) || postgres.Passing(err)
}

// attempt applies events whole or not at all. Where one row has what another wants, the rows of that table are written anew.
func (a *Applier) attempt(ctx context.Context, c *pgconn.PgConn, b *batch, events []event) error {
	var first error
	room := map[*target]bool{}
	for {
		err := a.once(ctx, c, &writer{a: a, c: c, b: b, pending: map[*target]*rowsOf{}, truncated: map[*target]bool{}, room: room}, events)
		if err == nil || hopeless(ctx, err) {
			return err
		}
		if first == nil {
			first = err
		}
		var is *takenError
		if len(events) == 1 || !errors.As(err, &is) || room[is.table] || !a.anew(is.table) {
			return first
		}
		room[is.table] = true
	}
}

// once is one attempt.
func (a *Applier) once(ctx context.Context, c *pgconn.PgConn, w *writer, events []event) error {
	b := w.b
	before := maps.Clone(b.state)
	for name, s := range before {
		copied := *s
		before[name] = &copied
	}
	if err := c.Exec(ctx, "SAVEPOINT attempt; SET CONSTRAINTS ALL DEFERRED").Close(); err != nil {
		return err
	}
	err := w.run(ctx, events)
	if err == nil {
		err = c.Exec(ctx, "SET CONSTRAINTS ALL IMMEDIATE").Close()
	}
	if err == nil {
		return c.Exec(ctx, "RELEASE SAVEPOINT attempt").Close()
	}
	b.state = before
	if undo := c.Exec(ctx, "ROLLBACK TO SAVEPOINT attempt; RELEASE SAVEPOINT attempt").Close(); undo != nil {
		return errors.Join(undo, err)
	}
	return err
}
