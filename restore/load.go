package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/postgres"
)

// DifferenceError says that the rows which were copied in are not those that the set's manifest tells of. None of them was kept.
type DifferenceError struct {
	Table, Object string
	Range         string // as its bounds may be shown
	Want, Got     digest.Thumbprint
}

func (e *DifferenceError) Error() string {
	what := fmt.Sprintf("the rows have another sum than those that were exported, though they are as many (%d)", e.Want.Rows)
	if e.Want.Rows != e.Got.Rows {
		what = fmt.Sprintf("the table took %d rows of it and not %d", e.Got.Rows, e.Want.Rows)
	}
	return fmt.Sprintf("object %s, range %s of %s: %s: the object is not what was read, or the table stores something else (a trigger, a narrower type); nothing of that range was kept", e.Object, e.Range, e.Table, what)
}

// work is a restore's load as it goes on.
type work struct {
	*Restorer
	id string
	m  *baseline.Manifest

	mu       sync.Mutex
	progress Progress
	ranges   []job          // yet to be copied in
	left     map[string]int // ranges of a table that are not done yet
	indexes  []*table       // whose ranges are all done
	failed   []Failure
}

// job is a range.
type job struct {
	n      int
	table  *table
	object *baseline.Object
}

// load copies in what is not there yet, and makes what holds for any rows.
func (r *Restorer) load(ctx context.Context, m *baseline.Manifest, out *Loaded) error {
	w := &work{Restorer: r, id: out.Restore.ID, m: m, left: make(map[string]int)}
	tables, err := r.resumed(ctx, m, out.Restore)
	if err != nil {
		return err
	}
	if err := w.plan(ctx, tables, out.Restore); err != nil {
		return err
	}
	w.tell("")
	g, ctx := errgroup.WithContext(ctx)
	for range r.o.Jobs {
		g.Go(func() error { return w.worker(ctx) })
	}
	err = g.Wait()
	out.Failed = w.failed
	out.Restore.Done, out.Restore.Rows, out.Restore.Bytes = w.progress.RangesDone, w.progress.RowsDone, w.progress.BytesDone
	return err
}

