package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed/output"
	"github.com/trickle-verify/trickle/ledger"
)

const (
	patience  = 90 * time.Second  // for what must happen by itself
	shortRun  = 120 * time.Second // for a command that ends by itself
	graceful  = 30 * time.Second  // for a process that was asked to end
	pollEvery = 100 * time.Millisecond
)

// command is one of ours, or pgbench.
type command struct {
	program string
	args    []string
	env     []string
	tty     *os.File // nil: what it writes is collected
}

// with adds to a command's environment.
func (c command) with(env ...string) command {
	c.env = append(c.env, env...)
	return c
}

func trickle(args ...string) command {
	return command{program: filepath.Join(os.Getenv(binaries), "trickle"), args: args}
}

func trickleConsumer(args ...string) command {
	return command{program: filepath.Join(os.Getenv(binaries), "trickle-consumer"), args: args}
}

// process is a command that runs.
type process struct {
	name           string
	cmd            *exec.Cmd
	stdout, stderr output.Buffer
	done           chan struct{} // closed when it has ended and was reaped
}

// start runs a command; at the end of the test it is killed if it still runs, and searched for data races.
func start(t *testing.T, c command) *process {
	t.Helper()
	p := &process{name: filepath.Base(c.program) + " " + strings.Join(c.args[:min(1, len(c.args))], ""), done: make(chan struct{})}
	p.cmd = exec.Command(c.program, c.args...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	if c.tty != nil {
		p.cmd.Stdin, p.cmd.Stdout = c.tty, c.tty
	}
	p.cmd.Dir = t.TempDir()
	p.cmd.SysProcAttr = dieWithUs()
	for _, e := range os.Environ() { // without settings that whoever runs the tests may have
		if !strings.HasPrefix(e, "TRICKLE_") && !strings.HasPrefix(e, "PG") && !strings.HasPrefix(e, "OTEL_") {
			p.cmd.Env = append(p.cmd.Env, e)
		}
	}
	p.cmd.Env = append(p.cmd.Env, c.env...)
	// The parent of a process is a thread, which must last as long as it does.
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // the state tells
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if strings.Contains(p.stderr.String(), "WARNING: DATA RACE") {
			t.Errorf("%s has a data race", p.name)
		}
		if t.Failed() {
			t.Logf("%s (process %d, %s) wrote:\n%s", p.name, p.cmd.Process.Pid, p.cmd.ProcessState, tail(p.stderr.String()))
		}
	})
	return p
}

func tail(s string) string {
	const most = 4000
	return s[max(0, len(s)-most):]
}

// kill ends it at once, as kill -9 does, and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// stop asks it to end with a signal and returns its exit status.
func (p *process) stop(t *testing.T, sig syscall.Signal) int {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	return p.wait(t, graceful)
}

func (p *process) wait(t *testing.T, atMost time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(atMost):
		t.Fatalf("%s has not ended within %s; it wrote:\n%s", p.name, atMost, tail(p.stderr.String()))
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// says waits until it has written a text to standard error.
func (p *process) says(t *testing.T, text string) {
	t.Helper()
	await(t, patience, p.name+" says "+text, func() bool {
		if !p.running() && !strings.Contains(p.stderr.String(), text) {
			t.Fatalf("%s ended before it said %q", p.name, text)
		}
		return strings.Contains(p.stderr.String(), text)
	})
}

// run runs a command to its end.
func run(t *testing.T, c command) (code int, stdout, stderr string) {
	t.Helper()
	p := start(t, c)
	code = p.wait(t, shortRun)
	return code, p.stdout.String(), p.stderr.String()
}

// status is what trickle-consumer status --format json prints.
func status(t *testing.T, policy, replica string) ledger.Report {
	t.Helper()
	code, stdout, stderr := run(t, trickleConsumer("status", "--format", "json", "--policy", policy, "--replica", replica))
	var r ledger.Report
	if err := json.Unmarshal([]byte(stdout), &r); code != 0 || err != nil {
		t.Fatalf("status ends with %d (%v): %s", code, err, stderr)
	}
	return r
}

// table is one table of a report; the zero value where it is not in it.
func table(r ledger.Report, name string) ledger.TableReport {
	for _, t := range r.Tables {
		if t.Table == name {
			return t
		}
	}
	return ledger.TableReport{}
}

// await asks until the answer is yes.
func await(t *testing.T, atMost time.Duration, what string, yes func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), atMost)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for !yes() {
		select {
		case <-ctx.Done():
			t.Fatalf("did not happen within %s: %s", atMost, what)
		case <-tick.C:
		}
	}
}

// writeFile writes a file into a folder of the test's and returns its path.
func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
