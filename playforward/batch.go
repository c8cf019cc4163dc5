package playforward

import (
	"fmt"
	"slices"
	"strings"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/message"
)

// batch is what one transaction applies.
type batch struct {
	events []event
	bytes  int
	cut    bool                   // more could have been taken in
	state  map[string]*tableState // of the tables that were applied
}

// tableState is what has to be known of a table as a whole, beside its partitions' marks: a truncation has no key, so it may come in any partition.
type tableState struct {
	newest, truncated  mark
	events, incomplete int64
}

func newBatch() *batch { return &batch{state: map[string]*tableState{}} }

// behind is the read point behind the first events: of each partition that they touch the next offset, and its mark.
func (b *batch) behind(applied int) (next map[*lane]int64, marks map[*lane]mark) {
	next, marks = map[*lane]int64{}, map[*lane]mark{}
	for i := range b.events[:applied] {
		e := &b.events[i]
		next[e.lane], marks[e.lane] = e.lane.next(), e.mark
	}
	for i := len(b.events) - 1; i >= applied; i-- {
		next[b.events[i].lane] = b.events[i].offset
	}
	return next, marks
}

// kind is what becomes of a row.
type kind int

const (
	patch  kind = iota // some of its columns are set, where it is there
	upsert             // it is there with these columns
	remove             // it is gone
	rename             // it goes on under another key
)

// change is what becomes of one row.
type change struct {
	kind  kind
	key   message.Key
	old   message.Key // of a rename: the key before
	fresh bool        // it was deleted before: what the event does not set is not what it was
	names []string    // of the columns set, by the source, sorted; the key's are among them
	of    map[string][]byte
}

// rowsOf is what becomes of rows of one table, by key.
type rowsOf struct {
	table *target
	by    []string // the key's columns
	rows  map[string]*change
	order []*change
	// incomplete counts updates of rows that were deleted before.
	incomplete int64
}

func newRows(t *target, by []string) *rowsOf {
	return &rowsOf{table: t, by: by, rows: map[string]*change{}}
}

// add puts a later change on top of what is there.
func (r *rowsOf) add(c *change) {
	id := c.key.ID()
	was, ok := r.rows[id]
	switch {
	case !ok:
		r.rows[id] = c
		r.order = append(r.order, c)
		return
	case c.kind == upsert:
		c.fresh = c.fresh || was.fresh || was.kind == remove
		*was = *c
	case c.kind == remove:
		*was = *c
	case was.kind == remove: // an update of what is gone
		r.incomplete++
	default:
		for name, v := range c.of {
			was.of[name] = v
		}
		was.names = sortedNames(was.of)
	}
}

