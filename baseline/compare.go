package baseline

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// Against is a database that a table of a set is compared with.
type Against struct {
	Pool   *pgxpool.Pool
	Layout *postgres.Layout // of the table there
	Rules  postgres.Rules
	// Timeline is that of the source's history: there a row's version tells whether it was written since. 0: it is a replica, whose versions tell nothing, or not known.
	Timeline uint32
	// Since tells whether CDC has delivered a change of a key since the set's position; nil: nobody knows.
	Since func(k message.Key) bool
}

// Compared is what holding an object against the rows that a database has in its range came to.
type Compared struct {
	// Agrees: as many rows with the same sum are there, by the database's own digests.
	Agrees bool
	// Proven: the database has digested the object's own rows, and they have the thumbprint that the manifest says.
	Proven bool
	// Since are rows that differ because they were written since; Gone are rows that only the object has, of which the source shows no trace; Other have no excuse.
	Since, Gone, Other []Differing
}

// Differing is a row that is not alike on both sides.
type Differing struct {
	Key  message.Key
	Kind string
}

// Kinds of differing rows.
const (
	OnlyInSet   = "only in the set"
	OnlyThere   = "not in the set"
	NotTheSame  = "not the same"
	scratchName = "trickle_verify"
)

// ReadOnlyError is about a server that has no room for a temporary table, so that only ranges which agree can be told.
type ReadOnlyError struct {
	Table string
	Err   error
}

func (e *ReadOnlyError) Error() string {
	return fmt.Sprintf("table %s: ranges differ, and which rows do can't be told here, since that takes a temporary table: use a server that takes writes, and a login with the right TEMPORARY: %s", e.Table, e.Err)
}

func (e *ReadOnlyError) Unwrap() error { return e.Err }

// Compare holds an object against the rows that a database has in its range. Where they differ the object's rows are loaded into a temporary table there, which is gone when
// it returns, and digested by the database itself. Rows without the thumbprint that the manifest says are a *CorruptError.
func (s *Store) Compare(ctx context.Context, m *Manifest, t *Table, o *Object, a Against) (out Compared, err error) {
	err = pgx.BeginTxFunc(ctx, a.Pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		c := tx.Conn().PgConn()
		if err := a.Layout.Share(ctx, c); err != nil {
			return err
		}
		there, err := a.Layout.Thumbprint(ctx, c, o.Range, nil, t.Digest)
		if err != nil {
			return err
		}
		if out.Agrees = there == (digest.Thumbprint{Rows: o.Rows, Sum: o.Sum}); out.Agrees {
			return nil
		}
		scratch, err := a.scratch(ctx, c, t)
		if err != nil {
			return err
		}
		if err := s.fill(ctx, c, m, objectOf{t, o, scratch}); err != nil {
			return err
		}
		out.Proven = true
		if err := a.rows(ctx, c, objectOf{t, o, scratch}, &out); err != nil {
			return err
		}
		return errUndo
	})
	if errors.Is(err, errUndo) {
		err = nil
	}
	return out, err
}

// errUndo rolls back.
var errUndo = errors.New("undo")

// objectOf is an object, and the temporary table that it is loaded into.
type objectOf struct {
	t       *Table
	o       *Object
	scratch *postgres.Layout
}

// scratch makes a temporary table like the one that is compared.
func (a Against) scratch(ctx context.Context, c *pgconn.PgConn, t *Table) (*postgres.Layout, error) {
	sql := "CREATE TEMPORARY TABLE " + scratchName + " (LIKE " + a.Layout.Name.SQL() + " INCLUDING GENERATED INCLUDING INDEXES) ON COMMIT DROP"
	for i, col := range a.Layout.Columns {
		if col.NotNull && !a.Layout.Keyed(i) { // columns that the set leaves out stay empty
			sql += "; ALTER TABLE " + scratchName + " ALTER COLUMN " + postgres.Quote(col.Name) + " DROP NOT NULL"
		}
	}
	if err := c.Exec(ctx, sql).Close(); err != nil {
		if state := postgres.State(err); state == "25006" || state == "42501" {
			return nil, &ReadOnlyError{t.Table, err}
		}
		return nil, fmt.Errorf("making a temporary table like %s: %w", a.Layout.Name, err)
	}
	schema := c.ExecParams(ctx, "SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()", nil, nil, nil, nil).Read()
	if schema.Err != nil || len(schema.Rows) == 0 {
		return nil, fmt.Errorf("finding the temporary table: %w", schema.Err)
	}
	described, err := postgres.Describe(ctx, c, postgres.Name{Schema: string(schema.Rows[0][0]), Table: scratchName})
	if err != nil {
		return nil, err
	}
	return postgres.Fit(described, t.Schema.Wire(), a.Rules)
}

// fill loads an object and has the database digest it.
func (s *Store) fill(ctx context.Context, c *pgconn.PgConn, m *Manifest, of objectOf) error {
	content, err := s.Open(ctx, m, of.t, of.o)
	if err != nil {
		return err
	}
	defer content.Close()
	var declared []string
	for _, col := range of.t.Schema.Columns {
		if col.Exported {
			declared = append(declared, col.Declared)
		}
	}
	load := of.scratch.NewLoading(postgres.Stream{Columns: of.t.Schema.Exported(), Binary: of.t.Binary}, declared)
	print, err := load.Load(ctx, c, of.o.Range, of.t.Digest, content)
	if err != nil {
		return fmt.Errorf("loading %s: %w", of.o.Name, err)
	}
	if want := (digest.Thumbprint{Rows: of.o.Rows, Sum: of.o.Sum}); print != want {
		return corrupt(of.o.Name, "its rows come to %d with sum %d and the manifest of set %s says %d with sum %d", print.Rows, print.Sum, m.Set, want.Rows, want.Sum)
	}
	return nil
}

// rows tells which rows differ and which of them have an excuse.
func (a Against) rows(ctx context.Context, c *pgconn.PgConn, of objectOf, out *Compared) error {
	want := postgres.Want{Digest: of.t.Digest, Settled: postgres.Settled{Xmin: of.o.Xmin}}
	ours, err := of.scratch.Range(ctx, c, message.Range{}, 0, want)
	if err != nil {
		return err
	}
	theirs, err := a.Layout.Range(ctx, c, of.o.Range, 0, want)
	if err != nil {
		return err
	}
	versions := a.Timeline != 0 && a.Timeline == of.o.Timeline
	in := make(map[string]*postgres.Row, len(ours.Rows))
	for i := range ours.Rows {
		in[ours.Rows[i].Key.ID()] = &ours.Rows[i]
	}
	for _, r := range theirs.Rows {
		own, there := in[r.Key.ID()]
		delete(in, r.Key.ID())
		if there && own.Digest == r.Digest {
			continue
		}
		d := Differing{r.Key, OnlyThere}
		if there {
			d.Kind = NotTheSame
		}
		if versions && !r.Settled || a.Since != nil && a.Since(r.Key) {
			out.Since = append(out.Since, d)
		} else {
			out.Other = append(out.Other, d)
		}
	}
	for _, r := range ours.Rows { // in key order
		if _, left := in[r.Key.ID()]; !left {
			continue
		}
		d := Differing{r.Key, OnlyInSet}
		switch {
		case a.Since != nil && a.Since(r.Key):
			out.Since = append(out.Since, d)
		case versions:
			out.Gone = append(out.Gone, d)
		default:
			out.Other = append(out.Other, d)
		}
	}
	return nil
}
