package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/internal/testbed/workload"
)

// Both ends of a desk over a broker.
func (d *desk) publisher(brokers string, args ...string) *process {
	d.t.Helper()
	return start(d.t, trickle(append([]string{"run", "--policy", d.policy, "--source", d.src.dsn, "--brokers", brokers, "--listen", ""}, args...)...))
}

func (d *desk) detector(brokers string) *process {
	d.t.Helper()
	return start(d.t, trickleConsumer("run", "--policy", d.policy, "--replica", d.dst.dsn, "--brokers", brokers, "--listen", ""))
}

// verified waits until a table was wholly compared since now, so that what was wrong before is known.
func (d *desk) verified(tables ...string) {
	d.t.Helper()
	began := value[time.Time](d.t, d.dst, `SELECT clock_timestamp()`)
	for _, name := range tables {
		await(d.t, patience, name+" is compared", func() bool {
			return value[bool](d.t, d.dst, `SELECT EXISTS (SELECT FROM trickle.tables t WHERE table_name = $1 AND ranges > 0 AND paused = '' AND ranges <=
				(SELECT count(*) FROM trickle.ranges r WHERE (r.pipeline, r.table_name) = (t.pipeline, t.table_name) AND verified_at > $2))`, name, began)
		})
	}
}

// corrected waits until a table is the same on both sides.
func (d *desk) corrected(tables ...string) {
	d.t.Helper()
	await(d.t, patience, fmt.Sprint(tables, " is the same on both sides"), func() bool {
		all, err := workload.Compare(d.t.Context(), d.src.dsn, d.dst.dsn, tables)
		if err != nil {
			d.t.Fatal(err)
		}
		return workload.Identical(all)
	})
}

