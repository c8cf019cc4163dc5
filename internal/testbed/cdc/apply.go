package cdc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// applier writes events into the replica. Every value goes in as text and is cast to the column's type there, so it knows no types.
type applier struct {
	conn   *pgx.Conn
	rename func(string) string
	tables map[string]*table // by the source's name
}

// table is the replica's table.
type table struct {
	name  string            // quoted
	types map[string]string // of the columns that can be written
	fixed map[string]bool   // of those, GENERATED ALWAYS AS IDENTITY: Postgres lets them be inserted and never updated
	key   []string
}

// apply makes one transaction of the events. Applying them again, in order, ends the same.
func (a *applier) apply(ctx context.Context, events []Event) error {
	batch := &pgx.Batch{}
	for _, e := range events {
		if e.Op == Mark {
			continue
		}
		t, err := a.table(ctx, e.Table)
		if err != nil {
			return err
		}
		if err := t.queue(batch, e); err != nil {
			return fmt.Errorf("%s of %s at %s: %w", e.Op, e.Table, e.LSN, err)
		}
	}
	if batch.Len() == 0 {
		return nil
	}
	err := pgx.BeginFunc(ctx, a.conn, func(tx pgx.Tx) error { return tx.SendBatch(ctx, batch).Close() })
	if err != nil {
		return fmt.Errorf("apply %d events, the first from %s: %w", len(events), events[0].LSN, err)
	}
	return nil
}

// table looks a replica table up, once in a connection's life.
func (a *applier) table(ctx context.Context, source string) (*table, error) {
	if t, ok := a.tables[source]; ok {
		return t, nil
	}
	name := quoteTable(a.rename(source))
	var known bool
	if err := a.conn.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, name).Scan(&known); err != nil {
		return nil, err
	}
	if !known {
		return nil, fmt.Errorf("the replica has no table %s: create it", name)
	}
	t := &table{name: name, types: map[string]string{}, fixed: map[string]bool{}}
	rows, err := a.conn.Query(ctx, `SELECT attname, format_type(atttypid, atttypmod), attidentity = 'a' FROM pg_attribute
		WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''`, name)
	if err != nil {
		return nil, err
	}
	var column, kind string
	var fixed bool
	_, err = pgx.ForEachRow(rows, []any{&column, &kind, &fixed}, func() error {
		t.types[column], t.fixed[column] = kind, fixed
		return nil
	})
	if err != nil {
		return nil, err
	}
	// The primary key, else the smallest unique index over columns that are never NULL.
	rows, err = a.conn.Query(ctx, `SELECT attname FROM pg_attribute a JOIN (
			SELECT indrelid, indkey FROM pg_index i WHERE indrelid = $1::text::regclass AND indisunique AND indpred IS NULL AND indexprs IS NULL
			AND NOT EXISTS (SELECT FROM pg_attribute n WHERE n.attrelid = indrelid AND n.attnum = ANY (indkey) AND NOT n.attnotnull)
			ORDER BY indisprimary DESC, indnkeyatts, indexrelid LIMIT 1) i ON attrelid = indrelid AND attnum = ANY (indkey) ORDER BY attnum`, name)
	if err != nil {
		return nil, err
	}
	if t.key, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		return nil, err
	}
	if len(t.key) == 0 {
		return nil, fmt.Errorf("the replica's table %s has no primary key: add one", name)
	}
	a.tables[source] = t
	return t, nil
}

var errNoKey = errors.New("the event lacks a column of the replica's key: set REPLICA IDENTITY at the source")

func (t *table) queue(batch *pgx.Batch, e Event) error {
	switch e.Op {
	case Truncate:
		batch.Queue("DELETE FROM " + t.name) // a real TRUNCATE minds foreign keys
		return nil
	case Delete:
		return t.queueDelete(batch, e.Key)
	}
	row := Row{}
	for name, v := range e.Columns {
		if _, ok := t.types[name]; ok {
			row[name] = v
		}
	}
	switch {
	case e.OldKey != nil && e.Partial:
		return t.queueMove(batch, e.OldKey, row)
	case e.Partial:
		return t.queueUpdate(batch, row, row)
	case e.OldKey != nil:
		if err := t.queueDelete(batch, e.OldKey); err != nil {
			return err
		}
	}
	return t.queueUpsert(batch, row)
}

func (t *table) queueDelete(batch *pgx.Batch, key Row) error {
	q := &statement{table: t}
	where, err := q.where(key)
	if err == nil {
		batch.Queue("DELETE FROM "+t.name+" WHERE "+where, q.args...)
	}
	return err
}

// queueUpdate sets the row that has the key; without one it does nothing, for what was left out is not to be had.
func (t *table) queueUpdate(batch *pgx.Batch, key, row Row) error {
	q := &statement{table: t}
	var set []string
	for _, name := range slices.Sorted(maps.Keys(row)) {
		if t.fixed[name] || slices.Contains(t.key, name) && equal(Row{name: key[name]}, Row{name: row[name]}) {
			continue
		}
		set = append(set, quote(name)+" = "+q.value(name, row[name]))
	}
	if len(set) == 0 {
		return nil
	}
	where, err := q.where(key)
	if err == nil {
		batch.Queue("UPDATE "+t.name+" SET "+strings.Join(set, ", ")+" WHERE "+where, q.args...)
	}
	return err
}

// queueMove changes a key in place, to keep the large values that the event left out. When it comes again the old key is gone, and only
// the last statement does something.
func (t *table) queueMove(batch *pgx.Batch, old, row Row) error {
	q := &statement{table: t}
	target, err := q.where(row)
	if err != nil {
		return err
	}
	origin, err := q.where(old)
	if err != nil {
		return err
	}
	batch.Queue("DELETE FROM "+t.name+" WHERE "+target+" AND EXISTS (SELECT FROM "+t.name+" WHERE "+origin+")", q.args...)
	return errors.Join(t.queueUpdate(batch, old, row), t.queueUpdate(batch, row, row))
}

func (t *table) queueUpsert(batch *pgx.Batch, row Row) error {
	q := &statement{table: t}
	var names, values, set []string
	for _, name := range slices.Sorted(maps.Keys(row)) {
		names = append(names, quote(name))
		values = append(values, q.value(name, row[name]))
		if !t.fixed[name] && !slices.Contains(t.key, name) {
			set = append(set, quote(name)+" = EXCLUDED."+quote(name))
		}
	}
	var key []string
	for _, name := range t.key {
		if row[name] == nil {
			return errNoKey
		}
		key = append(key, quote(name))
	}
	action := "NOTHING"
	if len(set) > 0 {
		action = "UPDATE SET " + strings.Join(set, ", ")
	}
	batch.Queue("INSERT INTO "+t.name+" ("+strings.Join(names, ", ")+") OVERRIDING SYSTEM VALUE VALUES ("+strings.Join(values, ", ")+
		") ON CONFLICT ("+strings.Join(key, ", ")+") DO "+action, q.args...)
	return nil
}

// statement collects arguments.
type statement struct {
	table *table
	args  []any
}

// value adds an argument and returns its expression. The detour over text keeps pgx from looking for the type.
func (q *statement) value(column string, v *string) string {
	q.args = append(q.args, v)
	return fmt.Sprintf("$%d::text::%s", len(q.args), q.table.types[column])
}

func (q *statement) where(key Row) (string, error) {
	var conditions []string
	for _, name := range q.table.key {
		if key[name] == nil {
			return "", errNoKey
		}
		conditions = append(conditions, quote(name)+" = "+q.value(name, key[name]))
	}
	return strings.Join(conditions, " AND "), nil
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
