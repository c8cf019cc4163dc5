package diff

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/postgres"
)

// side is one of the two tables.
type side struct {
	role     string
	pool     *pgxpool.Pool
	layout   *postgres.Layout
	snapshot *postgres.Snapshot
}

// on says which side an error is of.
func (s *side) on(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", s.role, err)
}

// borrow runs fn on a connection of its own, outside of the snapshot.
func (s *side) borrow(ctx context.Context, fn func(c *pgconn.PgConn) error) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connecting: %w", postgres.OneLine(err))
	}
	defer conn.Release()
	return fn(conn.Conn().PgConn())
}

// describe lays both tables out over the columns that both have, and finds the digest that both compute alike.
func (c *comparison) describe(ctx context.Context) error {
	t := c.result.Table
	var shapes [2]*postgres.Table
	err := c.both(ctx, func(ctx context.Context, s *side) error {
		i := c.index(s)
		return s.borrow(ctx, func(conn *pgconn.PgConn) (err error) {
			shapes[i], err = postgres.Describe(ctx, conn, [2]postgres.Name{t.Source, t.Replica}[i])
			return err
		})
	})
	if err != nil {
		return err
	}
	rules, err := c.common(shapes[0], shapes[1])
	if err != nil {
		return err
	}
	c.result.Table.Rules = rules
	source, replica := c.sides[0], c.sides[1]
	if source.layout, err = postgres.NewLayout(shapes[0], rules); err != nil {
		return source.on(err)
	}
	if replica.layout, err = postgres.Fit(shapes[1], source.layout.Schema, rules); err != nil {
		return replica.on(err)
	}
	var probes [2]uint64
	err = c.both(ctx, func(ctx context.Context, s *side) error {
		return s.borrow(ctx, func(conn *pgconn.PgConn) (err error) {
			if err := s.layout.Readable(ctx, conn); err != nil {
				return err
			}
			probes[c.index(s)], err = s.layout.Probe(ctx, conn)
			return err
		})
	})
	if err != nil {
		return err
	}
	c.kind = digest.Record
	if probes[0] != probes[1] {
		c.kind = digest.Portable
	}
	c.result.Digest = c.kind
	if hashed := source.layout.HashedJSON(); c.kind == digest.Record && len(hashed) > 0 {
		c.result.Notes = append(c.result.Notes, list(hashed)+": compared by Postgres's jsonb hash, which does not see a number's sign or where a nested value ends; --jsonb text does")
	}
	return nil
}

// common leaves out the columns that only one side has, and notes them.
func (c *comparison) common(source, replica *postgres.Table) (postgres.Rules, error) {
	rules := c.result.Table.Rules
	there := func(name string) string {
		if renamed, ok := rules.Rename[name]; ok {
			return renamed
		}
		return name
	}
	has := func(t *postgres.Table, name string) bool {
		return slices.ContainsFunc(t.Columns, func(c postgres.Column) bool { return c.Name == name })
	}
	known := make(map[string]bool)
	var alone []string
	compared := 0 // besides the key
	for i, column := range source.Columns {
		known[there(column.Name)] = true
		isKey := slices.Contains(source.Key, i)
		switch {
		case slices.Contains(rules.Exclude, column.Name):
		case has(replica, there(column.Name)):
			if !isKey {
				compared++
			}
		case isKey:
			return rules, &postgres.MismatchError{Table: replica.Name, Reason: fmt.Sprintf("the replica lacks column %q of the source's key: add it there, or name it in a policy under columns.rename", there(column.Name))}
		case rules.Rename[column.Name] != "":
			return rules, &postgres.MismatchError{Table: replica.Name, Reason: fmt.Sprintf("the replica lacks column %q, which the policy's columns.rename says is the source's %q: correct the name", there(column.Name), column.Name)}
		default:
			alone = append(alone, column.Name)
		}
	}
	if len(alone) > 0 {
		rules.Exclude = append(slices.Clone(rules.Exclude), alone...)
		c.result.Notes = append(c.result.Notes, fmt.Sprintf("not compared, only the source has them: %s", list(alone)))
		if compared == 0 {
			return rules, &postgres.MismatchError{Table: replica.Name, Reason: "the two have no column in common besides the key: check that it is the same table, or name the columns in a policy under columns.rename"}
		}
	}
	var extra []string
	for _, column := range replica.Columns {
		if !known[column.Name] {
			extra = append(extra, column.Name)
		}
	}
	if len(extra) > 0 {
		c.result.Notes = append(c.result.Notes, fmt.Sprintf("not compared, only the replica has them: %s", list(extra)))
	}
	return rules, nil
}

// list is names for a sentence, the first ten of them.
func list(names []string) string {
	const most = 10
	out := ""
	for i, n := range names {
		if i == most {
			return out + fmt.Sprintf(" and %d more", len(names)-most)
		}
		if i > 0 {
			out += ", "
		}
		out += n
	}
	return out
}
