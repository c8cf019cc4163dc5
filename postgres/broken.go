package postgres

import (
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// rollbackBound is how long the end of a transaction that is not needed any more may take.
const rollbackBound = 5 * time.Second

// broken tells an error of the connection itself.
func broken(err error) bool {
	var network net.Error
	var connect *pgconn.ConnectError
	return pgconn.SafeToRetry(err) || errors.As(err, &network) || errors.As(err, &connect) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
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
