package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/postgres"
)

// Failure is an index or a constraint that could not be made.
type Failure struct {
	Table string // as the replica calls it
	Name  string
	SQL   string // the statement that makes it, once its reason is gone
	Err   error
}

// Violated tells that rows are in the way, which CDC may yet change.
func (f Failure) Violated() bool {
	return slices.Contains([]string{"23503", "23505", "23P01"}, postgres.State(f.Err))
}

func (f Failure) String() string { return fmt.Sprintf("%s: %v; %s", f.Table, f.Err, f.SQL) }

// complete makes what holds for any rows of a table whose ranges are all there, and has the planner know them. A key that can't be made is an error; of anything else it is
// noted that it is missing.
func (w *work) complete(ctx context.Context, conn *pgxpool.Conn, t *table) error {
	if t.created {
		w.tell("making the key of " + t.to.Name.String())
		if _, err := w.part(ctx, conn, t, t.Definition.Key); err != nil {
			if postgres.State(err) == "23505" {
				return w.intruded(ctx, conn, t, err)
			}
			return err
		}
		for _, p := range t.Definition.Ready {
			w.tell("making " + p.Kind + " " + p.Name + " of " + t.to.Name.String())
			m, err := w.part(ctx, conn, t, p)
			if err := w.note(ctx, t, p, m, err); err != nil {
				return err
			}
		}
	}
	w.tell("analysing " + t.to.Name.String())
	if _, err := conn.Exec(ctx, "ANALYZE "+t.to.Name.SQL()); err != nil && postgres.State(err) != "42501" { // not its owner: the server's own vacuum will
		return fmt.Errorf("analysing %s: %w", t.to.Name, err)
	}
	if err := w.Ledger.Indexed(ctx, w.id, t.Table.Table); err != nil {
		return err
	}
	w.tell("")
	return nil
}

// intruded has a table that the restore has made copied in again, since somebody else has written rows to it that bear keys of the set's.
func (w *work) intruded(ctx context.Context, conn *pgxpool.Conn, t *table, key error) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "TRUNCATE ONLY "+t.to.Name.SQL()); err != nil {
			return err
		}
		return w.Ledger.ReloadTable(ctx, tx, w.id, t.Table.Table)
	})
	if err != nil {
		return errors.Join(key, fmt.Errorf("emptying %s to copy it in again: %w", t.to.Name, err))
	}
	return fmt.Errorf("%w: somebody else writes to the table: stop what does, and run the restore again, which copies that table in anew", key)
}

// note keeps a part that could not be made, unless that is because the connection broke, or everything stops.
func (w *work) note(ctx context.Context, t *table, p postgres.DefinedPart, m postgres.Made, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil || postgres.Passing(err) || postgres.State(err) == "" {
		return err
	}
	f := Failure{Table: t.to.Name.String(), Name: p.Name, SQL: m.SQL, Err: err}
	if err := w.Ledger.NotMade(ctx, w.id, entry.NotMade{Table: f.Table, Name: f.Name, SQL: f.SQL, Error: err.Error()}); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = append(w.failed, f)
	return nil
}

// part makes one part in a transaction of its own.
func (w *work) part(ctx context.Context, conn *pgxpool.Conn, t *table, p postgres.DefinedPart) (m postgres.Made, err error) {
	refers := t.to.place()
	if p.Refers != "" {
		to, ok := w.o.Map(p.Refers)
		if !ok {
			return m, fmt.Errorf("%s refers to %s, which the policy does not name", p.Name, p.Refers)
		}
		refers = to.place()
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// More memory than the server's setting, never less; and whoever writes has the time to end what is open.
		if _, err := tx.Exec(ctx, `SELECT pg_catalog.set_config('maintenance_work_mem', $1, true) WHERE pg_catalog.pg_size_bytes($1) > pg_catalog.pg_size_bytes(pg_catalog.current_setting('maintenance_work_mem'))`, w.o.Memory); err != nil {
			return err
		}
		if err := tx.Conn().PgConn().Exec(ctx, "SET LOCAL lock_timeout = '1min'; "+unhurried).Close(); err != nil {
			return err
		}
		m, err = p.Make(ctx, tx.Conn().PgConn(), t.to.place(), refers)
		return err
	})
	return m, err
}

// Finished is what Finish did.
type Finished struct {
	Made    []string // "unique index t_x of cache.t"
	Failed  []Failure
	LeftOut []string // each with the reason
}

// Err names what could not be made, nil where all was.
func (f Finished) Err() error {
	errs := make([]error, len(f.Failed))
	for i, failed := range f.Failed {
		errs[i] = errors.New(failed.String())
	}
	return errors.Join(errs...)
}

