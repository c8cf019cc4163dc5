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

// Prefix is how all topics of a pipeline begin.
const Prefix = "shop"

// SourceName and SlotName are the source connector's and its replication slot's.
const (
	SourceName = "source"
	SlotName   = "debezium"
)

// Source starts Debezium on a database. Tables are schema.table; they and trickle.heartbeat are copied, so all of them must be there. Settings go on top
// of those of deploy/compose. It returns once the connector runs; its first copy of the tables may go on.
func (s *Stack) Source(dsn string, tables []string, settings map[string]string) connect.Connector {
	s.t.Helper()
	u := parse(s.t, dsn)
	all := decode(s.t, compose.Source)
	include := make([]string, len(tables))
	for i, table := range tables {
		include[i] = regexp.QuoteMeta(table)
	}
	maps.Copy(all, map[string]string{
		"database.hostname": u.Hostname(), "database.port": u.Port(), "database.user": u.User.Username(), "database.password": "unused",
		"database.dbname":                strings.TrimPrefix(u.Path, "/"),
		"table.include.list":             strings.Join(append(include, `trickle\.heartbeat`), ","),
		"signal.kafka.bootstrap.servers": s.Broker.Addr(),
	})
	maps.Copy(all, settings)
	s.topic(all["signal.kafka.topic"])
	return s.start(SourceName, all)
}

// Sink starts Debezium's JDBC sink into a database. Its consumer group is connect-name. Settings go on top of those of deploy/compose.
func (s *Stack) Sink(name, dsn string, settings map[string]string) connect.Connector {
	s.t.Helper()
	u := parse(s.t, dsn)
	all := decode(s.t, compose.Sink)
	maps.Copy(all, map[string]string{
		"connection.url":      fmt.Sprintf("jdbc:postgresql://%s%s?stringtype=unspecified", u.Host, u.Path),
		"connection.username": u.User.Username(), "connection.password": "unused",
	})
	maps.Copy(all, settings)
	return s.start(name, all)
}

// Group is the consumer group of a sink.
func Group(sink connect.Connector) string { return "connect-" + sink.Name() }

func (s *Stack) start(name string, settings map[string]string) connect.Connector {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c := s.Worker.Connector(name)
	if err := c.Put(ctx, settings); err != nil {
		s.t.Fatal(err)
	}
	return c
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