// One table's trouble is that table's: it is paused with the reason, the others go on, and once it is mended it resumes by itself.
func TestTablesInTrouble(t *testing.T) {
	t.Parallel()
	d := newDesk(t, pgtest.Server(t, testbed.Options{}))
	for _, side := range []database{d.src, d.dst} {
		side.exec(t, `CREATE TABLE empty (id int PRIMARY KEY)`, `CREATE TABLE one (id int PRIMARY KEY, v text)`, `INSERT INTO one VALUES (1, 'one')`,
			`CREATE TABLE narrow (id int PRIMARY KEY, v text)`, `INSERT INTO narrow VALUES (1, 'narrow')`, `CREATE TABLE keyless (v text)`,
			`CREATE TABLE secret (id int PRIMARY KEY)`)
	}
	d.src.exec(t, `CREATE TABLE missing (id int PRIMARY KEY, v text)`, `INSERT INTO missing VALUES (1, 'missing')`, `ALTER TABLE narrow ADD COLUMN more text DEFAULT 'more'`,
		`CREATE ROLE publisher LOGIN`, `GRANT SELECT ON ALL TABLES IN SCHEMA public TO publisher`, `REVOKE SELECT ON secret FROM publisher`)
	cursors := t.TempDir() + "/cursors.json"
	p := d.single("--source", as(t, d.src.dsn, "publisher", ""), "--cursor-file", cursors)
	p.says(t, "verifying")
	d.dst.exec(t, `UPDATE t SET v = 'drift' WHERE id = 50`, `DELETE FROM one`, `INSERT INTO empty VALUES (7)`)
	d.corrected("public.t", "public.one", "public.empty")
	d.verified("public.t", "public.one", "public.empty")

	// What only the replica can know.
	await(t, patience, "two tables are paused", func() bool {
		r := status(t, d.policy, d.dst.dsn)
		return table(r, "public.missing").Paused != "" && table(r, "public.narrow").Paused != ""
	})
	r := status(t, d.policy, d.dst.dsn)
	for name, words := range map[string][]string{"public.missing": {"public.missing", "replica"}, "public.narrow": {`lacks column "more"`, "columns.exclude"}} {
		for _, word := range words {
			if paused := table(r, name).Paused; !strings.Contains(paused, word) {
				t.Errorf("%s is paused because %q, which does not say %q", name, paused, word)
			}
		}
	}
	if n := table(r, "public.narrow").RangesVerified + table(r, "public.missing").RangesVerified; n != 0 {
		t.Errorf("%d ranges of paused tables count as verified", n)
	}
	// What the source knows.
	code, stdout, stderr := run(t, trickle("status", "--policy", d.policy, "--format", "json", "--cursor-file", cursors))
	for _, words := range []string{`"public.keyless"`, "key", `"public.secret"`, "GRANT SELECT ON"} {
		if code != 0 || !strings.Contains(stdout, words) {
			t.Errorf("trickle status ends with %d (%s) and does not say %q: %s", code, stderr, words, stdout)
		}
	}
	// And what the replica learns of it.
	for name, words := range map[string]string{"public.keyless": "key", "public.secret": "GRANT SELECT ON"} {
		await(t, patience, name+" is told of", func() bool {
			t := table(status(t, d.policy, d.dst.dsn), name)
			return t.Unscanned != nil && strings.Contains(t.Unscanned.Reason, words) && t.Replica == name && t.Paused == ""
		})
	}

	d.dst.exec(t, `ALTER TABLE narrow ADD COLUMN more text DEFAULT 'more'`, `CREATE TABLE missing (id int PRIMARY KEY, v text)`)
	d.src.exec(t, `GRANT SELECT ON secret TO publisher`, `INSERT INTO secret VALUES (1)`)
	d.verified("public.missing", "public.narrow", "public.secret")
	d.corrected("public.missing", "public.narrow", "public.secret")
	if r = status(t, d.policy, d.dst.dsn); table(r, "public.secret").Unscanned != nil || table(r, "public.keyless").Unscanned == nil {
		t.Errorf("of the two tables that could not be read, the one that can be now is left: %+v", r.Tables)
	}
	if got := value[int64](t, d.dst, `SELECT count(*) FROM trickle.ranges WHERE table_name IN ('public.one', 'public.empty') AND lo IS NULL AND hi IS NULL`); got != 2 {
		t.Errorf("%d of the two smallest tables are one range from end to end", got)
	}
	if code := p.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// A message that nobody can read is counted, told of once with its place, and what comes behind it is dealt with.
func TestUndecodableMessage(t *testing.T) {
	t.Parallel()
	d := newDesk(t, pgtest.Server(t, testbed.Options{}))
	broker, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	brokers := broker.ListenAddrs()[0]
	d.publisher(brokers)
	detector := d.detector(brokers)
	detector.says(t, "detecting")
	d.verified("public.t")
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var places []string
	for partition := range int32(8) { // whichever the table's messages go to
		sent, err := client.ProduceSync(t.Context(), &kgo.Record{Topic: "plain.verify", Partition: partition, Value: []byte("rubbish")}).First()
		if err != nil {
			t.Fatal(err)
		}
		places = append(places, fmt.Sprintf("plain.verify/%d@%d", partition, sent.Offset))
	}
	await(t, patience, "all of them are counted", func() bool { return status(t, d.policy, d.dst.dsn).Refused == 8 })
	d.dst.exec(t, `UPDATE t SET v = 'drift' WHERE id = 50`)
	d.verified("public.t")
	d.corrected("public.t")
	r := status(t, d.policy, d.dst.dsn)
	if r.Refused != 8 || !strings.Contains(r.RefusedReason, "plain.verify/") {
		t.Errorf("%d refused: %s", r.Refused, r.RefusedReason)
	}
	logged := 0
	for _, place := range places {
		logged += strings.Count(detector.stderr.String(), place)
	}
	if logged != 1 {
		t.Errorf("the same reason is logged %d times, wanted once with its place", logged)
	}
	d.watched(brokers)
}

// watched looks at the running pipeline as an operator does.
func (d *desk) watched(brokers string) {
	d.t.Helper()
	code, out, errs := run(d.t, trickle("tap", "--policy", d.policy, "--brokers", brokers, "--from-start"))
	thumbprints, unreadable := 0, 0
	for line := range strings.Lines(out) {
		var m struct {
			Topic, Error string
			Message      struct {
				Table      string
				Thumbprint *struct{ Rows string }
			}
		}
		if err := json.Unmarshal([]byte(line), &m); err != nil || m.Topic != "plain.verify" {
			d.t.Errorf("tap printed %q: %v", line, err)
		}
		if m.Message.Thumbprint != nil && m.Message.Table == "public.t" {
			thumbprints++
		}
		if m.Error != "" {
			unreadable++
		}
	}
	if code != 0 || thumbprints == 0 || unreadable != 8 {
		d.t.Errorf("tap ended with %d after %d thumbprints and %d unreadable messages: %s", code, thumbprints, unreadable, errs)
	}
	code, out, errs = run(d.t, trickle("status", "--policy", d.policy, "--brokers", brokers, "--format", "json"))
	var progress struct{ Tables []app.TableProgress }
	if err := json.Unmarshal([]byte(out), &progress); code != 0 || err != nil || len(progress.Tables) == 0 || progress.Tables[0].Cycle == 0 {
		d.t.Errorf("status ended with %d, printed %s, %s: %v", code, out, errs, err)
	}
}

// The broker is away for some seconds, and comes back with what it had: both sides wait and nothing is lost.
func TestBrokerGoesAway(t *testing.T) {
	t.Parallel()
	d := newDesk(t, pgtest.Server(t, testbed.Options{}))
	_, port, err := net.SplitHostPort(closedPort(t))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	open := func() *kfake.Cluster {
		broker, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(n), kfake.DataDir(folder))
		if err != nil {
			t.Fatal(err)
		}
		return broker
	}
	broker := open()
	t.Cleanup(func() { broker.Close() })
	publisher, detector := d.publisher("127.0.0.1:"+port), d.detector("127.0.0.1:"+port)
	detector.says(t, "detecting")
	d.verified("public.t")
	for range 2 {
		broker.Close()
		d.dst.exec(t, `UPDATE t SET v = 'drift' WHERE id % 10 = 0`, `DELETE FROM t WHERE id % 10 = 1`, `INSERT INTO t VALUES (1000, 'extra')`)
		time.Sleep(3 * time.Second)
		broker = open()
		d.corrected("public.t")
		d.verified("public.t")
	}
	for _, p := range []*process{publisher, detector} {
		if code := p.stop(t, syscall.SIGTERM); code != 0 {
			t.Errorf("%s ends with status %d", p.name, code)
		}
	}
	if got := value[int](t, d.dst, `SELECT count(*) FROM trickle.corrections`); got != 42 {
		t.Errorf("%d corrections, want 42", got)
	}
}

