package docs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A stand-in is this test binary under the name of a program: it hands what it was called with to the session in the test's own process, which
// starts the real program, or does what the program would, and prints what comes back. So what a block starts is a child of the test, and ends with it.
const (
	toolVariable   = "TRICKLE_DOCS_TOOL"
	socketVariable = "TRICKLE_DOCS_SOCKET"
)

// call is one invocation of a program in a block.
type call struct {
	Tool string
	Args []string
	Env  []string
	Dir  string
}

// answer is what it printed, and how it ended.
type answer struct {
	Stdout string
	Stderr string
	Code   int
}

func failed(format string, args ...any) answer {
	return answer{Stderr: fmt.Sprintf(format, args...) + "\n", Code: 2}
}

// askServer is the client's side, in the process that the shell started. It returns the exit status.
func askServer(tool string) int {
	dir, err := os.Getwd()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	body, err := json.Marshal(call{Tool: tool, Args: os.Args[1:], Env: os.Environ(), Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", os.Getenv(socketVariable))
	}}}
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://session/", bytes.NewReader(body))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	reply, err := client.Do(request)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer reply.Body.Close()
	var a answer
	if err := json.NewDecoder(reply.Body).Decode(&a); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	_, _ = os.Stdout.WriteString(a.Stdout)
	_, _ = os.Stderr.WriteString(a.Stderr)
	return a.Code
}

// serve answers the stand-ins of a session until the test ends, and returns the socket.
func serve(t *testing.T, do func(context.Context, call) answer) string {
	t.Helper()
	// A socket's path has to be short.
	dir, err := os.MkdirTemp("", "trickle-docs-")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var c call
		a := answer{Code: 2}
		if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
			a.Stderr = err.Error()
		} else {
			a = do(r.Context(), c)
		}
		_ = json.NewEncoder(w).Encode(a) // who has gone needs no answer
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
		_ = os.RemoveAll(dir)
	})
	return socket
}

// standIns writes a program of each name into a folder, which goes onto the PATH.
func standIns(t *testing.T, names []string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range names {
		script := fmt.Sprintf("#!/bin/sh\n%s=%s exec %q \"$@\"\n", toolVariable, name, self)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
