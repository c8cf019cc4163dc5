package stack_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed/kafka"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/internal/testbed/stack"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const patience = 2 * time.Minute

// equal waits until a query gives the same on both sides.
func equal(t *testing.T, source, replica, sql string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		want, got := pgtest.Text(t, source, sql), pgtest.Text(t, replica, sql)
		if want == got {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the sides differ:\nsource  %s\nreplica %s", want, got)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

const heartbeat = `CREATE SCHEMA IF NOT EXISTS trickle; CREATE TABLE trickle.heartbeat (pipeline text PRIMARY KEY, at timestamptz NOT NULL)`

// One row goes all the way, however it is changed and whatever is done to the connectors meanwhile.
func TestRowsGoFromSourceToReplica(t *testing.T) {
	t.Parallel()
	source, replica := pgtest.Database(t), pgtest.Database(t)
	const schema = `CREATE TABLE letters (id int PRIMARY KEY, v text)`
	pgtest.Exec(t, source, heartbeat, schema, `INSERT INTO letters VALUES (1, 'before'), (2, 'before')`)
	pgtest.Exec(t, replica, heartbeat, schema)
	s := stack.Start(t, kafka.Options{})
	from := s.Source("shop", source, []string{"public.letters"}, nil)
	sink := from.Sink("sink", replica, nil)
	const all = `SELECT string_agg(l::text, ' ' ORDER BY id) FROM letters l`
	equal(t, source, replica, all)
	for i, step := range []struct {
		sql     string
		do, end func(context.Context) error
	}{
		{`INSERT INTO letters VALUES (3, 'a')`, nil, nil},
		{`UPDATE letters SET v = 'b' WHERE id = 1`, sink.Pause, sink.Resume},
		{`DELETE FROM letters WHERE id = 2`, from.Stop, from.Resume},
		{`UPDATE letters SET id = 4 WHERE id = 3`, sink.Restart, nil},
		{`UPDATE letters SET v = 'c'`, func(context.Context) error { return s.Worker.Kill() }, s.Worker.Restart},
	} {
		do(t, step.do)
		pgtest.Exec(t, source, step.sql, fmt.Sprintf(`INSERT INTO trickle.heartbeat VALUES ('p%d', now())`, i))
		do(t, step.end)
		equal(t, source, replica, all)
		equal(t, source, replica, `SELECT max(pipeline) FROM trickle.heartbeat`)
	}
	do(t, sink.Delete)
	if _, err := sink.Status(t.Context()); err == nil {
		t.Error("a deleted connector has a status")
	}
}

func do(t *testing.T, what func(context.Context) error) {
	t.Helper()
	if what == nil {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := what(ctx); err != nil {
		t.Fatal(err)
	}
}

// What leaves broker and worker as they are shares them.
func TestOnOneStack(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, kafka.Options{})
	for name, test := range map[string]func(*testing.T, *stack.Stack){
		"a connector that fails":          connectorThatFails,
		"which types survive":             whichTypesSurvive,
		"whether the heartbeat overtakes": whetherTheHeartbeatOvertakes,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, s)
		})
	}
}

// A connector that can't work is an error with the reason, at once.
func connectorThatFails(t *testing.T, s *stack.Stack) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	connector := s.Worker.Connector("nowhere")
	err := connector.Put(ctx, map[string]string{
		"connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector", "topics": "nothing", "connection.url": "jdbc:postgresql://127.0.0.1:1/nowhere", "connection.username": "nobody", "connection.password": "",
	})
	if err == nil || !strings.Contains(err.Error(), "connector nowhere failed") || !strings.Contains(err.Error(), "HibernateException") {
		t.Errorf("got %v", err)
	}
	do(t, connector.Delete)
}
