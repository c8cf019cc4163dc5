// Package diff compares tables of two databases directly, in one pass, with no queue between them and nothing installed on either.
//
// It decides how a table is read (along the key where the heap follows it and both sides sort keys alike, else in the heap's order with sums by a
// hash of the key), which parts are looked at row by row, and which rows differ. What always holds: each side is read as it was at one moment; every row of both sides is in
// exactly one sum, so counts are exact; memory does not grow with the tables or with what differs; with a settling time a row counts only if CDC had that
// long to bring it and the replica's row stood still. It writes nothing itself: a Fixer does, under the detector's protocol. When a connection is lost the
// table is compared anew, unless something was already reported or fixed; then, and on any other error, the result says what was compared so far.
package diff

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// Table is what is compared with what. Rules go by the source's column names.
type Table struct {
	Source, Replica postgres.Name
	Rules           postgres.Rules
}

// Result is what comparing one table came to, or what it had come to when it failed.
type Result struct {
	Table                      Table
	Rows                       int64 // of the source
	Missing, Mismatched, Extra int64
	// Unsettled rows differed and kept changing while they were looked at: nothing can be said of them.
	Unsettled int64
	Fixed     int64
	// Unfixed tells why rows that were to be fixed were not: reason, rows.
	Unfixed map[string]int64
	Way     postgres.Way
	Digest  digest.Kind
	// Notes are what a person should know: columns that only one side has, and those of which not all is seen.
	Notes []string
	Took  time.Duration
}

// Differences is how many rows differ.
func (r *Result) Differences() int64 { return r.Missing + r.Mismatched + r.Extra }

func (r *Result) count(kind drift.Kind, n int64) {
	switch kind {
	case drift.Missing:
		r.Missing += n
	case drift.Mismatched:
		r.Mismatched += n
	case drift.Extra:
		r.Extra += n
	}
}

// Difference is one row that differs.
type Difference struct {
	Kind drift.Kind
	Key  []Field
	// Columns are those that differ, of a mismatched row.
	Columns []Column
}

// Field is one column of a key.
type Field struct{ Name, Value string }

// Column is a column that differs, in text form; nil is NULL.
type Column struct {
	Name            string
	Source, Replica []byte
}

// Fixer corrects rows by key: it observes and refetches them itself, whatever was found before.
type Fixer interface {
	Fix(ctx context.Context, t Table, rows []Wrong) (Fixed, error)
}

// Wrong is a row that differs: its key, in the source's words where the source has it, and what was wrong when it was compared.
type Wrong struct {
	Key  message.Key
	Kind drift.Kind
}

// Fixed is what a Fixer did with the rows that it was given.
type Fixed struct {
	Rows    int
	Unfixed map[string]int64 // reason: rows
}

// Options of a Differ.
type Options struct {
	// Jobs is how many connections read on each side, where the server has them; at least one.
	Jobs int
	// Settle is how long CDC may take to bring a change; what differs is looked at again after it. Zero: at once.
	Settle time.Duration
	// Found is told each difference, one call at a time; nil: they are only counted.
	Found func(Table, Difference) error
	// List tells whether Found still wants differences; asked before each batch, and never while Found is called.
	List func() bool
	// Fixer corrects what differs; nil: nothing is written.
	Fixer Fixer
	// Progress shows how far it is; may be nil.
	Progress *Progress
}

// Differ compares tables of two databases.
type Differ struct {
	source, replica *pgxpool.Pool
	opts            Options
	// lost: the table before was given up for a lost connection, so that the next is tried only once.
	lost bool
}

// New compares through the pools, which stay the caller's and allow Jobs+2 connections each.
func New(source, replica *pgxpool.Pool, o Options) *Differ {
	o.Jobs = max(o.Jobs, 1)
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	if o.Found == nil {
		o.List = func() bool { return false }
	} else if o.List == nil {
		o.List = func() bool { return true }
	}
	return &Differ{source: source, replica: replica, opts: o}
}

// attempts bounds how often a table is begun.
const attempts = 3

// Table compares one table; one at a time. The result holds what was compared, also with an error.
func (d *Differ) Table(ctx context.Context, t Table) (Result, error) {
	began := time.Now()
	best := Result{Table: t} // of the attempts that failed
	for n := 1; ; n++ {
		c := &comparison{differ: d, result: Result{Table: t}}
		err := c.run(ctx)
		c.result.Took = time.Since(began)
		if err == nil || c.result.Rows >= best.Rows {
			best = c.result
		}
		if err != nil && ctx.Err() != nil {
			return best, ctx.Err() // and not what the server said to being stopped
		}
		if err == nil {
			d.lost = false
			return best, nil
		}
		changed := n == 1 && errors.Is(err, postgres.ErrChanged) // a change of its shape is over soon, and then it is described anew
		if c.reported || !changed && !postgres.Passing(err) {
			return c.result, explain(err, t)
		}
		if n == attempts || d.lost {
			d.lost = true
			return best, explain(err, t)
		}
		select {
		case <-time.After(time.Second): // a server that restarts is back soon
		case <-ctx.Done():
			return best, ctx.Err()
		}
	}
}

// explain adds the next step to errors that have one.
func explain(err error, t Table) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, postgres.ErrChanged) {
		return fmt.Errorf("%w: somebody changes table %s or its partitions while it is read; run it again when that is over", err, t.Source)
	}
	switch postgres.State(err) {
	case "42501":
		return fmt.Errorf("%w: GRANT USAGE ON SCHEMA and SELECT ON the table to this user (with row-level security, BYPASSRLS too), or leave the table out", err)
	case "57014":
		return fmt.Errorf("%w: raise statement_timeout for this user (ALTER ROLE … SET statement_timeout = 0) or in the DSN (options=-c%%20statement_timeout%%3D0), on the side that it names", err)
	case "53300":
		return fmt.Errorf("%w: raise max_connections or this user's CONNECTION LIMIT there, or lower --jobs; two connections are enough to compare and list", err)
	case "22021":
		return fmt.Errorf("%w: the database's encoding is SQL_ASCII and a key is not UTF-8, so the other side can't be asked for it; compare without --fix and with --settle 0, or load it into a database of the encoding that the text has", err)
	case "25P03", "25P04":
		return fmt.Errorf("%w: raise idle_in_transaction_session_timeout or transaction_timeout for this user; a table is read in one transaction", err)
	case "55P03":
		return fmt.Errorf("%w: somebody holds a lock on it (ALTER TABLE, TRUNCATE, VACUUM FULL); try again when that is over", err)
	}
	if state := postgres.State(err); (len(t.Rules.Compare) > 0 || t.Rules.Where != "") && len(state) == 5 && (state[:2] == "22" || state[:2] == "42") {
		return fmt.Errorf("%w: check where, replica_where and columns.compare of %s in the policy: each must be SQL that both sides take, and a type that every value can be cast to", err, t.Source)
	}
	if postgres.Passing(err) {
		return fmt.Errorf("%w: table %s was given up; run it again when both servers can be reached", err, t.Source)
	}
	return err
}
