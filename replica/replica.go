// Package replica is a Postgres replica as the detector sees it: it observes rows and writes them under a guard.
//
// It decides nothing about what is right; it carries out a change only if the row still is the version that was observed, in one transaction
// with the journal entry that holds the before- and after-image. What always holds: no write without its journal entry and no entry
// without its write, be it for a row or for a range that was copied whole; a row that CDC wrote in between is left alone (Moved); a row that the replica refuses does not block its neighbours
// (Failed, with the reason); the brake is asked in the same transaction, so that two instances together can't exceed it. When the table
// no longer looks as it was fitted, calls fail with postgres.ErrChanged and nothing is written.
package replica

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/postgres"
)

// Mapping says what a source table is called in the replica and how it is compared.
type Mapping struct {
	Name  postgres.Name
	Rules postgres.Rules
}

// Journal is what the writes are recorded in, in their own transaction.
type Journal interface {
	Journal(ctx context.Context, tx pgx.Tx, table string, entries []ledger.Entry) ([]int64, error)
	Allow(ctx context.Context, tx pgx.Tx, lim ledger.Limits) (ledger.Allowance, error)
	Brake(ctx context.Context, reason string) error
	Copied(ctx context.Context, tx pgx.Tx, table string, c ledger.Copied) (int64, error)
}

// Options of a Replica.
type Options struct {
	// Map finds a source table's counterpart; false where the policy leaves the table out.
	Map func(table string) (Mapping, bool)
	// Write tells how to write, as the policy has it now.
	Write func() Writing
}

// Writing is how corrections are written.
type Writing struct {
	// Brake bounds what is written within its window.
	Brake ledger.Limits
	// Role is session_replication_role during writes; "origin" or empty leaves it alone.
	Role string
}

// Replica reads and writes the replica's tables. It is safe for concurrent use.
type Replica struct {
	pool    *pgxpool.Pool
	journal Journal
	opts    Options

	mu      sync.Mutex
	layouts map[string]*postgres.Layout // by source table
}

// New works through the pool, which stays the caller's.
func New(pool *pgxpool.Pool, journal Journal, o Options) *Replica {
	return &Replica{pool: pool, journal: journal, opts: o, layouts: make(map[string]*postgres.Layout)}
}

// NotFittedError is returned for a table that Fit was not called for since it changed.
type NotFittedError struct{ Table string }

func (e *NotFittedError) Error() string {
	return "table " + e.Table + " is not fitted to the source's schema"
}

// Name is what the replica calls a source table.
func (r *Replica) Name(table string) (string, bool) {
	m, ok := r.opts.Map(table)
	return m.Name.String(), ok
}

// Fit lays the replica's table out after the source's schema and returns the digest of its own probe row. Its error, a
// *postgres.MismatchError, a *postgres.NoKeyError or one that wraps postgres.ErrNoTable, says why the two can't be compared.
func (r *Replica) Fit(ctx context.Context, table string, schema *tricklepb.Schema) (probe uint64, err error) {
	m, ok := r.opts.Map(table)
	if !ok {
		return 0, fmt.Errorf("table %s is in no entry of this side's policy", table)
	}
	conn, err := r.pool.Acquire(ctx)
	if err != nil {
		return 0, fmt.Errorf("connecting to the replica: %w", err)
	}
	defer conn.Release()
	t, err := postgres.Describe(ctx, conn.Conn().PgConn(), m.Name)
	if err != nil {
		return 0, fmt.Errorf("in the replica: %w", err)
	}
	l, err := postgres.Fit(t, schema, m.Rules)
	if err != nil {
		return 0, err
	}
	if probe, err = l.Probe(ctx, conn.Conn().PgConn()); err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.layouts[table] = l
	return probe, nil
}

// Unfit forgets a table's layout.
func (r *Replica) Unfit(table string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.layouts, table)
}

func (r *Replica) layout(table string) (*postgres.Layout, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.layouts[table]
	if l == nil {
		return nil, &NotFittedError{Table: table}
	}
	return l, nil
}

