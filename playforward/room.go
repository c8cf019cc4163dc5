package playforward

import (
	"context"
	"slices"
	"strings"

	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// takenError is that a row has what another row wants for itself alone.
type takenError struct {
	table *target
	err   error
}

func (e *takenError) Error() string { return e.err.Error() }

func (e *takenError) Unwrap() error { return e.err }

// taken tells such errors of a table from others.
func taken(t *target, err error) error {
	switch postgres.State(err) {
	case "23505", "23P01":
		return &takenError{t, err}
	}
	return err
}

// anew tells whether a table's rows may be deleted to be written again: not where rows of others would be deleted or changed with them.
func (a *Applier) anew(t *target) bool {
	return t.acting == "" || a.options.Rules().Detect.SessionReplicationRole == "replica"
}

// makeRoom has rows that are there let go of what they hold before any of them takes what it is to have, as rows that hand a unique value on can't be set one by one. It is one statement, since rows of
// others may refer to them: they are deleted, and inserted with what the events set and, of all that the events leave out, what they had. The sort keeps the first insert behind the last delete.
func (w *writer) makeRoom(ctx context.Context, r *rowsOf) error {
	var changes []*change
	var keys []message.Key
	at := map[string]int{} // of a column that is set: its place among them
	var set []*column
	for _, c := range r.order {
		if c.kind == remove || c.fresh {
			continue
		}
		changes, keys = append(changes, c), append(keys, c.key)
		for _, name := range c.names {
			column := r.table.columns[name]
			if _, seen := at[column.name]; !seen && !slices.Contains(r.by, name) && !column.always {
				at[column.name] = len(set)
				set = append(set, column)
			}
		}
	}
	if len(changes) == 0 {
		return nil
	}
	// Keys, then the values, then whether they are set.
	k := len(r.by)
	values := make([][][]byte, k+2*len(set))
	for n := range values {
		values[n] = make([][]byte, len(changes))
	}
	on := make([]string, k)
	for n, name := range r.by {
		on[n] = r.table.equals(name, "w."+slot(n))
		for i, key := range keys {
			values[n][i] = []byte(key[n])
		}
	}
	for n, column := range set {
		for i, c := range changes {
			v, is := c.of[column.source]
			values[k+n][i], values[k+len(set)+n][i] = v, []byte("f")
			if is {
				values[k+len(set)+n][i] = []byte("t")
			}
		}
	}
	names, of := make([]string, len(r.table.all)), make([]string, len(r.table.all))
	for i, name := range r.table.all {
		names[i] = postgres.Quote(name)
		of[i] = "gone." + names[i]
		if n, is := at[name]; is {
			of[i] = "CASE WHEN gone." + slot(k+len(set)+n) + "::bool THEN gone." + slot(k+n) + "::" + set[n].cast + " ELSE " + of[i] + " END"
		}
	}
	var args [][]byte
	from := unnest(&args, values)
	_, err := w.exec(ctx, "WITH gone AS (DELETE FROM "+r.table.rows()+" t USING "+from+" WHERE "+strings.Join(on, " AND ")+" RETURNING t."+strings.Join(names, ", t.")+", w.*) "+
		"INSERT INTO "+r.table.name.SQL()+" ("+strings.Join(names, ", ")+") OVERRIDING SYSTEM VALUE SELECT "+strings.Join(of, ", ")+` FROM gone ORDER BY gone."trickle n"`, args)
	return err
}
