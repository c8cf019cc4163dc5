// Package kafka runs a real Apache Kafka for tests: one node in KRaft mode, broker and controller in one JVM.
//
// It decides which settings make a single throw-away node whole and quick. What always holds: a broker that Start returned answers on a free
// loopback port, keeps its ports and its data through Kill and Restart, makes no topic by itself, and dies with the process that started it; Stop removes every folder
// that was made for it. When it fails to start, the error carries the end of its log.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/trickle-verify/trickle/internal/testbed/child"
	"github.com/trickle-verify/trickle/internal/testbed/java"
	"github.com/trickle-verify/trickle/internal/testbed/loopback"
)

const (
	stopTimeout = 10 * time.Second // then it is killed
	heapMB      = 384

	plain, controller = "PLAINTEXT", "CONTROLLER"
	// A cluster's id is 16 bytes in base 64; nobody else sees this cluster.
	clusterID = "dHJpY2tsZSB0ZXN0YmVkIQ"
)

// Options of a broker; the zero value is a fine throw-away one that asks nobody who they are.
type Options struct {
	// Listeners are further ones, by name, with their security protocols: {"TLS": "SSL", "LOGIN": "SASL_PLAINTEXT"}. What they need beyond that
	// goes into Properties, with the name in small letters: "listener.name.login.sasl.enabled.mechanisms".
	Listeners map[string]string
	// Properties go on top of the defaults, in the way of server.properties.
	Properties map[string]string
	// Files are written into the broker's folder before it starts, by name, for properties to refer to: {{dir}} in a property stands for that folder.
	Files map[string][]byte
	// Users are SCRAM users to be there from the start, as kafka-storage's --add-scram wants them: "SCRAM-SHA-256=[name=alice,password=secret]".
	Users []string
}

// Broker is one node. Restart brings it back on the same ports with its data.
type Broker struct {
	*child.Server
	kit   java.Kit
	opts  Options
	dir   string
	ports map[string]int // by listener
}

// Start starts a broker and returns once it answers. The context bounds the start, not the broker's life.
func Start(ctx context.Context, opts Options) (*Broker, error) {
	kit, err := java.Find(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "trickle-kafka-")
	if err != nil {
		return nil, fmt.Errorf("folder for kafka: %w", err)
	}
	b := &Broker{kit: kit, opts: opts, dir: dir}
	b.Server = child.NewServer(child.Plan{Name: "kafka", Dir: dir, Start: b.launch, Ready: b.ready, Quit: syscall.SIGTERM, Grace: stopTimeout})
	if err := b.begin(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return b, nil
}

func (b *Broker) begin(ctx context.Context) error {
	for name, content := range b.opts.Files {
		if err := os.WriteFile(filepath.Join(b.dir, name), content, 0o600); err != nil {
			return fmt.Errorf("file for kafka: %w", err)
		}
	}
	return loopback.Claim(func() ([]int, error) {
		if err := b.choosePorts(); err != nil {
			return nil, err
		}
		err := b.format(ctx)
		if err == nil {
			err = b.Restart(ctx)
		}
		return slices.Collect(maps.Values(b.ports)), err
	})
}

func (b *Broker) choosePorts() error {
	b.ports = map[string]int{}
	for _, name := range slices.Concat([]string{plain, controller}, slices.Collect(maps.Keys(b.opts.Listeners))) {
		port, err := loopback.FreePort()
		if err != nil {
			return fmt.Errorf("port for kafka: %w", err)
		}
		b.ports[name] = port
	}
	return nil
}

func (b *Broker) file(name string) string { return filepath.Join(b.dir, name) }

// format writes the settings and, as every new node wants it, prepares the data folder.
func (b *Broker) format(ctx context.Context) error {
	all := b.properties()
	for key, value := range all {
		all[key] = strings.ReplaceAll(value, "{{dir}}", b.dir)
	}
	if err := java.WriteProperties(b.file("server.properties"), all); err != nil {
		return fmt.Errorf("settings of kafka: %w", err)
	}
	if err := os.RemoveAll(b.file("data")); err != nil {
		return fmt.Errorf("data of kafka: %w", err)
	}
	args := []string{"format", "--standalone", "-t", clusterID, "-c", b.file("server.properties")}
	for _, user := range b.opts.Users {
		args = append(args, "--add-scram", user)
	}
	return b.kit.Run(ctx, java.Program{Name: "kafka storage format", Class: "kafka.tools.StorageTool", Arguments: args, HeapMB: 64, Dir: b.dir})
}

func (b *Broker) properties() map[string]string {
	var listeners, advertised, protocols []string
	for _, name := range slices.Sorted(maps.Keys(b.ports)) {
		protocol := plain
		if p, ok := b.opts.Listeners[name]; ok {
			protocol = p
		}
		address := name + "://" + b.Listener(name)
		listeners, advertised, protocols = append(listeners, address), append(advertised, address), append(protocols, name+":"+protocol)
	}
	all := map[string]string{
		"process.roles":                       "broker,controller",
		"node.id":                             "1",
		"controller.quorum.bootstrap.servers": b.Listener(controller),
		"controller.listener.names":           controller,
		"inter.broker.listener.name":          plain,
		"listeners":                           strings.Join(listeners, ","),
		"advertised.listeners":                strings.Join(advertised, ","),
		"listener.security.protocol.map":      strings.Join(protocols, ","),
		"log.dirs":                            b.file("data"),
		"auto.create.topics.enable":           "false",
		// A single node keeps one copy of its own topics, and few partitions of them start sooner.
		"offsets.topic.replication.factor":                 "1",
		"offsets.topic.num.partitions":                     "4",
		"transaction.state.log.replication.factor":         "1",
		"transaction.state.log.min.isr":                    "1",
		"transaction.state.log.num.partitions":             "4",
		"share.coordinator.state.topic.replication.factor": "1",
		"share.coordinator.state.topic.min.isr":            "1",
		// One that was killed is taken back once its session is over.
		"broker.session.timeout.ms":    "4000",
		"broker.heartbeat.interval.ms": "500",
		// Nobody else is about to join a group.
		"group.initial.rebalance.delay.ms": "0",
		"num.network.threads":              "2",
		"num.io.threads":                   "4",
		"log.cleaner.dedupe.buffer.size":   "8388608",
	}
	maps.Copy(all, b.opts.Properties)
	return all
}

func (b *Broker) launch(log *os.File) (*child.Process, error) {
	return b.kit.Start(java.Program{Name: "kafka", Class: "kafka.Kafka", Arguments: []string{b.file("server.properties")}, HeapMB: heapMB, Log: log, Dir: b.dir})
}

// ready asks the broker whether it answers.
func (b *Broker) ready(ctx context.Context) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addr()), kgo.RequestRetries(0), kgo.RetryTimeout(time.Second))
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Ping(ctx)
}

// Addr is where clients connect that needn't say who they are: host:port.
func (b *Broker) Addr() string { return b.Listener(plain) }

// Listener is the address of a further listener.
func (b *Broker) Listener(name string) string { return loopback.Address(b.ports[name]) }
