package child

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const startTimeout = time.Minute

// ErrNotRunning is returned by operations that need a running server.
var ErrNotRunning = errors.New("it is not running: call Restart first")

// Plan says how a server is run. Nothing in it may call the server's own methods.
type Plan struct {
	Name string // for errors and for the log's name
	Dir  string // holds its log, and is removed by Stop
	// Start starts the process, which writes into the log. It is called again by Restart.
	Start func(log *os.File) (*Process, error)
	// Ready is tried until it succeeds.
	Ready func(ctx context.Context) error
	// Quit asks the process to shut down in good order; one that takes longer than Grace is killed. No grace: as long as Stop's context.
	Quit  syscall.Signal
	Grace time.Duration
}

// Server is a process that can be stopped, killed, frozen, and started again on what it left. It is safe for concurrent use.
type Server struct {
	plan Plan

	mu      sync.Mutex // guards what follows
	proc    *Process   // nil when it does not run
	stopped bool       // for good: the folder is gone
}

// NewServer makes a server that does not run yet: Restart starts it.
func NewServer(plan Plan) *Server { return &Server{plan: plan} }

// LogFile is the path of what the server prints.
func (s *Server) LogFile() string { return filepath.Join(s.plan.Dir, s.plan.Name+".log") }

// PID is the process's number; 0 when it is not running.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return 0
	}
	return s.proc.PID()
}

// Restart shuts the server down if it runs, starts it, and returns once it is ready. The context bounds that, not the server's life.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return fmt.Errorf("restart %s: it was stopped for good: start a new one", s.plan.Name)
	}
	if err := s.shutdown(ctx); err != nil {
		return err
	}
	log, err := os.OpenFile(s.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("log of %s: %w", s.plan.Name, err)
	}
	defer log.Close()
	proc, err := s.plan.Start(log)
	if err != nil {
		return fmt.Errorf("start %s: %w", s.plan.Name, err)
	}
	if err := s.awaitReady(ctx, proc); err != nil {
		return fmt.Errorf("start %s: %w; its log ends with:\n%s", s.plan.Name, errors.Join(err, proc.Kill()), s.logTail())
	}
	s.proc = proc
	return nil
}

func (s *Server) awaitReady(ctx context.Context, proc *Process) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := s.plan.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-proc.Done():
			return fmt.Errorf("it ended by itself: %w", errors.Join(proc.Err(), err))
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-tick.C:
		}
	}
}

func (s *Server) logTail() string {
	const most = 8000
	text, err := os.ReadFile(s.LogFile())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}

// Stop shuts the server down in good order and removes its folder. One that takes too long is killed. A second Stop does nothing.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	s.stopped = true
	return errors.Join(s.shutdown(ctx), os.RemoveAll(s.plan.Dir))
}

// shutdown ends the process and keeps the folder.
func (s *Server) shutdown(ctx context.Context) error {
	proc := s.proc
	if proc == nil {
		return nil
	}
	s.proc = nil
	if err := errors.Join(proc.Resume(), proc.Signal(s.plan.Quit)); err != nil { // a frozen process can't shut down
		return errors.Join(err, proc.Kill())
	}
	if s.plan.Grace > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.plan.Grace)
		defer cancel()
	}
	select {
	case <-proc.Done():
		return nil
	case <-ctx.Done():
		return proc.Kill()
	}
}

// Kill ends every process of the server at once, as a crash would. Restart brings it back with its data.
func (s *Server) Kill() error {
	return s.running(func(p *Process) error { s.proc = nil; return p.Kill() })
}

// Pause freezes every process of the server until Resume: connections stay open and nothing answers.
func (s *Server) Pause() error { return s.running((*Process).Pause) }

// Resume lets a paused server go on.
func (s *Server) Resume() error { return s.running((*Process).Resume) }

func (s *Server) running(do func(*Process) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return fmt.Errorf("%s: %w", s.plan.Name, ErrNotRunning)
	}
	return do(s.proc)
}