func sortedNames(of map[string][]byte) []string {
	names := make([]string, 0, len(of))
	for n := range of {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// groups are changes of a kind that set the same columns.
func (r *rowsOf) groups(k kind) [][]*change {
	by := make(map[string][]*change)
	var ids []string
	for _, c := range r.order {
		if c.kind != k {
			continue
		}
		id := strings.Join(c.names, "\x00")
		if by[id] == nil {
			ids = append(ids, id)
		}
		by[id] = append(by[id], c)
	}
	out := make([][]*change, len(ids))
	for i, id := range ids {
		out[i] = by[id]
	}
	return out
}

// changes turns an event into what becomes of its row, or rows.
func (a *Applier) changes(e *event, by []string) ([]*change, error) {
	switch e.Op {
	case debezium.Delete:
		row := e.Key
		if !hasAll(row, by) {
			row = e.Before
		}
		key, err := e.table.key(row, by)
		if err != nil {
			return nil, err
		}
		if to, err := e.table.key(e.NewKey, by); e.NewKey.Present() && err == nil && e.table.large(by) {
			return []*change{{kind: rename, key: to, old: key}}, nil
		}
		return []*change{{kind: remove, key: key}}, nil
	default:
		return a.written(e, by)
	}
}

// written is what becomes of a row that the event holds.
func (a *Applier) written(e *event, by []string) ([]*change, error) {
	key, err := e.table.key(e.After, by)
	if err != nil {
		return nil, err
	}
	c := &change{kind: upsert, key: key, of: map[string][]byte{}}
	for _, name := range e.After.Columns() {
		column := e.table.writable(name)
		if column == nil {
			if known := e.table.columns[name]; known == nil || known.cast == "" && !slices.Contains(e.table.exclude, name) {
				a.warn("lacks "+e.table.name.String()+" "+name, "the replica lacks a column that events have: it is left out", "table", e.table.name.String(), "column", name)
			}
			continue
		}
		v, _, err := e.After.Value(name, column.typ)
		if err != nil {
			return nil, err
		}
		if v.Unavailable {
			c.kind = patch
			continue
		}
		if v.Text == nil && column.unmarked && (e.Op == debezium.Update || e.OldKey.Present()) {
			a.warn("unmarked "+e.table.name.String()+" "+name, "an update brought NULL for a column of a type in which Debezium can't say that a large value was left alone: the full pass at the end tells "+
				"whether it was (have the connector reselect such values: io.debezium.processors.reselect.ReselectColumnsPostProcessor)", "table", e.table.name.String(), "column", name)
		}
		c.of[name] = v.Text
	}
	a.absent(e, c)
	c.names = sortedNames(c.of)
	out := []*change{c}
	if c.kind == patch {
		if old, err := e.table.key(e.OldKey, by); e.OldKey.Present() && err == nil {
			out = []*change{{kind: rename, key: key, old: old}, c}
		}
	}
	if e.Op == debezium.Update && hasAll(e.Before, by) {
		if old, err := e.table.key(e.Before, by); err == nil && !old.Equal(key) {
			out = []*change{{kind: rename, key: key, old: old}, c}
		}
	}
	return out, nil
}

// absent warns of columns that no event brings.
func (a *Applier) absent(e *event, c *change) {
	if c.kind != upsert || len(c.of) >= len(e.table.columns) {
		return
	}
	for name := range e.table.columns {
		if _, ok := c.of[name]; !ok && e.table.writable(name) != nil {
			a.warn("without "+e.table.name.String()+" "+name, "events do not have a column of the replica: it is left as it is (Debezium leaves out types that it does not know, unless include.unknown.datatypes=true)",
				"table", e.table.name.String(), "column", name)
		}
	}
}

func hasAll(row debezium.Row, by []string) bool {
	return row.Present() && !slices.ContainsFunc(by, func(name string) bool { return !row.Has(name) })
}

// key reads the key's columns.
func (t *target) key(row debezium.Row, by []string) (message.Key, error) {
	if !hasAll(row, by) {
		return nil, errNoKey
	}
	key := make(message.Key, len(by))
	for i, name := range by {
		column := t.columns[name]
		if column == nil {
			return nil, errNoKey
		}
		v, _, err := row.Value(name, column.typ)
		switch {
		case err != nil:
			return nil, err
		case v.Text == nil:
			return nil, fmt.Errorf("column %q: %w", name, errNoKey)
		}
		key[i] = string(v.Text)
	}
	return key, nil
}

// by picks the key's columns for an event.
func (e *event) by() []string {
	return e.table.keyFor(e.Key.Columns())
}

// note is what a table knows once the event is applied.
func (s *tableState) note(e *event) {
	s.events++
	if e.Snapshot() || e.At == (debezium.Place{}) {
		return
	}
	s.newest = s.newest.with(e.At, e.Time)
	if e.Op == debezium.Truncate {
		s.truncated = s.truncated.with(e.At, e.Time)
	}
}

// state is what is known of a table, with what the batch adds to it.
func (a *Applier) stateOf(b *batch, name string) *tableState {
	if s, ok := b.state[name]; ok {
		return s
	}
	s := &tableState{}
	if was, ok := a.state[name]; ok {
		s.newest, s.truncated = was.newest, was.truncated
	}
	b.state[name] = s
	return s
}

// emptied tells that a truncation that came after the event is carried out already: the event was sent again, or comes late.
func (s *tableState) emptied(e *event) bool {
	return !e.Snapshot() && e.At != (debezium.Place{}) && !s.truncated.none() && e.At.Compare(s.truncated.at) < 0 && !e.Time.After(s.truncated.time)
}

// truncates tells whether a truncation is to be carried out, which it is not a second time. One that comes after changes that were made after it can't be.
func (s *tableState) truncates(e *event) (bool, error) {
	switch {
	case e.At == debezium.Place{}:
		return true, nil
	case !s.truncated.none() && !e.Time.After(s.truncated.time) && e.At.Compare(s.truncated.at) <= 0:
		return false, nil
	case !s.newest.after(e.At, e.Time):
		return false, errLate
	}
	return true, nil
}
