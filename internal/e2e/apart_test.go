package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/transport"
)

const (
	apartRows   = 20_000
	apartPolicy = `
pipeline: %s
schedule: {cycle: 1h}
quiet: 1s
range_rows: 30000  # one range: when it has been sent, nothing is for an hour
tables: [{table: public.t}]
gate: {assume_lag: 500ms}
`
)

// received is how many bytes a process has read so far, from files and from the network; 0 where the system doesn't tell.
func received(t *testing.T, p *process) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", p.cmd.Process.Pid))
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(line, "rchar: "); ok {
			bytes, err := strconv.Atoi(strings.TrimSpace(n))
			if err != nil {
				t.Fatal(err)
			}
			return bytes
		}
	}
	t.Fatalf("no count in %s", b)
	return 0
}

// Two pipelines on one Kafka, one of them with two replicas. A replica resyncs a table: it gets every byte of it, and the others none.
func TestRepliesAreOneReplicasAlone(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, testbed.Options{})
	broker, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	brokers := broker.ListenAddrs()[0]
	source := connect(t, pgtest.DatabaseOn(t, server))
	fill := func(d database) {
		// Text that doesn't compress.
		d.exec(t, `CREATE TABLE t (id int PRIMARY KEY, v text)`, fmt.Sprintf(`INSERT INTO t SELECT i, (SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, 16) j)
			FROM generate_series(1, %d) i`, apartRows), `VACUUM ANALYZE t`)
	}
	fill(source)
	policies := map[string]string{}
	for _, pipeline := range []string{"one", "two"} {
		policies[pipeline] = writeFile(t, pipeline+".yaml", fmt.Sprintf(apartPolicy, pipeline))
		start(t, trickle("run", "--policy", policies[pipeline], "--source", source.dsn, "--brokers", brokers, "--listen", ""))
	}
	type replica struct {
		pipeline, consumer string
		db                 database
		*process
	}
	var replicas []replica
	for _, r := range []replica{{pipeline: "one", consumer: "first"}, {pipeline: "one", consumer: "second"}, {pipeline: "two", consumer: "third"}} {
		r.db = connect(t, pgtest.DatabaseOn(t, server))
		fill(r.db)
		r.process = start(t, trickleConsumer("run", "--policy", policies[r.pipeline], "--replica", r.db.dsn, "--brokers", brokers, "--consumer", r.consumer, "--listen", ""))
		replicas = append(replicas, r)
	}
	t.Cleanup(func() {
		for _, r := range replicas {
			if t.Failed() {
				_, out, errs := run(t, trickleConsumer("status", "--policy", policies[r.pipeline], "--replica", r.db.dsn))
				t.Logf("%s of %s:\n%s%s", r.consumer, r.pipeline, out, errs)
			}
		}
	})
	for _, r := range replicas {
		await(t, patience, r.consumer+" has verified everything", func() bool {
			return value[bool](t, r.db, `SELECT to_regclass('trickle.tables') IS NOT NULL`) &&
				value[bool](t, r.db, `SELECT EXISTS (SELECT FROM trickle.tables WHERE ranges > 0 AND ranges_verified >= ranges)`)
		})
	}
	before := make([]int, len(replicas))
	for i, r := range replicas {
		before[i] = received(t, r.process)
	}
	first := replicas[0]
	first.db.exec(t, `TRUNCATE t`)
	if code, _, stderr := run(t, trickleConsumer("resync", "--table", "public.t", "--policy", policies["one"], "--replica", first.db.dsn)); code != 0 {
		t.Fatalf("resync ends with %d: %s", code, stderr)
	}
	await(t, patience, "the table is there again", func() bool {
		return value[int](t, first.db, `SELECT count(*) FROM t`) == apartRows && value[bool](t, first.db, `SELECT bool_and(state = 'done') FROM trickle.resyncs`)
	})
	got := make([]int, len(replicas))
	for i, r := range replicas {
		got[i] = received(t, r.process) - before[i]
	}
	bus, err := transport.NewKafka(t.Context(), transport.KafkaOptions{Brokers: broker.ListenAddrs()})
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	bytes := make([]int, len(replicas))
	for i, r := range replicas {
		records, err := bus.Replay(t.Context(), message.Topics{Pipeline: r.pipeline}.Replies(r.consumer))
		if err != nil {
			t.Fatal(err)
		}
		for _, record := range records {
			bytes[i] += len(record.Value)
			env, err := message.Codec{}.Decode(record.Topic, record.Value)
			if err != nil || env.GetConsumer() != r.consumer || env.GetPipeline() != r.pipeline {
				t.Errorf("a reply to %s of %s is on the topic of %s of %s: %v", env.GetConsumer(), env.GetPipeline(), r.consumer, r.pipeline, err)
			}
		}
		t.Logf("%s of %s: %d bytes of replies, %d bytes read by the process during the resync", r.consumer, r.pipeline, bytes[i], got[i])
	}
	table := value[int](t, source, `SELECT sum(length(v))::int FROM t`)
	if bytes[0] < table {
		t.Errorf("the replica that resyncs was sent %d bytes, and the table has %d", bytes[0], table)
	}
	for i := range replicas[1:] {
		// What is left is hellos, and the processes' own heartbeats and queries.
		if bytes[i+1] > table/1000 || got[i+1] > table/20 {
			t.Errorf("%s was sent %d bytes and read %d while %s got a table of %d", replicas[i+1].consumer, bytes[i+1], got[i+1], first.consumer, table)
		}
	}
}
