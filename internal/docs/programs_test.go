package docs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed/child"
)

const (
	glance = 3 * time.Second  // how long one looks at a command that goes on
	ready  = 20 * time.Second // for a command to serve
)

// tools are the programs that a session stands in for.
func tools() []string {
	return []string{"trickle", "trickle-consumer", "make", "go", "initdb", "pg_ctl", "docker", "helm", "kubectl", "systemctl",
		"kafka-topics.sh", "kafka-acls.sh", "kafka-configs.sh", "kafka-consumer-groups.sh"}
}

// do carries out what a block calls.
func (s *session) do(ctx context.Context, c call) answer {
	switch c.Tool {
	case "trickle", "trickle-consumer":
		return s.ours(ctx, c)
	case "make":
		// What it would do is what other tests do; here it must exist and be called in a way that make understands.
		return s.real(ctx, "make", call{Args: append([]string{"-n", "-C", root}, c.Args...)})
	case "go":
		return s.golang(ctx, c)
	case "initdb", "pg_ctl":
		return s.server(ctx, c)
	case "kafka-topics.sh", "kafka-acls.sh", "kafka-configs.sh", "kafka-consumer-groups.sh":
		return kafkaTool(ctx, c)
	default:
		return s.elsewhere(ctx, c)
	}
}

// real runs a program that is here, in the test's own folder unless the call has one.
func (s *session) real(ctx context.Context, program string, c call) answer {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, c.Args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.Dir, environment(c), &stdout, &stderr
	err := cmd.Run()
	a := answer{Stdout: stdout.String(), Stderr: stderr.String()}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		a.Code = exit.ExitCode()
	case err != nil:
		return failed("%s: %v", program, err)
	}
	return a
}

// golang looks whether what is to be run or tested is there.
func (s *session) golang(ctx context.Context, c call) answer {
	if len(c.Args) < 2 || c.Args[0] != "run" && c.Args[0] != "test" {
		return failed("go %s: nothing stands in for that yet", strings.Join(c.Args, " "))
	}
	for _, a := range c.Args[1:] {
		if strings.HasPrefix(a, "./") {
			return s.real(ctx, "go", call{Args: []string{"list", a}, Dir: root})
		}
	}
	return failed("go %s names no package", strings.Join(c.Args, " "))
}

// environment is that of the block, without what makes this binary a stand-in.
func environment(c call) []string {
	if c.Env == nil {
		return os.Environ()
	}
	return slices.DeleteFunc(slices.Clone(c.Env), func(e string) bool { return strings.HasPrefix(e, toolVariable+"=") })
}

