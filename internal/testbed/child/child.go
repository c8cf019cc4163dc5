// Package child runs servers as child processes that don't outlive us.
//
// It decides how a process is started, signalled and ended with all its children (Process), and how a server is brought up, stopped, killed, frozen and
// brought back on what it left (Server); what the server is, its owner says in a Plan. What always holds: a process is waited for by a goroutine
// of its own, so none is left a zombie; on Linux the kernel signals it when we die, however that comes about. Elsewhere a kill -9 of ours
// leaves it behind. A signal to a process that has ended is no error. A server that fails to start takes the end of its log into the error.
package child

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

const (
	killTimeout  = 10 * time.Second
	pollInterval = 10 * time.Millisecond
)

// Process is a running child.
type Process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start starts cmd, to be signalled with death when we die. The name is for errors. It is started from an operating system thread that lives as
// long as the process does: the kernel sends the parent-death signal when the starting thread ends, not when the program does, and Go
// ends threads as it likes.
func Start(name string, cmd *exec.Cmd, death syscall.Signal) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true // a terminal's Ctrl-C is for us, who stop the server in good order
	dieWithUs(cmd.SysProcAttr, death)
	p := &Process{name: name, cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, err
	}
	return p, nil
}

// PID is the operating system's number for it.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when it has ended and was reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how it ended, to be asked once Done is closed.
func (p *Process) Err() error { return p.err }

// Signal sends a signal to the process alone, not to its children.
func (p *Process) Signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s (process %d): %w", p.name, p.PID(), err)
	}
	return nil
}

// Kill ends the process and its children at once and waits until none is left: one that lives on may hold what the next start needs, as
// Postgres's do its shared memory.
func (p *Process) Kill() error {
	failure := p.Signal(syscall.SIGSTOP) // no new children from here on
	family, err := children(p.PID())
	failure = errors.Join(failure, err, p.Signal(syscall.SIGKILL))
	for _, pid := range family {
		failure = errors.Join(failure, signalPID(pid, syscall.SIGKILL))
	}
	<-p.done
	deadline := time.Now().Add(killTimeout)
	for _, pid := range family {
		for alive(pid) {
			if time.Now().After(deadline) {
				return errors.Join(failure, fmt.Errorf("process %d of %s does not end after a kill", pid, p.name))
			}
			time.Sleep(pollInterval)
		}
	}
	return failure
}

// Pause freezes the process first, so that no child is forked behind our back, and then its children, which may lead process groups of their
// own: a signal to the process's group would not reach them.
func (p *Process) Pause() error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return p.signalChildren(syscall.SIGSTOP)
}

// Resume lets a paused process go on.
func (p *Process) Resume() error {
	err := p.signalChildren(syscall.SIGCONT)
	return errors.Join(err, p.Signal(syscall.SIGCONT))
}

func (p *Process) signalChildren(sig syscall.Signal) error {
	family, err := children(p.PID())
	for _, pid := range family {
		err = errors.Join(err, signalPID(pid, sig))
	}
	return err
}

// signalPID takes it for granted that a child may have ended meanwhile.
func signalPID(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	return nil
}
