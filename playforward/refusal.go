package playforward

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/transport"
)

// errLate is about a truncation that turned up behind changes that were made after it.
var errLate = errors.New("the table was truncated before changes that were applied already: its topic has several partitions, and this one came late; resync the table: trickle-consumer resync --table …, then set its read point behind this event")

// RowError is an event that the replica does not take. The read point stays before it.
type RowError struct {
	Table     postgres.Name // as the source calls it
	Key       string        // as the policy's privacy lets it be shown
	Partition transport.Partition
	Offset    int64
	Column    string // that is at fault, where that is known
	Err       error

	acting string // why rows could not be written anew
}

func (e *RowError) Error() string {
	what := fmt.Sprintf("table %s, key %s (%s, offset %d)", e.Table, e.Key, e.Partition, e.Offset)
	if e.Key == "" {
		what = fmt.Sprintf("table %s (%s, offset %d)", e.Table, e.Partition, e.Offset)
	}
	if e.Column != "" {
		what += fmt.Sprintf(", column %q", e.Column)
	}
	return what + ": " + e.reason()
}

// Unwrap returns what the server, or the decoder, said.
func (e *RowError) Unwrap() error { return e.Err }

// reason says what is wrong without values, which the server's own words may hold, and what to do.
func (e *RowError) reason() string {
	var server *pgconn.PgError
	if !errors.As(e.Err, &server) {
		return e.Err.Error()
	}
	const again = "; then play forward again: it goes on at this event"
	switch {
	case server.Code == "23503":
		return fmt.Sprintf("foreign key %s of the replica refuses it (%s): see that the table it refers to is played as well, or drop it until the replica has caught up, or set detect.session_replication_role: replica%s",
			server.ConstraintName, server.Code, again)
	case (server.Code == "23505" || server.Code == "23P01") && e.acting != "":
		return fmt.Sprintf("another row of the replica has what %s wants to be unique (%s), and rows that hand it on can't be written anew, as foreign key %s acts on rows of others then (ON DELETE): "+
			"drop either until the replica has caught up, or set detect.session_replication_role: replica%s", server.ConstraintName, server.Code, e.acting, again)
	case server.Code == "23505" || server.Code == "23P01":
		return fmt.Sprintf("another row of the replica has what %s wants to be unique (%s): drop it until the replica has caught up%s", server.ConstraintName, server.Code, again)
	case server.Code == "23502":
		return fmt.Sprintf("column %q must not be NULL in the replica, and the event has none (%s): give it a default, or drop NOT NULL%s", server.ColumnName, server.Code, again)
	case server.Code == "23514":
		return fmt.Sprintf("constraint %s of the replica refuses it (%s): drop it%s", server.ConstraintName, server.Code, again)
	case server.Code == "42501":
		return fmt.Sprintf("%s (%s): GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE on the table%s", server.Message, server.Code, again)
	case strings.HasPrefix(server.Code, "22"):
		return fmt.Sprintf("the replica's type does not take its value (%s): change the type to the source's, or exclude the column (columns.exclude)%s", server.Code, again)
	default:
		return fmt.Sprintf("%s (%s)%s", server.Message, server.Code, again)
	}
}

// waits tells errors that another event may cure, which is in another partition and has yet to come.
func (e *RowError) waits() bool { return constraint(e.Err) }

// constraint tells that a row does not go with others.
func constraint(err error) bool {
	switch postgres.State(err) {
	case "23503", "23505", "23P01", "21000":
		return true
	}
	return false
}

// refusal names the event that an error is about.
func (a *Applier) refusal(ctx context.Context, c *pgconn.PgConn, e *event, err error) error {
	out := &RowError{Table: e.Table, Partition: e.lane.at, Offset: e.offset, Err: err}
	if len(e.table.keys) > 0 && e.Op != debezium.Truncate {
		row := e.After
		if !row.Present() {
			row = e.Key
		}
		if key, err := e.table.key(row, e.by()); err == nil {
			out.Key = a.options.Rules().Privacy.Key(key.String())
		}
	}
	if !a.anew(e.table) {
		out.acting = e.table.acting
	}
	if strings.HasPrefix(postgres.State(err), "22") {
		out.Column = a.culprit(ctx, c, e)
	}
	return out
}

// culprit finds the column whose type does not take its value.
func (a *Applier) culprit(ctx context.Context, c *pgconn.PgConn, e *event) string {
	for _, name := range e.After.Columns() {
		column := e.table.writable(name)
		if column == nil {
			continue
		}
		v, _, err := e.After.Value(name, column.typ)
		if err != nil {
			return name
		}
		if v.Text == nil {
			continue
		}
		if c.Exec(ctx, "SAVEPOINT culprit").Close() != nil {
			return ""
		}
		r := c.ExecParams(ctx, "SELECT $1::text::"+column.cast, [][]byte{v.Text}, nil, nil, nil).Read()
		if c.Exec(ctx, "ROLLBACK TO SAVEPOINT culprit; RELEASE SAVEPOINT culprit").Close() != nil {
			return ""
		}
		if r.Err != nil {
			return column.name
		}
	}
	return ""
}