// A publisher needs SELECT rights and nothing else; it works without a heartbeat.
func TestPublisherWithSelectOnly(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, testbed.Options{})
	login(t, server, "publisher")
	d := newDesk(t, server)
	d.src.exec(t, `GRANT SELECT ON t TO publisher`, `REVOKE CREATE ON SCHEMA public FROM PUBLIC`)
	d.single("--source", as(t, d.src.dsn, "publisher", "right")).says(t, "verifying")
	d.dst.exec(t, `UPDATE t SET v = 'drift' WHERE id = 50`, `DELETE FROM t WHERE id = 51`, `INSERT INTO t VALUES (1000, 'extra')`)
	d.corrected("public.t")
}

// The first signal ends a command in order, the second at once.
func TestSignals(t *testing.T) {
	t.Parallel()
	d := newDesk(t, pgtest.Server(t, testbed.Options{}))
	broker, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	brokers := broker.ListenAddrs()[0]
	publisher, detector := d.publisher(brokers), d.detector(brokers)
	detector.says(t, "detecting")
	d.verified("public.t")
	for _, p := range []*process{publisher, detector} {
		if code := p.stop(t, syscall.SIGTERM); code != 0 {
			t.Errorf("%s ends with status %d after SIGTERM", p.name, code)
		}
	}
	single := d.single()
	single.says(t, "verifying")
	if code := single.stop(t, syscall.SIGINT); code != 0 {
		t.Errorf("exit status %d after SIGINT", code)
	}

	// With the broker gone, leaving takes a while; the second signal doesn't wait for it.
	publisher, detector = d.publisher(brokers), d.detector(brokers)
	detector.says(t, "detecting")
	d.verified("public.t")
	broker.Close()
	if err := publisher.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	began := time.Now()
	if !publisher.running() {
		t.Fatal("the publisher did not wait for anything: this shows nothing")
	}
	if code := publisher.stop(t, syscall.SIGTERM); code == 0 || time.Since(began) > 2*time.Second {
		t.Errorf("the second signal ends the publisher with status %d after %s", code, time.Since(began))
	}
	if code := detector.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("the detector ends with status %d where the broker is gone", code)
	}
}
