// Package stack gives tests a real pipeline: Apache Kafka, Kafka Connect, Debezium's Postgres source and its JDBC sink.
//
// It decides the connectors' settings, which are those of deploy/compose with addresses and names of the test's own. What always holds: a pipeline
// that a function here returned has its connectors running; everything is gone when its test ends, the replication slot with its database. A machine without Kafka or
// Debezium fails the test, and never skips it.
package stack

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/trickle-verify/trickle/deploy/compose"
	"github.com/trickle-verify/trickle/internal/testbed/connect"
	"github.com/trickle-verify/trickle/internal/testbed/kafka"
)

const timeout = 2 * time.Minute

// Stack is a broker and a Connect worker.
type Stack struct {
	t      testing.TB
	Broker *kafka.Broker
	Worker *connect.Worker
}

// Start starts a broker and a worker for this test alone, so that it may kill them.
func Start(t testing.TB, opts kafka.Options) *Stack {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	broker, err := kafka.Start(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	s := &Stack{t: t, Broker: broker}
	atEnd(t, broker.Stop)
	if s.Worker, err = connect.Start(ctx, connect.Options{Brokers: broker.Addr()}); err != nil {
		t.Fatal(err)
	}
	atEnd(t, s.Worker.Stop)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("connect wrote:\n%s", tail(s.Worker.LogFile()))
		}
	})
	return s
}

func atEnd(t testing.TB, stop func(context.Context) error) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := stop(ctx); err != nil {
			t.Error(err)
		}
	})
}

func tail(file string) string {
	const most = 8000
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}

// Source is a Debezium connector that reads a database.
type Source struct {
	connect.Connector
	stack *Stack
	Slot  string // the replication slot, one for each database of a server
	// Prefix is how the connector's topics begin: prefix.schema.table.
	Prefix                 string
	Signals, Notifications string // topics
	schemas                []string
}

// Source starts Debezium on a database, under a name of the test's choice. Tables are schema.table; they and trickle.heartbeat are copied, so all of them must
// be there. Settings go on top of those of deploy/compose. It returns once the connector runs; its first copy of the tables may go on.
func (s *Stack) Source(name, dsn string, tables []string, settings map[string]string) Source {
	s.t.Helper()
	u := parse(s.t, dsn)
	database := strings.TrimPrefix(u.Path, "/")
	src := Source{s.Worker.Connector(name), s, "dbz_" + database, name, name + "-signals", name + "-notifications", nil}
	var include []string
	for _, table := range append(tables, "trickle.heartbeat") {
		include = append(include, regexp.QuoteMeta(table))
		schema, _, _ := strings.Cut(table, ".")
		src.schemas = append(src.schemas, regexp.QuoteMeta(schema))
	}
	all := decode(s.t, compose.Source)
	maps.Copy(all, map[string]string{
		"topic.prefix":      src.Prefix,
		"database.hostname": u.Hostname(), "database.port": u.Port(), "database.user": u.User.Username(), "database.password": "unused", "database.dbname": database,
		"table.include.list": strings.Join(include, ","),
		"slot.name":          src.Slot, "publication.name": src.Slot,
		"signal.kafka.topic": src.Signals, "signal.kafka.groupId": src.Signals, "signal.kafka.bootstrap.servers": s.Broker.Addr(),
		"notification.sink.topic.name": src.Notifications,
	})
	maps.Copy(all, settings)
	s.topic(src.Signals)
	s.start(src.Connector, all)
	return src
}

// Sink is a connector that writes a replica.
type Sink struct {
	connect.Connector
	Group string // its consumer group
}

// Sink starts Debezium's JDBC sink of all that the source's connector reads, into a database. Settings go on top of those of deploy/compose.
func (src Source) Sink(name, dsn string, settings map[string]string) Sink {
	s := src.stack
	s.t.Helper()
	u := parse(s.t, dsn)
	sink := Sink{s.Worker.Connector(name), "connect-" + name}
	all := decode(s.t, compose.Sink)
	maps.Copy(all, map[string]string{
		"topics.regex":        regexp.QuoteMeta(src.Prefix) + `\.(` + strings.Join(src.schemas, "|") + `)\..*`,
		"connection.url":      fmt.Sprintf("jdbc:postgresql://%s%s?stringtype=unspecified", u.Host, u.Path),
		"connection.username": u.User.Username(), "connection.password": "unused",
	})
	maps.Copy(all, settings)
	s.start(sink.Connector, all)
	return sink
}

func (s *Stack) start(c connect.Connector, settings map[string]string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := c.Put(ctx, settings); err != nil {
		s.t.Fatal(err)
	}
}

// topic makes one with a single partition.
func (s *Stack) topic(name string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.Broker.Addr()))
	if err != nil {
		s.t.Fatal(err)
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).CreateTopic(ctx, 1, 1, nil, name); err != nil {
		s.t.Fatalf("topic %s: %v", name, err)
	}
}

func parse(t testing.TB, dsn string) *url.URL {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func decode(t testing.TB, settings []byte) map[string]string {
	t.Helper()
	var all map[string]string
	if err := json.Unmarshal(settings, &all); err != nil {
		t.Fatal(err)
	}
	return all
}