// Finish makes what holds only among rows of one moment, once CDC has caught up, in the tables that the restore has made: unique indexes and exclusions, then foreign keys.
// What is there is skipped, so it may be run again. What can't be made is in Failed, by name; the error is for what kept it from going on.
func (r *Restorer) Finish(ctx context.Context, m *baseline.Manifest) (out Finished, err error) {
	release, err := r.Ledger.LockRestore(ctx)
	if err != nil {
		return out, err
	}
	defer release()
	open, err := r.Ledger.OpenRestore(ctx)
	switch {
	case err != nil:
		return out, err
	case !resumes(open, m):
		return out, fmt.Errorf("no restore of set %s is under way: run trickle-consumer restore", m.Set)
	case stateOf(*open) == entry.RestoreLoading:
		return out, fmt.Errorf("the restore of set %s has not brought in all of it yet: run trickle-consumer restore again", m.Set)
	}
	if err := r.Ledger.AdvanceRestore(ctx, open.ID, entry.RestoreFinishing); err != nil {
		return out, err
	}
	w := &work{Restorer: r, id: open.ID, m: m}
	tables, err := r.resumed(ctx, m, *open)
	if err == nil {
		out, err = w.finish(ctx, tables, open.NotMade)
	}
	if err != nil {
		return out, r.failed(ctx, open.ID, err)
	}
	return out, nil
}

// finish makes the later parts: those of different tables beside each other, but for foreign keys, which lock two. Before is what could not be made in an earlier run.
func (w *work) finish(ctx context.Context, tables []*table, before []entry.NotMade) (out Finished, err error) {
	conn := make(chan *pgxpool.Conn, w.o.Jobs)
	defer func() {
		close(conn)
		for c := range conn {
			c.Release()
		}
	}()
	for range w.o.Jobs {
		c, err := w.Pool.Acquire(ctx)
		if err != nil {
			return out, fmt.Errorf("connecting to the replica: %w", postgres.OneLine(err))
		}
		conn <- c
	}
	create := func(ctx context.Context, t *table, p postgres.DefinedPart) error {
		c := <-conn
		defer func() { conn <- c }()
		w.tell("making " + p.Kind + " " + p.Name + " of " + t.to.Name.String())
		m, err := w.part(ctx, c, t, p)
		if err == nil && slices.ContainsFunc(before, func(n entry.NotMade) bool { return n.Table == t.to.Name.String() && n.Name == p.Name }) {
			err = w.Ledger.NotMade(ctx, w.id, entry.NotMade{Table: t.to.Name.String(), Name: p.Name})
		}
		if err == nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			out.Made = append(out.Made, p.Kind+" "+m.Name+" of "+t.to.Name.String())
		}
		return w.note(ctx, t, p, m, err)
	}
	g, within := errgroup.WithContext(ctx)
	g.SetLimit(w.o.Jobs)
	for _, t := range tables {
		g.Go(func() error {
			for _, p := range t.later(postgres.ForeignKey, not) {
				if err := create(within, t, p); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return out, err
	}
	for _, t := range tables {
		for _, p := range t.later(postgres.ForeignKey, only) {
			if why := unmet(p, tables); why != "" {
				out.LeftOut = append(out.LeftOut, fmt.Sprintf("%s: foreign key %s: %s", t.to.Name, postgres.Quote(p.Name), why))
				continue
			}
			if err := create(ctx, t, p); err != nil {
				return out, err
			}
		}
	}
	slices.Sort(out.Made)
	out.Failed = w.failed
	return out, nil
}

type which int

const (
	only which = iota
	not
)

// later are the parts that wait, of one kind or of all others, of a table that the restore has made.
func (t *table) later(kind string, which which) []postgres.DefinedPart {
	var out []postgres.DefinedPart
	for _, p := range t.Definition.Later {
		if t.created && (p.Kind == kind) == (which == only) {
			out = append(out, p)
		}
	}
	return out
}

// unmet is why a foreign key is not made, "" where it is.
func unmet(p postgres.DefinedPart, tables []*table) string {
	n := slices.IndexFunc(tables, func(t *table) bool { return t.Table.Table == p.Refers })
	if n < 0 {
		return "it refers to " + p.Refers + ", which was not restored"
	}
	for _, column := range p.To {
		if !slices.ContainsFunc(tables[n].Schema.Columns, func(c baseline.Column) bool { return c.Name == column }) {
			return fmt.Sprintf("it refers to column %s of %s, which is not exported", postgres.Quote(column), p.Refers)
		}
	}
	return ""
}
