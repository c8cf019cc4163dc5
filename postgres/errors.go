package postgres

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// State returns the SQLSTATE of a server's error, "" for any other.
func State(err error) string {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return server.Code
	}
	return ""
}

// Broken tells an error of the connection itself.
func Broken(err error) bool {
	var network net.Error
	var connect *pgconn.ConnectError
	return pgconn.SafeToRetry(err) || errors.As(err, &network) || errors.As(err, &connect) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// Passing tells an error that a later try may not meet: the connection broke, the server restarts or is full, or a standby had to cancel the query.
func Passing(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	state := State(err)
	if state == "" {
		return Broken(err)
	}
	switch state[:2] {
	case "08", "53":
		return true
	}
	// Shutdown, crash and start.
	return Conflict(err) || state == "57P01" || state == "57P02" || state == "57P03"
}

// Conflict tells that a standby cancelled a query because it was in the way of what is replayed: a row that it might want was vacuumed on the primary, a table
// locked there, a buffer or a lock waited for by both. What only reads meets neither state otherwise, but for the victim of a deadlock of locks.
func Conflict(err error) bool {
	state := State(err)
	return state == "40001" || state == "40P01"
}

// OneLine takes the server's address and the list of tries, each on a line of its own, off pgx's error about connecting.
func OneLine(err error) error {
	var connect *pgconn.ConnectError
	if !errors.As(err, &connect) {
		return err
	}
	inner := connect.Unwrap()
	var server *pgconn.PgError
	var dial *net.OpError
	switch {
	case errors.As(inner, &server):
		return server
	case errors.As(inner, &dial):
		return dial
	case inner == nil || strings.Contains(inner.Error(), "\n"):
		return err
	}
	return inner
}

// Guarded is an error without what a server's message may quote of a row: the message itself only of those classes that name nothing but objects.
func Guarded(err error) error {
	var server *pgconn.PgError
	if !errors.As(err, &server) {
		return OneLine(err)
	}
	switch server.Code[:min(2, len(server.Code))] {
	case "23", "40", "42", "53", "55", "57": // constraints, transactions, names and rights, resources, states of objects, operators
		return &QuietError{Text: server.Message, err: err}
	}
	about := ""
	for _, part := range []struct{ what, name string }{{"column", server.ColumnName}, {"constraint", server.ConstraintName}, {"type", server.DataTypeName}, {"table", server.TableName}} {
		if part.name != "" {
			about += ", " + part.what + " " + part.name
		}
	}
	return &QuietError{Text: "the replica's server refuses it, and its message may quote the row, so it stands in the server's log only" + about, err: err}
}

// QuietError says less than what it wraps.
type QuietError struct {
	Text string
	err  error
}

func (e *QuietError) Error() string { return e.Text + " (SQLSTATE " + State(e.err) + ")" }

// Unwrap is the whole error.
func (e *QuietError) Unwrap() error { return e.err }
