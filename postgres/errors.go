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