// read runs fn in one snapshot after checking the table's shape.
func (r *Replica) read(ctx context.Context, table string, fn func(l *postgres.Layout, tx pgx.Tx) error) error {
	l, err := r.layout(table)
	if err != nil {
		return err
	}
	return pgx.BeginTxFunc(ctx, r.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		c := tx.Conn().PgConn()
		if err := l.Share(ctx, c); err != nil {
			return err
		}
		if err := l.CheckShape(ctx, c); err != nil {
			return err
		}
		return fn(l, tx)
	})
}

// Thumbprint reads a range without the rows left out.
func (r *Replica) Thumbprint(ctx context.Context, table string, rng message.Range, leftOut []message.Key, kind digest.Kind) (print digest.Thumbprint, err error) {
	err = r.read(ctx, table, func(l *postgres.Layout, tx pgx.Tx) error {
		print, err = l.Thumbprint(ctx, tx.Conn().PgConn(), rng, leftOut, kind)
		return err
	})
	return print, err
}

// Cut cuts a table into ranges of about so many bytes, by a sample of it.
func (r *Replica) Cut(ctx context.Context, table string, bytes int) (ranges []message.Range, err error) {
	err = r.read(ctx, table, func(l *postgres.Layout, tx pgx.Tx) error {
		keys, err := l.Pieces(ctx, tx.Conn().PgConn(), bytes)
		var from message.Key
		for _, k := range keys {
			ranges = append(ranges, message.Range{Lo: from, Hi: k})
			from = k
		}
		ranges = append(ranges, message.Range{Lo: from})
		return err
	})
	return ranges, err
}

// Range observes a range's rows in key order, at most limit; covered is the part of the range that was read.
func (r *Replica) Range(ctx context.Context, table string, rng message.Range, limit int, kind digest.Kind) (rows []drift.Observed, covered message.Range, err error) {
	err = r.read(ctx, table, func(l *postgres.Layout, tx pgx.Tx) error {
		page, err := l.Range(ctx, tx.Conn().PgConn(), rng, limit, postgres.Want{Digest: kind})
		rows, covered = observed(page.Rows), page.Covered
		return err
	})
	return rows, covered, err
}

// Observe reads the rows of keys, one for each, in that order.
func (r *Replica) Observe(ctx context.Context, table string, keys []message.Key, kind digest.Kind) (rows []drift.Observed, err error) {
	err = r.read(ctx, table, func(l *postgres.Layout, tx pgx.Tx) error {
		found, err := l.Rows(ctx, tx.Conn().PgConn(), keys, postgres.Want{Digest: kind})
		rows = observed(found)
		return err
	})
	return rows, err
}

func observed(rows []postgres.Row) []drift.Observed {
	out := make([]drift.Observed, len(rows))
	for i, row := range rows {
		out[i] = drift.Observed{Key: row.Key, Present: row.Present, Version: row.Version, Digest: row.Digest}
	}
	return out
}

// Incomparable tells an error of Fit that lasts until somebody changes a schema, the policy or a right.
func (r *Replica) Incomparable(err error) bool {
	var mismatch *postgres.MismatchError
	var noKey *postgres.NoKeyError
	return errors.As(err, &mismatch) || errors.As(err, &noKey) || errors.Is(err, postgres.ErrNoTable) || postgres.State(err) == "42501"
}

// Stale tells an error that fitting the table again may mend.
func (r *Replica) Stale(err error) bool {
	var unfitted *NotFittedError
	state := postgres.State(err)
	return errors.Is(err, postgres.ErrChanged) || errors.As(err, &unfitted) || state == "42P01" || state == "42703" || state == "42704" || state == "42P10"
}

// KeyAtFault tells an error about a value: out of the type's range, or no value of it at all.
func (r *Replica) KeyAtFault(err error) bool {
	state := postgres.State(err)
	return strings.HasPrefix(state, "22") || strings.HasPrefix(state, "23")
}

// Unreachable tells an error of the connection or the whole server from one about a table.
func (r *Replica) Unreachable(err error) bool {
	state := postgres.State(err)
	switch state {
	case "":
		return postgres.Broken(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
	default:
		switch state[:2] {
		case "08", "53", "57", "58", "25": // connection, resources, shutdown, system, read-only
			return true
		}
		return false
	}
}
