// Package proxy is a TCP link that can be made to fail.
//
// It decides nothing but when bytes pass: at once, late, not at all, or with the connection cut. What always holds: bytes that pass are
// whole and in order; Close ends every connection and waits for it. When the target can't be reached the client's connection is closed.
package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

const dialTimeout = 5 * time.Second

// Proxy forwards connections to one target.
type Proxy struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu     sync.Mutex
	state  state
	change chan struct{} // closed and replaced with every change of state
	open   map[net.Conn]struct{}
}

type state struct {
	cut, stalled, closed bool
	delay                time.Duration
}

// Listen starts to forward a free loopback port to a target, host:port.
func Listen(target string) (*Proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy for %s: %w", target, err)
	}
	p := &Proxy{listener: listener, target: target, change: make(chan struct{}), open: map[net.Conn]struct{}{}}
	p.running.Go(p.accept)
	return p, nil
}

// Address is where clients connect, host:port.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Cut closes every connection, and new ones as soon as they are made, until Restore.
func (p *Proxy) Cut() { p.set(func(s *state) { s.cut = true }) }

// Stall keeps connections open, new ones too, and lets nothing through until Restore: what a lost route looks like.
func (p *Proxy) Stall() { p.set(func(s *state) { s.stalled = true }) }

// Restore ends Cut, Stall and SetDelay.
func (p *Proxy) Restore() { p.set(func(s *state) { *s = state{closed: s.closed} }) }

// SetDelay holds up every piece of data, in both directions, for that long.
func (p *Proxy) SetDelay(d time.Duration) { p.set(func(s *state) { s.delay = d }) }

// Close ends every connection and stops to listen.
func (p *Proxy) Close() error {
	p.set(func(s *state) { s.closed = true })
	err := p.listener.Close()
	p.running.Wait()
	return err
}

func (p *Proxy) set(do func(*state)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do(&p.state)
	close(p.change)
	p.change = make(chan struct{})
	if p.state.cut || p.state.closed {
		for conn := range p.open {
			conn.Close()
		}
	}
}

func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		p.running.Go(func() { p.serve(conn) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	if !p.track(client) {
		return
	}
	defer p.forget(client)
	server, err := net.DialTimeout("tcp", p.target, dialTimeout)
	if err != nil {
		return
	}
	defer server.Close()
	if !p.track(server) {
		return
	}
	defer p.forget(server)
	var back sync.WaitGroup
	back.Go(func() { p.pipe(client, server) })
	p.pipe(server, client)
	back.Wait()
}

// track makes Cut and Close reach a connection; it is false when they have been called already.
func (p *Proxy) track(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.cut || p.state.closed {
		return false
	}
	p.open[conn] = struct{}{}
	return true
}

func (p *Proxy) forget(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, conn)
}

// pipe copies one direction to its end. An orderly end is passed on and leaves the other direction open; a failure ends both.
func (p *Proxy) pipe(to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if !p.pass(time.Now()) {
				err = net.ErrClosed
			} else if _, writeErr := to.Write(buffer[:n]); writeErr != nil {
				err = writeErr
			}
		}
		if errors.Is(err, io.EOF) {
			if tcp, ok := to.(*net.TCPConn); ok && tcp.CloseWrite() == nil {
				return
			}
		}
		if err != nil {
			to.Close()
			from.Close()
			return
		}
	}
}

// pass waits until data that came at a time may go on; it is false when the connection is to end.
func (p *Proxy) pass(came time.Time) bool {
	for {
		p.mu.Lock()
		s, change := p.state, p.change
		p.mu.Unlock()
		if s.cut || s.closed {
			return false
		}
		wait := time.Until(came.Add(s.delay))
		if !s.stalled && wait <= 0 {
			return true
		}
		if s.stalled {
			<-change
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-change:
		case <-timer.C:
		}
		timer.Stop()
	}
}
