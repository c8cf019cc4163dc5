// Package connect runs a real Kafka Connect worker, with Debezium's connectors, for tests.
//
// It decides how a single worker keeps its state (in topics of its broker, so that it comes back with its connectors) and that it commits
// offsets often, so that a test sees them move. What always holds: a worker that Start returned answers on a free loopback port; it dies with the
// process that started it; Stop removes what was made for it. Connectors are created, paused, stopped and asked after through its REST API; a task that
// failed is an error with Connect's own trace.
package connect

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed/child"
	"github.com/trickle-verify/trickle/internal/testbed/java"
	"github.com/trickle-verify/trickle/internal/testbed/loopback"
)

const (
	startTimeout = time.Minute
	stopTimeout  = 10 * time.Second // then it is killed
	pollInterval = 50 * time.Millisecond
	portAttempts = 5
	heapMB       = 512
)

// ErrNotRunning is returned by operations that need a running worker.
var ErrNotRunning = errors.New("the connect worker is not running: call Restart first")

// Options of a worker.
type Options struct {
	// Brokers is where its Kafka is, host:port.
	Brokers string
	// Properties go on top of the defaults.
	Properties map[string]string
}

// Worker is a Connect cluster of one.
type Worker struct {
	kit  java.Kit
	opts Options
	dir  string
	port int
	http *http.Client

	mu      sync.Mutex // guards what follows
	proc    *child.Process
	stopped bool // for good: the folder is gone
}

// Start starts a worker and returns once it takes connectors. The context bounds the start, not the worker's life.
func Start(ctx context.Context, opts Options) (*Worker, error) {
	kit, err := java.Find(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "trickle-connect-")
	if err != nil {
		return nil, fmt.Errorf("folder for connect: %w", err)
	}
	w := &Worker{kit: kit, opts: opts, dir: dir, http: &http.Client{Transport: &http.Transport{}}}
	if err := w.begin(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return w, nil
}

func (w *Worker) begin(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for attempt := 1; ; attempt++ {
		port, err := loopback.FreePort()
		if err != nil {
			return fmt.Errorf("port for connect: %w", err)
		}
		w.port = port
		if err := w.writeProperties(); err != nil {
			return err
		}
		err = w.launch(ctx)
		if err == nil || attempt == portAttempts || loopback.IsFree(port) {
			return err
		}
	}
}

func (w *Worker) writeProperties() error {
	all := map[string]string{
		"bootstrap.servers": w.opts.Brokers,
		"group.id":          "connect",
		"listeners":         w.URL(),
		"plugin.path":       w.kit.Plugins(),
		"plugin.discovery":  "service_load", // without a look at every class
		"key.converter":     "org.apache.kafka.connect.json.JsonConverter",
		"value.converter":   "org.apache.kafka.connect.json.JsonConverter", // with schemas, which the sink needs
		// A single broker keeps one copy, and nobody else is about to join.
		"config.storage.topic":              "connect.configs",
		"config.storage.replication.factor": "1",
		"offset.storage.topic":              "connect.offsets",
		"offset.storage.replication.factor": "1",
		"offset.storage.partitions":         "1",
		"status.storage.topic":              "connect.status",
		"status.storage.replication.factor": "1",
		"status.storage.partitions":         "1",
		"scheduled.rebalance.max.delay.ms":  "0",
		// Offsets, the slot's position among them, follow what was done within a second.
		"offset.flush.interval.ms": "1000",
		// A consumer that was killed is given up on sooner.
		"consumer.session.timeout.ms": "10000",
		"session.timeout.ms":          "10000",
	}
	maps.Copy(all, w.opts.Properties)
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&text, "%s=%s\n", key, strings.ReplaceAll(all[key], `\`, `\\`))
	}
	if err := os.WriteFile(w.file("worker.properties"), []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("settings of connect: %w", err)
	}
	return nil
}

func (w *Worker) file(name string) string { return filepath.Join(w.dir, name) }

// launch starts the JVM and waits until the worker has joined its group.
func (w *Worker) launch(ctx context.Context) error {
	log, err := os.OpenFile(w.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("log of connect: %w", err)
	}
	defer log.Close()
	proc, err := w.kit.Start(java.Program{
		Name: "connect", Class: "org.apache.kafka.connect.cli.ConnectDistributed", Arguments: []string{w.file("worker.properties")}, HeapMB: heapMB, Log: log, Dir: w.dir,
	})
	if err != nil {
		return err
	}
	if err := w.awaitReady(ctx, proc); err != nil {
		return fmt.Errorf("start connect: %w; its log ends with:\n%s", errors.Join(err, proc.Kill()), w.logTail())
	}
	w.proc = proc
	return nil
}

func (w *Worker) awaitReady(ctx context.Context, proc *child.Process) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := w.call(ctx, http.MethodGet, "/health", nil, nil)
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

// URL is the worker's REST API.
func (w *Worker) URL() string { return "http://" + loopback.Address(w.port) }

// PID is the JVM's process; 0 when it is not running.
func (w *Worker) PID() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.proc == nil {
		return 0
	}
	return w.proc.PID()
}

// LogFile is the path of what the worker prints.
func (w *Worker) LogFile() string { return w.file("connect.log") }

func (w *Worker) logTail() string {
	const most = 8000
	text, err := os.ReadFile(w.LogFile())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}

// Stop shuts the worker down and removes its folder. One that takes too long is killed. A second Stop does nothing.
func (w *Worker) Stop(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return nil
	}
	w.stopped = true
	w.http.CloseIdleConnections()
	return errors.Join(w.shutdown(ctx), os.RemoveAll(w.dir))
}

func (w *Worker) shutdown(ctx context.Context) error {
	proc := w.proc
	if proc == nil {
		return nil
	}
	w.proc = nil
	if err := proc.Signal(syscall.SIGTERM); err != nil {
		return errors.Join(err, proc.Kill())
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	select {
	case <-proc.Done():
		return nil
	case <-ctx.Done():
		return proc.Kill()
	}
}

// Kill ends the worker at once, its connectors with it. Restart brings both back.
func (w *Worker) Kill() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.proc == nil {
		return ErrNotRunning
	}
	proc := w.proc
	w.proc = nil
	return proc.Kill()
}

// Restart shuts the worker down if it runs, and starts it again with the connectors that it had.
func (w *Worker) Restart(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return errors.New("restart connect: it was stopped for good: start a new one")
	}
	if err := w.shutdown(ctx); err != nil {
		return err
	}
	return w.launch(ctx)
}
