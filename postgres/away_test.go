package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/postgres"
)

func TestAway(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		away bool
	}{
		{nil, false},
		{errors.New("no table can be verified"), false},
		{&pgconn.PgError{Code: "28P01"}, false}, // a password
		{&pgconn.PgError{Code: "42501"}, false}, // a right
		{&pgconn.PgError{Code: "57P03"}, true},  // it starts
		{&pgconn.PgError{Code: "08006"}, true},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, true},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, true},
		{&net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")}, false},
		{&net.DNSError{Name: "source", IsNotFound: true}, true},
		{context.DeadlineExceeded, true},
		{context.Canceled, false},
		{io.ErrUnexpectedEOF, true},
	} {
		err := c.err
		if err != nil {
			err = fmt.Errorf("source: %w", err)
		}
		if got := postgres.Away(err); got != c.away {
			t.Errorf("%v: %t", c.err, got)
		}
	}
}
