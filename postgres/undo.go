package postgres

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/message"
)

// Journalled lays a table out for what a journal holds of its rows: whole images of them, under a key of these columns.
func Journalled(t *Table, key []string) (*Layout, error) {
	columns := make([]int, len(key))
	for i, name := range key {
		if columns[i] = t.column(name); columns[i] < 0 {
			return nil, fmt.Errorf("table %s has no column %q any more, which was part of the key: %w", t.Name, name, ErrChanged)
		}
	}
	sorted := slices.Sorted(slices.Values(columns))
	if !slices.ContainsFunc(t.keys, func(own []int) bool { return slices.Equal(slices.Sorted(slices.Values(own)), sorted) }) {
		return nil, fmt.Errorf("table %s has no unique index over (%s) any more: %w", t.Name, strings.Join(key, ", "), ErrChanged)
	}
	fitted := *t
	fitted.Key = columns
	l := &Layout{Table: &fitted}
	l.compared = l.all()
	return l, nil
}

// Standing is a row as it is now, as the journal would have it.
type Standing struct {
	N       int // index of its key
	JSON    string
	Version uint64
}

// Hold is what becomes of rows that are looked at.
type Hold string

const (
	// Look leaves them alone.
	Look Hold = ""
	// Keep locks them until the transaction ends.
	Keep Hold = " FOR UPDATE OF t"
)

// Standing reads the rows of these keys that are there.
func (l *Layout) Standing(ctx context.Context, c *pgconn.PgConn, keys []message.Key, hold Hold) (rows []Standing, err error) {
	if err := l.checkKeys(keys...); err != nil {
		return nil, err
	}
	p := &params{}
	from, on := l.unnest(p, keys)
	err = each(ctx, c, "SELECT v.n, ("+l.jsonOf(l.all())+")::text, t.xmin::text FROM "+from+" JOIN "+l.rows()+" t ON "+on+string(hold), p.args, func(row [][]byte) error {
		n, err := strconv.Atoi(string(row[0]))
		if err != nil {
			return fmt.Errorf("reading a position: %w", err)
		}
		version, err := strconv.ParseUint(string(row[2]), 10, 64)
		rows = append(rows, Standing{N: n - 1, JSON: string(row[1]), Version: version})
		return err
	})
	return rows, err
}

// inImage is a column's value in the image w.b, as the column's own type.
func (l *Layout) inImage(column int) string {
	_, info := l.base(l.Columns[column].oid)
	return "pg_catalog.jsonb_extract_path_text(w.b, " + Literal(l.Columns[column].Name) + ")::" + info.sql()
}

// columnsOf finds columns by their names.
func (l *Layout) columnsOf(names []string) ([]int, error) {
	out := make([]int, len(names))
	for i, name := range names {
		if out[i] = l.column(name); out[i] < 0 {
			return nil, fmt.Errorf("table %s has no column %q any more: %w", l.Name, name, ErrChanged)
		}
	}
	return out, nil
}

// PutBack inserts a row by its image; names are the image's columns. It returns how many rows that made, 0 where a trigger keeps it out.
func (l *Layout) PutBack(ctx context.Context, c *pgconn.PgConn, names []string, image string) (int, error) {
	columns, err := l.columnsOf(names)
	if err != nil {
		return 0, err
	}
	var into, values []string
	for _, i := range columns {
		if !l.Columns[i].Generated {
			into, values = append(into, Quote(l.Columns[i].Name)), append(values, l.inImage(i))
		}
	}
	r := c.ExecParams(ctx, "INSERT INTO "+l.Name.SQL()+" ("+strings.Join(into, ", ")+") OVERRIDING SYSTEM VALUE SELECT "+strings.Join(values, ", ")+" FROM (SELECT $1::jsonb AS b) w",
		[]Arg{text(image)}, nil, nil, nil).Read()
	return int(r.CommandTag.RowsAffected()), r.Err
}

