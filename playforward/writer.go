package playforward

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// writer applies some events in order, each table's in as few statements as it can.
type writer struct {
	a         *Applier
	c         *pgconn.PgConn
	b         *batch
	pending   map[*target]*rowsOf
	truncated map[*target]bool
	room      map[*target]bool // whose rows are written anew
}

func (w *writer) run(ctx context.Context, events []event) error {
	for i := range events {
		if err := w.take(ctx, &events[i]); err != nil {
			return err
		}
	}
	tables := make([]*target, 0, len(w.pending))
	for t := range w.truncated {
		tables = append(tables, t)
	}
	if err := w.truncate(ctx, tables); err != nil {
		return err
	}
	tables = tables[:0]
	for t := range w.pending {
		tables = append(tables, t)
	}
	tables = ordered(tables)
	for _, t := range slices.Backward(tables) {
		if err := w.removals(ctx, w.pending[t]); err != nil {
			return err
		}
	}
	for _, t := range tables {
		if err := w.settings(ctx, w.pending[t]); err != nil {
			return err
		}
	}
	return nil
}

// take puts one event on top of what is pending.
func (w *writer) take(ctx context.Context, e *event) error {
	t := e.table
	if err := t.usable(); err != nil {
		return err
	}
	state := w.a.stateOf(w.b, e.Table.String())
	if e.Op == debezium.Truncate {
		yes, err := state.truncates(e)
		if err != nil {
			return err
		}
		if yes {
			delete(w.pending, t) // whatever it was
			w.truncated[t] = true
		}
		state.note(e)
		return nil
	}
	if state.emptied(e) {
		return nil
	}
	by := e.by()
	changes, err := w.a.changes(e, by)
	if err != nil {
		return err
	}
	rows := w.pending[t]
	if rows != nil && !slices.Equal(rows.by, by) {
		if err := w.flush(ctx, t); err != nil {
			return err
		}
		rows = nil
	}
	if rows == nil {
		rows = newRows(t, by)
		w.pending[t] = rows
	}
	for _, c := range changes {
		if c.kind != rename {
			rows.add(c)
			continue
		}
		if err := w.rename(ctx, e, c); err != nil {
			return err
		}
		if rows = w.pending[t]; rows == nil {
			rows = newRows(t, by)
			w.pending[t] = rows
		}
	}
	state.note(e)
	return nil
}

// flush writes what is pending for one table.
func (w *writer) flush(ctx context.Context, t *target) error {
	if w.truncated[t] {
		if err := w.truncate(ctx, []*target{t}); err != nil {
			return err
		}
		delete(w.truncated, t)
	}
	rows := w.pending[t]
	if rows == nil {
		return nil
	}
	delete(w.pending, t)
	return errors.Join(w.removals(ctx, rows), w.settings(ctx, rows))
}

