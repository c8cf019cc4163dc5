// Package restore brings a replica's tables back from a set of the base-line view.
//
// It decides whether a set may be loaded into a database (everything that is in the way is found before anything is written), makes the tables that are missing, copies the set's
// ranges in, and makes indexes and constraints: at once those that hold for any rows, and by Finish, once CDC has caught up, those that hold only among rows of one moment. What
// always holds: a range is one transaction, which commits only if the rows that it has written have the thumbprint that the set's manifest gives them, and marks the range done in the
// same; so whatever is killed when, what is done is right and what is not is done again. Tables outside of the set and the policy are never touched, nothing cascades, and rows
// that are there are removed only where Replace is set. When something fails, the restore is failed in the ledger with the reason, nothing is claimed of that range, and the
// next Load of the same set goes on behind what is done.
package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/postgres"
)

// Store is where a set's objects are.
type Store interface {
	// Check makes sure that every object of a set is there and as long as it should be.
	Check(ctx context.Context, m *baseline.Manifest) error
	// Open gives out an object's rows, after it has checked its bytes.
	Open(ctx context.Context, m *baseline.Manifest, t *baseline.Table, o *baseline.Object) (*baseline.Content, error)
}

// Ledger remembers in the replica how far a restore is.
type Ledger interface {
	Migrate(ctx context.Context) error
	LockRestore(ctx context.Context) (release func(), err error)
	OpenRestore(ctx context.Context) (*entry.Restore, error)
	BeginRestore(ctx context.Context, tx pgx.Tx, r entry.Restore, ranges []entry.RestoredRange) error
	RestoreRanges(ctx context.Context, id string) ([]entry.RestoredRange, error)
	LoadRange(ctx context.Context, tx pgx.Tx, id string, n int) (bool, error)
	ReloadTable(ctx context.Context, tx pgx.Tx, id, table string) error
	Indexed(ctx context.Context, id, table string) error
	NotMade(ctx context.Context, id string, n entry.NotMade) error
	AdvanceRestore(ctx context.Context, id, state string) error
	FailRestore(ctx context.Context, id, failure string) error
}

// Mapping is what the replica calls a table, and how it is compared.
type Mapping struct {
	Name  postgres.Name
	Rules postgres.Rules
}

func (m Mapping) place() postgres.Place {
	return postgres.Place{Name: m.Name, Rename: m.Rules.Rename}
}

// Parts are what a restore is made of.
type Parts struct {
	// Pool is of the replica's database, with a connection for each job and two more.
	Pool   *pgxpool.Pool
	Ledger Ledger
	Store  Store
	Log    *slog.Logger // nil for none
}

// Options tell how to restore.
type Options struct {
	Pipeline string
	// Source is that which the replica is pinned to; empty: any.
	Source string
	// Map finds a table's counterpart; false where the policy leaves the table out.
	Map func(table string) (Mapping, bool)
	// Replace removes the rows of tables that have any.
	Replace bool
	// Jobs is how many ranges are copied in at a time; 0 for 2.
	Jobs int
	// Role is session_replication_role while rows are written; "origin" or empty leaves it alone.
	Role string
	// Memory is maintenance_work_mem while indexes are made, unless the server's own is more; empty for 256MB.
	Memory string
	// Arguments are recorded with the restore, for people.
	Arguments map[string]string
	// Key is how a key may be shown, as privacy has it; nil: not at all.
	Key func(string) string
	// Progress is told how far it is, from one goroutine at a time; nil: nobody is.
	Progress func(Progress)
	// NewID names restores.
	NewID func() string
}

// Progress is how far a restore is.
type Progress struct {
	Ranges, RangesDone int
	Rows, RowsDone     int64
	Bytes, BytesDone   int64  // of objects, as they are stored
	Doing              string // what else is being done: "making index t_x of cache.t"
}

// Restorer restores one pipeline's replica.
type Restorer struct {
	Parts
	o Options
}

// New makes one.
func New(p Parts, o Options) *Restorer {
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	if o.Jobs < 1 {
		o.Jobs = 2
	}
	if o.Memory == "" {
		o.Memory = "256MB"
	}
	if o.Key == nil {
		o.Key = func(string) string { return "…" }
	}
	if o.NewID == nil {
		o.NewID = func() string { return time.Now().UTC().Format("20060102T150405.000000000Z") }
	}
	return &Restorer{Parts: p, o: o}
}

