package postgres

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
)

// awayError is that a server is there and can't be used now, in words.
type awayError struct{ error }

// Away reports that an error is about a server that can't be reached, or not now: one that waiting may cure.
func Away(err error) bool {
	var (
		away *awayError
		dial *net.OpError
		dns  *net.DNSError
	)
	switch {
	case errors.As(err, &away), errors.As(err, &dns), errors.Is(err, context.DeadlineExceeded), errors.Is(err, io.ErrUnexpectedEOF):
		return true
	case errors.As(err, &dial):
		return dial.Op != "remote error" && dial.Op != "local error" // those are TLS's
	}
	return passing(State(err))
}

// passing tells by its SQLSTATE what a server says of itself while it starts, ends, recovers, or is too busy to let somebody in.
func passing(state string) bool {
	switch state {
	case "57P01", "57P02", "57P03", "53300":
		return true
	}
	return strings.HasPrefix(state, "08")
}