// ours runs one of our commands: to its end; in the background, if it is one that serves; for a moment, if it goes on printing.
func (s *session) ours(ctx context.Context, c call) answer {
	binary := filepath.Join(os.Getenv(binaries), c.Tool)
	has := func(flag string) bool { return slices.Contains(c.Args, flag) }
	switch {
	case has("--help"):
	case len(c.Args) > 0 && c.Args[0] == "run":
		return s.daemon(ctx, binary, c)
	case has("--watch"), has("--follow"), len(c.Args) > 0 && c.Args[0] == "tap" && !has("--from-start"):
		return s.watch(binary, c)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var a answer
	if s.typed == "" {
		a = s.real(ctx, binary, c)
	} else {
		a = s.atTerminal(ctx, binary, c)
	}
	if a.Code == 1 && s.found {
		a.Code = 0
	}
	return a
}

// atTerminal runs a command at a terminal, as one that asks wants one, and types the answer.
func (s *session) atTerminal(ctx context.Context, binary string, c call) answer {
	line := []string{"printf", "'%s\\n'", quote(s.typed), "|", "script", "--quiet", "--return", "--command"}
	words := []string{quote(binary)}
	for _, a := range c.Args {
		words = append(words, quote(a))
	}
	line = append(line, quote(strings.Join(words, " ")), "/dev/null")
	return s.real(ctx, "bash", call{Args: []string{"-c", strings.Join(line, " ")}, Env: c.Env, Dir: c.Dir})
}

// quote makes one word of it for the shell.
func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

// daemon starts a command that serves, in the place of the one that a block before had started, and returns once it does serve.
func (s *session) daemon(ctx context.Context, binary string, c call) answer {
	if err := s.stop(c.Tool); err != nil {
		return failed("ending the %s of a block before: %v", c.Tool, err)
	}
	port := s.ports[2]
	if c.Tool == "trickle-consumer" {
		port = s.ports[3]
	}
	address := fmt.Sprint("127.0.0.1:", port)
	args := c.Args
	if !slices.Contains(args, "--listen") {
		args = append(slices.Clone(args), "--listen", address)
	}
	d := &daemon{log: filepath.Join(s.home, fmt.Sprintf("%s-%d.log", c.Tool, time.Now().UnixNano()))}
	log, err := os.Create(d.log)
	if err != nil {
		return failed("%v", err)
	}
	defer log.Close()
	cmd := exec.Command(binary, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.Dir, environment(c), log, log
	if d.process, err = child.Start(c.Tool, cmd, syscall.SIGTERM); err != nil {
		return failed("%v", err)
	}
	s.mu.Lock()
	s.running[c.Tool] = d
	s.mu.Unlock()
	err = await(ctx, ready, func() error { return serving(ctx, address, d.process) })
	if err != nil {
		return failed("%s does not serve: %v\n%s", c.Tool, err, d.tail())
	}
	return answer{}
}

// serving asks a command's status port. One that has ended is not waited for by asking on: the port may be another's.
func serving(ctx context.Context, address string, p *child.Process) error {
	select {
	case <-p.Done():
		return fmt.Errorf("it has ended: %w", p.Err())
	default:
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/startupz", http.NoBody)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	reply, err := client.Do(request)
	if err != nil {
		return err
	}
	if reply.Body.Close(); reply.StatusCode != http.StatusOK {
		return errors.New(reply.Status)
	}
	return nil
}

// watch looks at a command for a moment and interrupts it.
func (s *session) watch(binary string, c call) answer {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(binary, c.Args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.Dir, environment(c), &stdout, &stderr
	p, err := child.Start(c.Tool, cmd, syscall.SIGTERM)
	if err != nil {
		return failed("%v", err)
	}
	select {
	case <-p.Done():
	case <-time.After(glance):
		if err := p.Signal(syscall.SIGINT); err != nil {
			return failed("%v", err)
		}
	}
	select {
	case <-p.Done():
	case <-time.After(stopping):
		return failed("%s does not end by Ctrl-C: %v", c.Tool, p.Kill())
	}
	a := answer{Stdout: stdout.String(), Stderr: stderr.String()}
	var exit *exec.ExitError
	if err := p.Err(); errors.As(err, &exit) && exit.ExitCode() != 130 {
		a.Code = max(1, exit.ExitCode())
	}
	return a
}

// prepareServers makes the folder in which a document makes its own servers one that their account can use.
func (s *session) prepareServers() {
	s.t.Helper()
	// Postgres does not run as root, nor in a folder that its account can't enter; and a socket's path has to be short.
	dir, err := os.MkdirTemp("/tmp", "trickle-docs-")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s.home = dir
	if os.Geteuid() != 0 {
		return
	}
	if out, err := exec.CommandContext(s.t.Context(), "chown", "postgres", dir).CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
}

// server runs initdb and pg_ctl as an account that they accept.
func (s *session) server(ctx context.Context, c call) answer {
	program := filepath.Join(s.rig.postgres, c.Tool)
	if os.Geteuid() != 0 {
		return s.real(ctx, program, c)
	}
	c.Dir = s.home
	args := append([]string{"-u", "postgres", "--", program}, c.Args...)
	// A server that pg_ctl starts keeps its output open, for which nobody should wait.
	if c.Tool == "pg_ctl" {
		args = []string{"-u", "postgres", "--", "sh", "-c", `exec "$0" "$@" >/dev/null 2>&1`, program}
		args = append(args, c.Args...)
	}
	return s.real(ctx, "runuser", call{Args: args, Env: c.Env, Dir: c.Dir})
}

// stopServers ends servers that the document's own end has not.
func (s *session) stopServers() {
	for _, side := range []string{"source", "replica"} {
		if dir := filepath.Join(s.home, "shop-"+side); exists(filepath.Join(dir, "postmaster.pid")) {
			ctx, cancel := context.WithTimeout(context.Background(), stopping)
			s.server(ctx, call{Tool: "pg_ctl", Args: []string{"-D", dir, "-m", "immediate", "-w", "stop"}})
			cancel()
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