// resumed are a restore's tables as it recorded them, laid out.
func (r *Restorer) resumed(ctx context.Context, m *baseline.Manifest, of entry.Restore) ([]*table, error) {
	tables, _ := r.tables(m)
	if len(tables) != len(of.Tables) {
		return nil, fmt.Errorf("restore %s was begun with %d tables and the policy names %d now: give it the policy that it was begun with, or give that up and begin anew with --replace and another set", of.ID, len(of.Tables), len(tables))
	}
	return tables, pgx.BeginFunc(ctx, r.Pool, func(tx pgx.Tx) error {
		for _, t := range tables {
			n := slices.IndexFunc(of.Tables, func(o entry.RestoredTable) bool { return o.Table == t.Table.Table && o.Replica == t.to.Name.String() })
			if n < 0 {
				return fmt.Errorf("restore %s was begun without table %s, which is %s here: give it the policy that it was begun with, or give that up and begin anew with --replace and another set", of.ID, t.Table.Table, t.to.Name)
			}
			var err error
			if t.created = of.Tables[n].Created; t.created {
				t.layout, err = unkeyed(ctx, tx, t)
			} else {
				t.layout, err = keyed(ctx, tx, t)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// keyed lays out a table that was there.
func keyed(ctx context.Context, tx pgx.Tx, t *table) (*postgres.Layout, error) {
	found, err := postgres.Describe(ctx, tx.Conn().PgConn(), t.to.Name)
	if err != nil {
		return nil, err
	}
	return postgres.Fit(found, t.Schema.Wire(), t.to.Rules)
}

// plan holds the ledger's ranges against the manifest's.
func (w *work) plan(ctx context.Context, tables []*table, of entry.Restore) error {
	known, err := w.Ledger.RestoreRanges(ctx, w.id)
	if err != nil {
		return err
	}
	n := 0
	for _, t := range tables {
		for i := range t.Objects {
			o := &t.Objects[i]
			if n >= len(known) || known[n].Object != o.Name || known[n].Table != t.Table.Table {
				return fmt.Errorf("set %s is another than the one that restore %s was begun with: give that up and begin anew with --replace and another set", w.m.Set, w.id)
			}
			w.progress.Rows += int64(o.Rows)
			w.progress.Bytes += o.Bytes
			if known[n].Done {
				w.progress.add(o)
			} else {
				w.ranges = append(w.ranges, job{n: known[n].N, table: t, object: o})
				w.left[t.Table.Table]++
			}
			n++
		}
		indexed := slices.ContainsFunc(of.Tables, func(o entry.RestoredTable) bool { return o.Table == t.Table.Table && o.Indexed })
		if w.left[t.Table.Table] == 0 && !indexed {
			w.indexes = append(w.indexes, t)
		}
	}
	if n != len(known) {
		return fmt.Errorf("set %s is another than the one that restore %s was begun with: give that up and begin anew with --replace and another set", w.m.Set, w.id)
	}
	w.progress.Ranges = n
	return nil
}

func (p *Progress) add(o *baseline.Object) {
	p.RangesDone++
	p.RowsDone += int64(o.Rows)
	p.BytesDone += o.Bytes
}

// tell reports how far it is.
func (w *work) tell(doing string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.progress.Doing = doing
	if w.o.Progress != nil {
		w.o.Progress(w.progress)
	}
}

// next takes what is to be done next: the indexes of a table that is complete go first, since they take longest.
func (w *work) next() (t *table, j job, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case len(w.indexes) > 0:
		t, w.indexes = w.indexes[0], w.indexes[1:]
		return t, j, true
	case len(w.ranges) > 0:
		j, w.ranges = w.ranges[0], w.ranges[1:]
		return nil, j, true
	default:
		return nil, j, false
	}
}

// done takes note of a range that is there, and of its table if that is complete.
func (w *work) done(j job) {
	w.mu.Lock()
	w.progress.add(j.object)
	name := j.table.Table.Table
	if w.left[name]--; w.left[name] == 0 {
		w.indexes = append(w.indexes, j.table)
	}
	w.mu.Unlock()
	w.tell("")
}

// worker works through one connection until nothing is left to begin.
func (w *work) worker(ctx context.Context) error {
	conn, err := w.Pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connecting to the replica: %w", postgres.OneLine(err))
	}
	defer conn.Release()
	loading := make(map[*table]*postgres.Loading)
	defer discard(ctx, conn, loading)
	for {
		t, j, ok := w.next()
		switch {
		case !ok:
			return nil
		case t != nil:
			if err := w.complete(ctx, conn, t); err != nil {
				return err
			}
		default:
			g := loading[j.table]
			if g == nil {
				stream, declared := j.table.stream()
				g = j.table.layout.NewLoading(stream, declared)
				loading[j.table] = g
			}
			if err := w.copy(ctx, conn, g, j); err != nil {
				return err
			}
			w.done(j)
		}
	}
}

// discard drops the temporary tables of a connection that goes back to the pool.
func discard(ctx context.Context, conn *pgxpool.Conn, loading map[*table]*postgres.Loading) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	for _, g := range loading {
		if !g.Staged() {
			continue
		}
		if _, err := conn.Exec(ctx, "DISCARD TEMPORARY"); err != nil {
			_ = conn.Conn().Close(ctx)
		}
		return
	}
}

// copy brings in one range: in one transaction the rows, their sum, and that it is done.
func (w *work) copy(ctx context.Context, conn *pgxpool.Conn, g *postgres.Loading, j job) error {
	t, o := j.table, j.object
	shown := o.Range.Shown(w.o.Key)
	rows, err := w.Store.Open(ctx, w.m, t.Table, o)
	if err != nil {
		return fmt.Errorf("range %s of %s: %w", shown, t.Table.Table, err)
	}
	defer rows.Close()
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		c := tx.Conn().PgConn()
		if err := w.set(ctx, c); err != nil {
			return err
		}
		mine, err := w.Ledger.LoadRange(ctx, tx, w.id, j.n)
		if err != nil {
			return err
		}
		if !mine {
			return fmt.Errorf("restore %s is being loaded by somebody else, or was given up: see trickle-consumer status", w.id)
		}
		print, err := g.Load(ctx, c, o.Range, t.Digest, rows)
		if err != nil {
			return err
		}
		want := digest.Thumbprint{Rows: o.Rows, Sum: o.Sum}
		if print == want {
			return nil
		}
		// The build computes sums itself where it can. Were one of them computed otherwise than a server does, the range could never be restored: the table's own rows, read back and summed
		// as the build does, tell that from rows that are others.
		if again, can, err := g.Reread(ctx, c, t.Digest); err != nil || !can || again != want {
			return errors.Join(&DifferenceError{Table: t.to.Name.String(), Object: o.Name, Range: shown, Want: want, Got: print}, err)
		}
		w.Log.Warn("the rows of a range are those that were exported, and this server sums them otherwise than the build did: please report the types of the table's columns",
			"table", t.to.Name.String(), "object", o.Name, "range", shown)
		return nil
	})
	var difference *DifferenceError
	if err == nil || errors.As(err, &difference) {
		return err
	}
	return fmt.Errorf("copying object %s, range %s, into %s: %w", o.Name, shown, t.to.Name, err)
}

// unhurried takes off the limits that a role may have for what takes long when something has hung.
const unhurried = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"

// set makes the settings under which rows are written. A commit does not wait for the disk: a server that crashes loses a range and its mark together.
func (w *work) set(ctx context.Context, c *pgconn.PgConn) error {
	setting := "SET LOCAL synchronous_commit = off; " + unhurried
	if w.o.Role != "" && w.o.Role != "origin" {
		setting += "; SET LOCAL session_replication_role = " + postgres.Literal(w.o.Role)
	}
	return c.Exec(ctx, setting).Close()
}
