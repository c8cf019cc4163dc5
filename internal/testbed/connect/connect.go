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
	"syscall"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed/child"
	"github.com/trickle-verify/trickle/internal/testbed/java"
	"github.com/trickle-verify/trickle/internal/testbed/loopback"
)

const (
	stopTimeout  = 10 * time.Second // then it is killed
	heapMB       = 512
	pollInterval = 50 * time.Millisecond
)

// Options of a worker.
type Options struct {
	// Brokers is where its Kafka is, host:port.
	Brokers string
	// Properties go on top of the defaults.
	Properties map[string]string
}

// Worker is a Connect cluster of one. Restart brings it back with its connectors.
type Worker struct {
	*child.Server
	kit  java.Kit
	opts Options
	dir  string
	port int
	http *http.Client
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
	w.Server = child.NewServer(child.Plan{Name: "connect", Dir: dir, Start: w.launch, Ready: w.ready, Quit: syscall.SIGTERM, Grace: stopTimeout})
	if err := w.begin(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return w, nil
}

func (w *Worker) begin(ctx context.Context) error {
	return loopback.Claim(func() ([]int, error) {
		port, err := loopback.FreePort()
		if err != nil {
			return nil, fmt.Errorf("port for connect: %w", err)
		}
		w.port = port
		if err = w.writeProperties(); err == nil {
			err = w.Restart(ctx)
		}
		return []int{port}, err
	})
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
	if err := java.WriteProperties(w.file("worker.properties"), all); err != nil {
		return fmt.Errorf("settings of connect: %w", err)
	}
	return nil
}

func (w *Worker) file(name string) string { return filepath.Join(w.dir, name) }

func (w *Worker) launch(log *os.File) (*child.Process, error) {
	return w.kit.Start(java.Program{
		Name: "connect", Class: "org.apache.kafka.connect.cli.ConnectDistributed", Arguments: []string{w.file("worker.properties")}, HeapMB: heapMB, Log: log, Dir: w.dir,
	})
}

// ready asks the worker whether it has joined its group.
func (w *Worker) ready(ctx context.Context) error {
	return w.call(ctx, http.MethodGet, "/health", nil, nil)
}

// URL is the worker's REST API.
func (w *Worker) URL() string { return "http://" + loopback.Address(w.port) }

// Stop shuts the worker down and removes its folder. A second Stop does nothing.
func (w *Worker) Stop(ctx context.Context) error {
	w.http.CloseIdleConnections()
	return w.Server.Stop(ctx)
}