// truncate empties tables, those that refer to one another together. Where others refer to them, and nobody said that they are to go, rows are deleted as any other.
func (w *writer) truncate(ctx context.Context, tables []*target) error {
	if len(tables) == 0 {
		return nil
	}
	// Rows that do not meet the policy's condition are none of the pipeline's.
	var names []string
	for _, t := range slices.Backward(ordered(tables)) {
		if t.where == "" {
			names = append(names, t.rows())
		} else if err := w.c.Exec(ctx, "DELETE FROM "+t.rows()+" t WHERE ("+t.where+")").Close(); err != nil {
			return err
		}
	}
	slices.Reverse(names)
	if len(names) == 0 {
		return nil
	}
	if err := w.c.Exec(ctx, "SAVEPOINT truncation; TRUNCATE "+strings.Join(names, ", ")).Close(); err == nil {
		return w.c.Exec(ctx, "RELEASE SAVEPOINT truncation").Close()
	} else if hopeless(ctx, err) {
		return err
	}
	if err := w.c.Exec(ctx, "ROLLBACK TO SAVEPOINT truncation; RELEASE SAVEPOINT truncation").Close(); err != nil {
		return err
	}
	for _, name := range slices.Backward(names) {
		if err := w.c.Exec(ctx, "DELETE FROM "+name).Close(); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) exec(ctx context.Context, sql string, args [][]byte) (int64, error) {
	r := w.c.ExecParams(ctx, sql, args, nil, nil, nil).Read()
	return r.CommandTag.RowsAffected(), r.Err
}

// keyed makes keys a table w of text columns, and the condition that a row t has one of them.
func (r *rowsOf) keyed(args *[][]byte, keys []message.Key) (from, on string) {
	values := make([][][]byte, len(r.by))
	conds := make([]string, len(r.by))
	for n, name := range r.by {
		values[n] = make([][]byte, len(keys))
		for i, k := range keys {
			values[n][i] = []byte(k[n])
		}
		conds[n] = r.table.equals(name, "w."+slot(n))
	}
	return unnest(args, values), strings.Join(conds, " AND ")
}

// equals is the condition that a column of t is a text.
func (t *target) equals(name, text string) string {
	c := t.columns[name]
	return "t." + postgres.Quote(c.name) + " " + c.operator + " " + text + "::" + c.cast
}

// removals deletes rows that are gone, and those that are others by now.
func (w *writer) removals(ctx context.Context, r *rowsOf) error {
	var keys []message.Key
	for _, c := range r.order {
		if c.kind == remove || c.fresh {
			keys = append(keys, c.key)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	var args [][]byte
	from, on := r.keyed(&args, keys)
	_, err := w.exec(ctx, "DELETE FROM "+r.table.rows()+" t USING "+from+" WHERE "+on, args)
	return err
}

// settings writes rows that are there.
func (w *writer) settings(ctx context.Context, r *rowsOf) error {
	state := w.a.stateOf(w.b, r.table.source.String())
	state.incomplete += r.incomplete
	if w.room[r.table] {
		if err := w.makeRoom(ctx, r); err != nil {
			return taken(r.table, err)
		}
	}
	for _, group := range r.groups(patch) {
		found, err := w.patch(ctx, r, group)
		if err != nil {
			return taken(r.table, err)
		}
		state.incomplete += int64(len(group)) - found
	}
	for _, group := range r.groups(upsert) {
		if err := w.upsert(ctx, r, group); err != nil {
			return taken(r.table, err)
		}
	}
	return w.confine(ctx, r)
}

func valuesOf(group []*change) [][][]byte {
	values := make([][][]byte, len(group[0].names))
	for n, name := range group[0].names {
		values[n] = make([][]byte, len(group))
		for i, c := range group {
			values[n][i] = c.of[name]
		}
	}
	return values
}

// patch sets columns of rows that are there, and says how many those are.
func (w *writer) patch(ctx context.Context, r *rowsOf, group []*change) (found int64, err error) {
	names := group[0].names
	var conds, set []string
	for n, name := range names {
		c := r.table.columns[name]
		switch {
		case slices.Contains(r.by, name):
			conds = append(conds, r.table.equals(name, "w."+slot(n)))
		case !c.always:
			set = append(set, postgres.Quote(c.name)+" = w."+slot(n)+"::"+c.cast)
		}
	}
	if len(set) == 0 {
		return int64(len(group)), nil
	}
	var args [][]byte
	from := unnest(&args, valuesOf(group))
	return w.exec(ctx, "UPDATE "+r.table.rows()+" t SET "+strings.Join(set, ", ")+" FROM "+from+" WHERE "+strings.Join(conds, " AND "), args)
}

// upsert inserts rows, or makes those that are there what they shall be.
func (w *writer) upsert(ctx context.Context, r *rowsOf, group []*change) error {
	names := group[0].names
	var into, casts, key, set []string
	for n, name := range names {
		c := r.table.columns[name]
		quoted := postgres.Quote(c.name)
		into, casts = append(into, quoted), append(casts, "w."+slot(n)+"::"+c.cast)
		if !slices.Contains(r.by, name) && !c.always {
			set = append(set, quoted+" = excluded."+quoted)
		}
	}
	for _, name := range r.by {
		key = append(key, postgres.Quote(r.table.columns[name].name))
	}
	action := "NOTHING"
	if len(set) > 0 {
		action = "UPDATE SET " + strings.Join(set, ", ")
	}
	var args [][]byte
	from := unnest(&args, valuesOf(group))
	_, err := w.exec(ctx, "INSERT INTO "+r.table.name.SQL()+" ("+strings.Join(into, ", ")+") OVERRIDING SYSTEM VALUE SELECT "+strings.Join(casts, ", ")+" FROM "+from+
		` ORDER BY w."trickle n" ON CONFLICT (`+strings.Join(key, ", ")+") DO "+action, args)
	return err
}

// confine takes away rows that do not meet the policy's condition: what is restored and played is what is verified.
func (w *writer) confine(ctx context.Context, r *rowsOf) error {
	if r.table.where == "" {
		return nil
	}
	var keys []message.Key
	for _, c := range r.order {
		if c.kind != remove {
			keys = append(keys, c.key)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	var args [][]byte
	from, on := r.keyed(&args, keys)
	_, err := w.exec(ctx, "DELETE FROM "+r.table.rows()+" t USING "+from+" WHERE "+on+" AND ("+r.table.where+") IS NOT TRUE", args)
	return err
}

// rename has a row go on under another key, with all that the events leave out. What was pending is written before.
func (w *writer) rename(ctx context.Context, e *event, c *change) error {
	r := &rowsOf{table: e.table, by: e.by()}
	// If changes that came after it are applied, either key may be another row's by now.
	late := !w.a.stateOf(w.b, e.Table.String()).newest.after(e.At, e.Time)
	if late && e.Op == debezium.Create {
		return nil
	}
	if err := w.flush(ctx, e.table); err != nil {
		return err
	}
	moved := int64(0)
	if !late && !slices.ContainsFunc(r.by, func(name string) bool { return r.table.columns[name].always || r.table.columns[name].generated }) {
		var err error
		if moved, err = w.move(ctx, r, c); err != nil {
			return err
		}
	}
	if moved > 0 || e.Op == debezium.Create {
		return nil
	}
	var args [][]byte
	from, on := r.keyed(&args, []message.Key{c.old})
	_, err := w.exec(ctx, "DELETE FROM "+r.table.rows()+" t USING "+from+" WHERE "+on, args)
	return err
}

// move changes a row's key, unless there is a row of that key.
func (w *writer) move(ctx context.Context, r *rowsOf, c *change) (int64, error) {
	var args [][]byte
	var set, is, taken []string
	for n, name := range r.by {
		column := r.table.columns[name]
		args = append(args, []byte(c.key[n]))
		to := "$" + strconv.Itoa(len(args)) + "::text"
		args = append(args, []byte(c.old[n]))
		was := "$" + strconv.Itoa(len(args)) + "::text"
		set = append(set, postgres.Quote(column.name)+" = "+to+"::"+column.cast)
		is = append(is, r.table.equals(name, was))
		taken = append(taken, r.table.equals(name, to))
	}
	return w.exec(ctx, "UPDATE "+r.table.rows()+" t SET "+strings.Join(set, ", ")+" WHERE "+strings.Join(is, " AND ")+
		" AND NOT EXISTS (SELECT FROM "+r.table.rows()+" t WHERE "+strings.Join(taken, " AND ")+")", args)
}