// SetBack gives these columns of a row that the caller has locked the values that an image has of them.
func (l *Layout) SetBack(ctx context.Context, c *pgconn.PgConn, key message.Key, image Imaged) (int, error) {
	columns, err := l.columnsOf(image.Columns)
	if err != nil {
		return 0, err
	}
	p := &params{}
	from, on := l.unnest(p, []message.Key{key})
	b := p.add(text(image.JSON))
	var set []string
	for _, i := range columns {
		if !l.Columns[i].Generated {
			set = append(set, Quote(l.Columns[i].Name)+" = "+l.inImage(i))
		}
	}
	if len(set) == 0 {
		return 0, fmt.Errorf("table %s: only generated columns differ (%s), which can't be written: %w", l.Name, strings.Join(image.Columns, ", "), ErrChanged)
	}
	r := c.ExecParams(ctx, "UPDATE "+l.rows()+" t SET "+strings.Join(set, ", ")+" FROM "+from+", (SELECT "+b+"::jsonb AS b) w WHERE "+on, p.args, nil, nil, nil).Read()
	return int(r.CommandTag.RowsAffected()), r.Err
}

// Imaged is a part of an image.
type Imaged struct {
	Columns []string
	JSON    string
}

// Settable reports whether an update can give all of these columns a value.
func (l *Layout) Settable(names []string) bool {
	return !slices.ContainsFunc(names, func(name string) bool {
		i := l.column(name)
		return i >= 0 && l.Columns[i].IdentityAlways
	})
}

// Written leaves out of columns' names those that Postgres makes by itself.
func (l *Layout) Written(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		i := l.column(name)
		return i >= 0 && l.Columns[i].Generated
	})
}

// TakeAway deletes the rows of these keys, which the caller has locked.
func (l *Layout) TakeAway(ctx context.Context, c *pgconn.PgConn, keys []message.Key) (int, error) {
	targets := make([]Target, len(keys))
	for i, k := range keys {
		targets[i].Key = k
	}
	return l.Delete(ctx, c, targets)
}

// UndoCopy runs the statement that a journal has for taking back a copy, once it has made sure that it is one of that kind, over this table and the copy's version. It
// returns how many rows went, and names a foreign key that would have deleted or changed rows of another table with them, in which case none did.
func UndoCopy(ctx context.Context, c *pgconn.PgConn, t *Table, w CopyUndo) (rows int, key string, err error) {
	l := &Layout{Table: t}
	head, tail := "DELETE FROM ", writtenBy(w.Version)
	if !strings.HasPrefix(w.Statement, head+l.rows()+" t WHERE ") || !strings.HasSuffix(w.Statement, tail) {
		return 0, "", fmt.Errorf("the statement of the journal is not one that deletes what a copy wrote into %s: %w", t.Name, ErrChanged)
	}
	if w.Triggers {
		acts, err := l.acting(ctx, c)
		if err != nil {
			return 0, "", err
		}
		for _, k := range acts {
			found := false
			err := each(ctx, c, "SELECT EXISTS (SELECT FROM "+strings.TrimPrefix(w.Statement, head)+" AND EXISTS (SELECT FROM "+k.table+" f WHERE "+k.pairs()+"))", nil, func(row [][]byte) error {
				found = isTrue(row[0])
				return nil
			})
			if err != nil {
				return 0, "", fmt.Errorf("looking for rows of %s that refer to %s: %w", k.table, t.Name, err)
			}
			if found {
				return 0, k.name + " of " + k.table, nil
			}
		}
	}
	r := c.ExecParams(ctx, w.Statement, nil, nil, nil, nil).Read()
	return int(r.CommandTag.RowsAffected()), "", r.Err
}

// CopyUndo is what a journal has for taking back a copy.
type CopyUndo struct {
	Statement string
	Version   uint64
	Triggers  bool // foreign keys act on what is deleted
}
