package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/trickle-verify/trickle/check"
	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

// preflight is what a check command prints with --format json.
func preflight(t *testing.T, c command) (int, check.Report) {
	t.Helper()
	c.args = append(c.args, "--format", "json")
	code, stdout, stderr := run(t, c)
	var r check.Report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatalf("%s ends with %d and prints %q (%v): %s", c.args[0], code, stdout, err, stderr)
	}
	return code, r
}

// of are the findings of a check.
func of(r check.Report, group, name string) []check.Finding {
	var out []check.Finding
	for _, f := range r.Checks {
		if f.Group == group && f.Check == name {
			out = append(out, f)
		}
	}
	return out
}

func TestCheck(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, testbed.Options{})
	d := newDesk(t, server)
	broker, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	brokers := broker.ListenAddrs()[0]
	source := func(args ...string) command {
		return trickle(append([]string{"check", "--policy", d.policy, "--source", d.src.dsn, "--brokers", brokers}, args...)...)
	}
	replica := func(args ...string) command {
		return trickleConsumer(append([]string{"check", "--policy", d.policy, "--replica", d.dst.dsn, "--brokers", brokers}, args...)...)
	}
	// Whoever may not write can't have written.
	admin := connect(t, server.DSN("postgres"))
	admin.exec(t, `ALTER ROLE postgres SET default_transaction_read_only = on`)
	if code, r := preflight(t, source("--strict")); code != 0 || !r.OK || r.Counts.OK < 15 {
		t.Errorf("all is well at the source, and it ends with %d: %+v", code, r)
	}
	code, r := preflight(t, replica("--source", d.src.dsn))
	if code != 0 || len(of(r, "replica tables", "agreement")) != 1 || of(r, "replica tables", "agreement")[0].Verdict != check.OK {
		t.Errorf("all is well at the replica, and it ends with %d: %+v", code, r)
	}
	if code, _ := preflight(t, replica("--strict")); code != 1 {
		t.Errorf("what was not checked is not strict, and it ends with %d", code)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if topics, err := kadm.NewClient(client).ListTopics(t.Context()); err != nil || len(topics) > 0 {
		t.Errorf("it made topics: %v, %v", topics, err)
	}
	through := writeFile(t, "policy.yaml", "pipeline: plain\ntables: [{table: public.*}]\nresync: {via: debezium, debezium: {topic_prefix: cdc}}\n")
	if _, r := preflight(t, replica("--policy", through)); !slices.ContainsFunc(of(r, "kafka", "topics"), func(f check.Finding) bool { return f.Object == "cdc-signal" && f.Verdict == check.OK }) {
		t.Errorf("resyncs go through Debezium, and its topics are not looked at: %+v", r)
	}
	code, stdout, stderr := run(t, replica("--source", d.src.dsn))
	if code != 0 || stderr != "" && strings.Contains(stderr, "ERROR") {
		t.Errorf("as text it ends with %d: %s", code, stderr)
	}
	for _, words := range []string{"\nreplica tables\n", "\nkafka\n", "  ok  ", "agreement: 1 table with", " 0 failures, "} {
		if !strings.Contains(stdout, words) {
			t.Errorf("the text lacks %q:\n%s", words, stdout)
		}
	}
	if strings.Contains(stdout, "\x1b") {
		t.Errorf("colours without a terminal:\n%q", stdout)
	}
	admin.exec(t, `SET default_transaction_read_only = off`, `ALTER ROLE postgres RESET default_transaction_read_only`)
	d.dst.pool.Reset()
	d.dst.exec(t, `ALTER TABLE t DROP COLUMN v`)
	code, stdout, _ = run(t, replica("--source", d.src.dsn))
	if code != 1 || !strings.Contains(stdout, `fix: ALTER TABLE "public"."t" ADD COLUMN "v" "pg_catalog"."text"`) || !strings.Contains(stdout, "1 failure,") {
		t.Errorf("a column is missing, and it ends with %d:\n%s", code, stdout)
	}
}

func TestCheckAsksThePublisher(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, testbed.Options{})
	d := newDesk(t, server)
	broker, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "plain.replies.eu"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	brokers := broker.ListenAddrs()[0]
	ask := trickleConsumer("check", "--policy", d.policy, "--replica", d.dst.dsn, "--brokers", brokers, "--consumer", "eu", "--ask")
	publisher := start(t, trickle("run", "--policy", d.policy, "--source", d.src.dsn, "--brokers", brokers, "--listen", ""))
	publisher.says(t, "publishing")
	code, r := preflight(t, ask)
	found := of(r, "replica tables", "agreement")
	if code != 0 || len(found) != 2 || found[0].Verdict != check.OK || found[1].Verdict != check.OK { // the tables, and whose they are
		t.Errorf("it ends with %d: %+v", code, r)
	}
	d.dst.exec(t, `ALTER TABLE t ALTER v TYPE bytea USING v::bytea`)
	if code, r = preflight(t, ask); code != 1 || of(r, "replica tables", "agreement")[0].Verdict != check.Failure {
		t.Errorf("another type, and it ends with %d: %+v", code, r)
	}
	publisher.stop(t, syscall.SIGTERM)
	if code, r = preflight(t, ask); code != 0 || of(r, "replica tables", "agreement")[0].Verdict != check.NotChecked {
		t.Errorf("nobody answers, and it ends with %d: %+v", code, r)
	}
}

func TestCheckOfBadSettings(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, testbed.Options{})
	d := newDesk(t, server)
	nowhere := closedPort(t)
	for name, c := range map[string]struct {
		command
		code int
		says string
	}{
		"no policy":           {trickle("check", "--source", d.src.dsn), 2, "--policy"},
		"an empty policy":     {trickle("check", "--source", d.src.dsn, "--policy", writeFile(t, "policy.yaml", "")), 2, "policy.yaml"},
		"no source":           {trickle("check", "--policy", d.policy), 2, "--source"},
		"no replica":          {trickleConsumer("check", "--policy", d.policy), 2, "--replica"},
		"a DSN that is none":  {trickle("check", "--policy", d.policy, "--source", "postgres://x:y@:z/"), 2, "source DSN"},
		"no time at all":      {trickle("check", "--policy", d.policy, "--source", d.src.dsn, "--timeout", "0s"), 2, "--timeout"},
		"another format":      {trickle("check", "--policy", d.policy, "--source", d.src.dsn, "--format", "xml"), 2, "--format"},
		"a server that's out": {trickle("check", "--policy", d.policy, "--source", "postgres://x@"+nowhere+"/x"), 1, ""},
		"brokers that are":    {trickle("check", "--policy", d.policy, "--source", d.src.dsn, "--brokers", nowhere), 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			code, stdout, stderr := run(t, c.command)
			if code != c.code || !strings.Contains(stderr, c.says) {
				t.Errorf("it ends with %d and says %q", code, stderr)
			}
			if c.code == 2 && stdout != "" || c.code == 1 && !strings.Contains(stdout, "failure") {
				t.Errorf("it prints %q", stdout)
			}
			if took := time.Since(began); took > 45*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}
