// Package loopback finds ports on 127.0.0.1 for servers.
//
// It decides from where: below the range that Linux and macOS give to outgoing connections. What always holds: a port was free when it was returned.
// Somebody may take it before the server does, so a start that fails on it is tried again on another. Out of that range because a server may be
// down for a while and come back: a client that keeps dialling a port of that range meanwhile may be given the very port as its own, connect to
// itself, and hold it.
package loopback

import (
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
)

const (
	lowest, highest = 10000, 32000
	attempts        = 100
	claims          = 5
)

// FreePort returns a port that nobody listens on.
func FreePort() (int, error) {
	for range attempts {
		if port := lowest + rand.IntN(highest-lowest); IsFree(port) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port on 127.0.0.1: %d ports between %d and %d were tried", attempts, lowest, highest)
}

// IsFree tells whether a server could listen there now.
func IsFree(port int) bool {
	l, err := net.Listen("tcp", Address(port))
	return err == nil && l.Close() == nil
}

// Claim calls start, which is to listen on the ports that it returns, and calls it again, some times, where it failed and somebody else has taken one of them meanwhile.
func Claim(start func() ([]int, error)) error {
	for attempt := 1; ; attempt++ {
		ports, err := start()
		if err == nil || attempt == claims || !slices.ContainsFunc(ports, func(port int) bool { return !IsFree(port) }) {
			return err
		}
	}
}

// Address is 127.0.0.1 with the port, as clients want it.
func Address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
