package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/postgres"
)

const digestRecord = digest.Record

// begin makes the database ready and records the restore, in one transaction: whoever is killed before it commits has written nothing, and who is killed afterwards has
// something to go on with.
func (r *Restorer) begin(ctx context.Context, m *baseline.Manifest, p *Plan) (*entry.Restore, error) {
	tables, _ := r.tables(m)
	out := entry.Restore{ID: r.o.NewID(), Set: m.Set, Source: m.Source, State: entry.RestoreLoading, Arguments: r.o.Arguments}
	err := pgx.BeginTxFunc(ctx, r.Pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		s := &survey{restorer: r, m: m, plan: p, tx: tx}
		var err error
		if s.open, err = r.Ledger.OpenRestore(ctx); err != nil {
			return err
		}
		if err := r.empty(ctx, s, tables); err != nil {
			return err
		}
		for _, t := range tables {
			if t.created, err = r.make(ctx, s, t); err != nil {
				return err
			}
		}
		if err := s.refused(); err != nil {
			return err
		}
		var ranges []entry.RestoredRange
		for _, t := range tables {
			out.Tables = append(out.Tables, entry.RestoredTable{Table: t.Table.Table, Replica: t.to.Name.String(), Created: t.created})
			for _, o := range t.Objects {
				ranges = append(ranges, entry.RestoredRange{N: len(ranges), Table: t.Table.Table, Object: o.Name, Rows: int64(o.Rows), Bytes: o.Bytes})
			}
		}
		out.Ranges = len(ranges)
		return r.Ledger.BeginRestore(ctx, tx, out, ranges)
	})
	var refused *RefusedError
	if errors.As(err, &refused) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("making the replica ready for set %s, of which nothing was written: %w", m.Set, err)
	}
	if slices.ContainsFunc(tables, func(t *table) bool { return t.created && len(t.Definition.Extensions) > 0 }) {
		r.Pool.Reset() // a connection finds the operators of those extensions that were there when it was opened
	}
	return &out, nil
}

// empty removes what is in the way: rows, where Replace allows it, and tables that an earlier restore left half-made.
func (r *Restorer) empty(ctx context.Context, s *survey, tables []*table) error {
	var truncate []string
	for _, t := range tables {
		kind := ""
		err := s.tx.QueryRow(ctx, "SELECT relkind::text FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass($1)", t.to.Name.SQL()).Scan(&kind)
		if errors.Is(err, pgx.ErrNoRows) {
			continue
		}
		if err != nil {
			return err
		}
		if s.half(t) && r.o.Replace {
			if _, err := s.tx.Exec(ctx, "DROP TABLE "+t.to.Name.SQL()); err != nil {
				return fmt.Errorf("dropping %s, which the restore of set %s has left half-made: %w", t.to.Name, s.open.Set, err)
			}
			continue
		}
		from := t.to.Name.SQL()
		if t.partitioned = kind == "p"; !t.partitioned {
			from = "ONLY " + from
		}
		some := false
		if err := s.tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+from+")").Scan(&some); err != nil {
			return err
		}
		switch {
		case some && r.o.Replace:
			truncate = append(truncate, from)
			if err := s.spare(ctx, t, from); err != nil {
				return err
			}
		case some:
			s.fault(t.to.Name.String(), "rows came into it just now: stop what writes to it")
		}
	}
	if len(truncate) == 0 {
		return s.refused()
	}
	if _, err := s.tx.Exec(ctx, "TRUNCATE "+strings.Join(truncate, ", ")); err != nil { // never CASCADE
		return fmt.Errorf("emptying %s: %w", strings.Join(truncate, ", "), err)
	}
	return s.refused()
}

// spare refuses to empty a table that holds rows which are none of the pipeline's.
func (s *survey) spare(ctx context.Context, t *table, from string) error {
	where := cmp.Or(t.to.Rules.ReplicaWhere, t.to.Rules.Where)
	if where == "" || s.half(t) {
		return nil
	}
	others := false
	if err := s.tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+from+" t WHERE ("+where+") IS NOT TRUE)").Scan(&others); err != nil {
		return fmt.Errorf("looking for rows of %s that the policy's condition leaves out: %w", t.to.Name, err)
	}
	if others {
		s.fault(t.to.Name.String(), "it holds rows that do not meet the policy's condition (%s), so they are not this pipeline's, and emptying it would take them away: delete the rows that do yourself, and put the others aside for the restore", where)
	}
	return nil
}

// make makes a table that is missing, and fits any. Made is false where it was there.
func (r *Restorer) make(ctx context.Context, s *survey, t *table) (made bool, err error) {
	c := s.tx.Conn().PgConn()
	var there bool
	if err := s.tx.QueryRow(ctx, "SELECT pg_catalog.to_regclass($1) IS NOT NULL", t.to.Name.SQL()).Scan(&there); err != nil {
		return false, err
	}
	if there {
		return false, s.fits(ctx, t)
	}
	if err := t.Definition.Make(ctx, c, t.to.place()); err != nil {
		var other *postgres.OtherTypeError
		if errors.As(err, &other) {
			s.fault(t.to.Name.String(), "%s", other)
			return true, s.refused() // what was to be made after it may not be makeable
		}
		return true, err
	}
	if t.layout, err = unkeyed(ctx, s.tx, t); err != nil {
		return true, err
	}
	return true, s.comparable(ctx, t)
}

// unkeyed lays out a table that the restore has made, which gets its key behind its rows.
func unkeyed(ctx context.Context, tx pgx.Tx, t *table) (*postgres.Layout, error) {
	key := make([]string, len(t.Schema.Key))
	for i, column := range t.Schema.Key {
		key[i] = column
		if there, ok := t.to.Rules.Rename[column]; ok {
			key[i] = there
		}
	}
	found, err := postgres.DescribeUnkeyed(ctx, tx.Conn().PgConn(), t.to.Name, key)
	if err != nil {
		return nil, err
	}
	return postgres.Fit(found, t.Schema.Wire(), t.to.Rules)
}