// Loaded is what Load did.
type Loaded struct {
	Restore entry.Restore
	// Resumed: it went on with a restore that had stopped.
	Resumed bool
	Plan    Plan
	// Failed are indexes and constraints that could not be made: nothing depends on them, and they can be made by hand.
	Failed  []Failure
	Seconds float64
}

// Load brings the set in: all of its rows, keys and what holds for any rows. It is begun where none is open, and goes on with one of the same set that is. Errors that are
// found before anything is written are a *RefusedError.
func (r *Restorer) Load(ctx context.Context, m *baseline.Manifest) (out Loaded, err error) {
	began := time.Now()
	before, err := r.open(ctx)
	if err != nil {
		return out, err
	}
	if resumes(before, m) && stateOf(*before) != entry.RestoreLoading {
		out.Restore, out.Resumed = *before, true
		return out, nil // that is behind it, and the set may be gone from the store
	}
	if out.Plan, err = r.Plan(ctx, m); err != nil {
		return out, err
	}
	if err := r.Ledger.Migrate(ctx); err != nil {
		return out, err
	}
	release, err := r.Ledger.LockRestore(ctx)
	if err != nil {
		return out, err
	}
	defer release()
	open, err := r.Ledger.OpenRestore(ctx)
	if err != nil {
		return out, err
	}
	if out.Resumed = resumes(open, m); !out.Resumed {
		if open, err = r.begin(ctx, m, &out.Plan); err != nil {
			return out, err
		}
	}
	out.Restore = *open
	if stateOf(*open) != entry.RestoreLoading {
		return out, nil // another process was quicker
	}
	if err := r.Ledger.AdvanceRestore(ctx, open.ID, entry.RestoreLoading); err != nil {
		return out, err
	}
	err = r.load(ctx, m, &out)
	if err == nil {
		// The server flushes its log up to here before it says that this has committed, and with it all the ranges, which it was not made to wait for one by one.
		err = r.Ledger.AdvanceRestore(ctx, open.ID, entry.RestoreLoaded)
	}
	if err != nil {
		return out, r.failed(ctx, open.ID, err)
	}
	out.Restore.State = entry.RestoreLoaded
	out.Seconds = time.Since(began).Seconds()
	return out, nil
}

// open is the restore that has yet to come to an end, nil where there is none, nor a ledger.
func (r *Restorer) open(ctx context.Context) (*entry.Restore, error) {
	open, err := r.Ledger.OpenRestore(ctx)
	if err != nil && r.unmigrated(ctx) {
		return nil, nil
	}
	return open, err
}

// stateOf is the state that a restore is in or failed in.
func stateOf(r entry.Restore) string {
	if r.State == entry.RestoreFailed {
		return r.Stopped
	}
	return r.State
}

func resumes(open *entry.Restore, m *baseline.Manifest) bool {
	return open != nil && open.Set == m.Set && open.Source == m.Source
}

// patience bounds what is still written to the ledger when the caller has given up.
const patience = 10 * time.Second

// failed records why a restore stopped. One that was only interrupted stays as it is.
func (r *Restorer) failed(ctx context.Context, id string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("the restore was interrupted, and goes on where it was when it is run again: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	return errors.Join(err, r.Ledger.FailRestore(ctx, id, err.Error()))
}

// tables are the set's that the policy names.
func (r *Restorer) tables(m *baseline.Manifest) (tables []*table, alone []string) {
	for i := range m.Tables {
		t := &m.Tables[i]
		if to, ok := r.o.Map(t.Table); ok {
			tables = append(tables, &table{Table: t, to: to})
		} else {
			alone = append(alone, t.Table)
		}
	}
	return tables, alone
}

// table is one to be restored.
type table struct {
	*baseline.Table
	to          Mapping
	layout      *postgres.Layout
	created     bool // this restore makes it, or made it
	partitioned bool
}

// stream is what its objects hold, and as what types the source has that.
func (t *table) stream() (s postgres.Stream, declared []string) {
	s.Binary = t.Binary
	for _, c := range t.Schema.Columns {
		if c.Exported {
			s.Columns, declared = append(s.Columns, c.Name), append(declared, c.Declared)
		}
	}
	return s, declared
}
