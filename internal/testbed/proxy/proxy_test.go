package proxy_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/trickle-verify/trickle/internal/testbed/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo returns the address of a server that sends everything back and ends when its client has ended.
func echo(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				io.Copy(conn, conn) //nolint:errcheck // the client looks at what came back
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		running.Wait()
	})
	return listener.Addr().String()
}

func start(t *testing.T, target string) *proxy.Proxy {
	t.Helper()
	p, err := proxy.Listen(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func dial(t *testing.T, p *proxy.Proxy) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// ping sends a byte and waits that long for it to come back.
func ping(conn net.Conn, patience time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte{1}); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

const patient = 10 * time.Second

func TestBytesPassWholeAndEndPasses(t *testing.T) {
	t.Parallel()
	conn := dial(t, start(t, echo(t)))
	sent := make([]byte, 3<<20)
	rand.Read(sent)
	var writing sync.WaitGroup
	writing.Go(func() {
		conn.Write(sent)                 //nolint:errcheck // what came back tells
		conn.(*net.TCPConn).CloseWrite() //nolint:errcheck // so does the end
	})
	got, err := io.ReadAll(conn)
	writing.Wait()
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came back as they were: %v", len(got), len(sent), err)
	}
}

func TestCutEndsConnectionsUntilRestore(t *testing.T) {
	t.Parallel()
	p := start(t, echo(t))
	before := dial(t, p)
	if err := ping(before, patient); err != nil {
		t.Fatal(err)
	}
	p.Cut()
	for name, conn := range map[string]net.Conn{"old": before, "new": dial(t, p)} {
		if err := ping(conn, patient); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the %s connection is not cut: %v", name, err)
		}
	}
	p.Restore()
	if err := ping(dial(t, p), patient); err != nil {
		t.Error(err)
	}
}

func TestStallHoldsBytesBackAndLosesNone(t *testing.T) {
	t.Parallel()
	p := start(t, echo(t))
	conn := dial(t, p)
	p.Stall()
	if err := ping(conn, 100*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a stalled link answered: %v", err)
	}
	p.Restore()
	if err := conn.SetDeadline(time.Now().Add(patient)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Errorf("what was held back is lost: %v", err)
	}
}

func TestDelay(t *testing.T) {
	t.Parallel()
	p := start(t, echo(t))
	conn := dial(t, p)
	const delay = 60 * time.Millisecond
	p.SetDelay(delay)
	began := time.Now()
	if err := ping(conn, patient); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 2*delay {
		t.Errorf("there and back took %v", took)
	}
}

func TestCloseEndsAStalledConnection(t *testing.T) {
	t.Parallel()
	p, err := proxy.Listen(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	conn := dial(t, p)
	p.Stall()
	if _, err := conn.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := ping(conn, patient); err == nil {
		t.Error("a closed proxy answers")
	}
}

func TestUnreachableTargetClosesTheClient(t *testing.T) {
	t.Parallel()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := gone.Addr().String()
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	if err := ping(dial(t, start(t, target)), patient); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the client is not closed: %v", err)
	}
}
