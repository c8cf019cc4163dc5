package testbed

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

const killTimeout = 10 * time.Second

// process is a running postmaster. A goroutine of its own waits for it.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how it ended; read after done
}

// startProcess starts cmd from an operating system thread that lives as long as the process does: the kernel sends the parent-death
// signal when the starting thread ends, not when the program does, and Go ends threads as it likes.
func startProcess(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
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

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal postgres (process %d): %w", p.pid(), err)
	}
	return nil
}

// kill ends the postmaster and its children and waits until none is left: a child that lives on holds the shared memory, and the next
// start would fail.
func (p *process) kill() error {
	failure := p.signal(syscall.SIGSTOP) // no new children from here on
	family, err := children(p.pid())
	failure = errors.Join(failure, err, p.signal(syscall.SIGKILL))
	for _, pid := range family {
		failure = errors.Join(failure, signalPID(pid, syscall.SIGKILL))
	}
	<-p.done
	deadline := time.Now().Add(killTimeout)
	for _, pid := range family {
		for alive(pid) {
			if time.Now().After(deadline) {
				return errors.Join(failure, fmt.Errorf("postgres process %d does not end after a kill", pid))
			}
			time.Sleep(pollInterval)
		}
	}
	return failure
}

// pause stops the postmaster first so that no child is forked behind our back. Its children lead process groups of their own: a signal
// to the postmaster's group does not reach them.
func (p *process) pause() error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return p.signalChildren(syscall.SIGSTOP)
}

func (p *process) resume() error {
	err := p.signalChildren(syscall.SIGCONT)
	return errors.Join(err, p.signal(syscall.SIGCONT))
}

func (p *process) signalChildren(sig syscall.Signal) error {
	family, err := children(p.pid())
	for _, pid := range family {
		err = errors.Join(err, signalPID(pid, sig))
	}
	return err
}

// signalPID takes it for granted that a child may have ended meanwhile.
func signalPID(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal postgres (process %d): %w", pid, err)
	}
	return nil
}
