package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/trickle-verify/trickle/internal/testbed/kafka"
	"github.com/trickle-verify/trickle/internal/testbed/output"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/transport"
)

const patience = 2 * time.Minute

// guarded is a real broker that lets nobody do what was not granted, but for whoever comes without a login.
func guarded(t *testing.T) *kafka.Broker {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	broker, err := kafka.Start(ctx, kafka.Options{
		Listeners: map[string]string{"LOGIN": "SASL_PLAINTEXT"},
		Properties: map[string]string{
			"authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
			"super.users":           "User:ANONYMOUS",
			"listener.name.login.sasl.enabled.mechanisms": "PLAIN",
			"listener.name.login.plain.sasl.jaas.config":  `org.apache.kafka.common.security.plain.PlainLoginModule required user_publisher="secret-p" user_detector="secret-d" user_maker="secret-m";`,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := broker.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return broker
}

// estate is one pipeline on the broker, with databases of its own.
type estate struct {
	t                 *testing.T
	pipeline          string
	broker            *kafka.Broker
	admin             *kadm.Client
	policy            string
	source, replica   string
	publisher, detect Needs
	log               output.Buffer
}

func newEstate(t *testing.T, broker *kafka.Broker, pipeline string) *estate {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(broker.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	e := &estate{
		t: t, pipeline: pipeline, broker: broker, admin: kadm.NewClient(client), policy: filepath.Join(t.TempDir(), "policy.yaml"),
		source: pgtest.Database(t), replica: pgtest.Database(t), publisher: PublisherNeeds(pipeline), detect: DetectorNeeds(pipeline, "replica"),
	}
	text := fmt.Sprintf("pipeline: %s\nquiet: 1ms\nschedule: {cycle: 1s}\ntables: [{table: public.t}]\ngate: {assume_lag: 1ms}\ndetect: {confirm: {delay: 1ms, attempts: 3}}\n", pipeline)
	if err := os.WriteFile(e.policy, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dsn := range []string{e.source, e.replica} {
		pgtest.Exec(t, dsn, `CREATE TABLE t (id int PRIMARY KEY, v text)`, `INSERT INTO t SELECT i, 'v' FROM generate_series(1, 100) i`)
	}
	pgtest.Exec(t, e.replica, `DELETE FROM t WHERE id = 7`)
	return e
}

// makeTopics makes them as somebody who may.
func (e *estate) makeTopics() {
	e.t.Helper()
	bus, err := transport.NewKafka(e.t.Context(), transport.KafkaOptions{Brokers: []string{e.broker.Addr()}})
	if err != nil {
		e.t.Fatal(err)
	}
	if err := errors.Join(bus.Ensure(e.t.Context(), append(e.publisher.Topics, e.detect.Topics...)...), bus.Close()); err != nil {
		e.t.Fatal(err)
	}
}

// grant gives a login rights, without one operation of one of them.
func (e *estate) grant(login string, rights []transport.Right, but loss) {
	e.t.Helper()
	for _, r := range rights {
		for _, op := range r.Operations {
			if r.String() == but.right.String() && op == but.op {
				continue
			}
			acl := kadm.NewACLs().Allow("User:" + login).AllowHosts("*").Operations(kafkaOperation(op)).ResourcePatternType(kadm.ACLPatternLiteral)
			if r.Prefix {
				acl.ResourcePatternType(kadm.ACLPatternPrefixed)
			}
			if r.Resource == transport.Topic {
				acl.Topics(r.Name)
			} else {
				acl.Groups(r.Name)
			}
			made, err := e.admin.CreateACLs(e.t.Context(), acl)
			if err == nil && len(made) != 1 {
				err = fmt.Errorf("%d rights were granted", len(made))
			}
			for _, m := range made {
				err = errors.Join(err, m.Err)
			}
			if err == nil {
				err = e.inForce(acl)
			}
			if err != nil {
				e.t.Fatalf("%s: %v", r, err)
			}
		}
	}
}

// inForce waits until the broker knows a right: its controller answers before the broker has heard.
func (e *estate) inForce(right *kadm.ACLBuilder) error {
	ctx, cancel := context.WithTimeout(e.t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		known, err := e.admin.DescribeACLs(ctx, right)
		for _, k := range known {
			if k.Err == nil && len(k.Described) > 0 {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(errors.New("the broker does not know the right"), err)
		case <-tick.C:
		}
	}
}

func kafkaOperation(op transport.Operation) kadm.ACLOperation {
	return map[transport.Operation]kadm.ACLOperation{
		transport.Read: kadm.OpRead, transport.Write: kadm.OpWrite, transport.Create: kadm.OpCreate, transport.DescribeConfigs: kadm.OpDescribeConfigs,
	}[op]
}

// loss is an operation that is not granted.
type loss struct {
	right transport.Right
	op    transport.Operation
}

func (l loss) String() string {
	r := l.right
	r.Operations = []transport.Operation{l.op}
	return r.String()
}

func losses(n Needs) []loss {
	var out []loss
	for _, r := range n.Rights {
		for _, op := range r.Operations {
			out = append(out, loss{r, op})
		}
	}
	return out
}

func (e *estate) settings(login string) Settings {
	return Settings{
		PolicyFile: e.policy, SourceDSN: e.source, ReplicaDSN: e.replica, Brokers: []string{e.broker.Listener("LOGIN")}, Consumer: "replica",
		Log:      slog.New(slog.NewTextHandler(&e.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Security: transport.Security{Login: transport.Login{Mechanism: "PLAIN", User: login, Password: "secret-" + login[:1]}},
	}
}

// run runs both sides until done says so, and returns the first error of one of them.
func (e *estate) run(publisher, detector string, done func() bool) error {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), patience)
	defer cancel()
	ended := make(chan error, 2)
	go func() { ended <- Publisher(ctx, e.settings(publisher)) }()
	go func() { ended <- Consumer(ctx, e.settings(detector)) }()
	var first error
	left, stopped := 2, false
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for left > 0 {
		select {
		case err := <-ended:
			left--
			if first == nil {
				first = err
			}
			if err == nil && !stopped {
				first = errors.Join(first, errors.New("a side ended by itself, or nothing came of it"))
			}
			cancel()
		case <-tick.C:
			if !stopped && done() {
				stopped = true
				cancel()
			}
		}
	}
	return first
}

// corrected tells whether the row that the replica lacked is there.
func (e *estate) corrected() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, e.replica)
	if err != nil {
		return false
	}
	defer c.Close(ctx)
	var there bool
	err = c.QueryRow(ctx, `SELECT EXISTS (SELECT FROM t WHERE id = 7)`).Scan(&there)
	return err == nil && there
}

// The rights in the documents, on a real broker, are enough; without any one of them something says which one it misses.
func TestRightsAreEnoughAndNoneIsTooMany(t *testing.T) {
	t.Parallel()
	broker := guarded(t)
	t.Run("all of them", func(t *testing.T) {
		t.Parallel()
		e := newEstate(t, broker, "all")
		e.makeTopics()
		e.grant("publisher", e.publisher.Rights, loss{})
		e.grant("detector", e.detect.Rights, loss{})
		if err := e.run("publisher", "detector", e.corrected); err != nil {
			t.Error(err)
		}
		if log := e.log.String(); strings.Contains(log, "AUTHORIZATION_FAILED") && !strings.Contains(log, "a topic's settings can't be read") {
			t.Errorf("something was refused:\n%s", log)
		}
		if log := e.log.String(); strings.Contains(log, "secret-") {
			t.Error("the log holds a password")
		}
	})
	t.Run("with those to make topics", func(t *testing.T) {
		t.Parallel()
		e := newEstate(t, broker, "making")
		e.grant("publisher", append(e.publisher.OptionalRights(), e.publisher.Rights...), loss{})
		e.grant("detector", append(e.detect.OptionalRights(), e.detect.Rights...), loss{})
		if err := e.run("publisher", "detector", e.corrected); err != nil {
			t.Error(err)
		}
	})
	t.Run("no topics and no right to make them", func(t *testing.T) {
		t.Parallel()
		e := newEstate(t, broker, "lost")
		e.grant("publisher", e.publisher.Rights, loss{})
		err := Publisher(t.Context(), e.settings("publisher"))
		var missing *transport.NotCreatedError
		if !errors.As(err, &missing) || len(missing.Topics) != len(e.publisher.Topics) {
			t.Errorf("got %v", err)
		}
	})
	rights := 0
	for side, needs := range map[string]func(*estate) Needs{
		"publisher": func(e *estate) Needs { return e.publisher },
		"detector":  func(e *estate) Needs { return e.detect },
	} {
		for i := range losses(needs(&estate{publisher: PublisherNeeds("p"), detect: DetectorNeeds("p", "replica")})) {
			rights++
			t.Run(fmt.Sprint(side, " ", i), func(t *testing.T) {
				t.Parallel()
				e := newEstate(t, broker, fmt.Sprintf("%s-%d", side, i))
				lost := losses(needs(e))[i]
				e.makeTopics()
				e.grant("publisher", e.publisher.Rights, lost)
				e.grant("detector", e.detect.Rights, lost)
				want := lost.String()
				if lost.right.Prefix { // nobody's topic can be asked for before its owner is known
					want = "WRITE on topic " + lost.right.Name + "replica"
				}
				told := func() bool { return strings.Contains(e.log.String(), want) }
				err := e.run("publisher", "detector", told)
				if !told() && (err == nil || !strings.Contains(err.Error(), want)) {
					t.Errorf("nothing names %s: %v", want, err)
				}
				if e.corrected() {
					t.Errorf("it works without %s", lost)
				}
			})
		}
	}
	if rights != 11 {
		t.Errorf("%d rights were taken away", rights)
	}
}
