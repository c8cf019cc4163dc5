package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/trickle-verify/trickle/heartbeat"
	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/kafka"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/internal/testbed/stack"
	"github.com/trickle-verify/trickle/internal/testbed/workload"
)

const (
	shelfSeed  = 20261126
	shelfGroup = "connect-shelf-sink" // of Debezium's sink
	shelfRows  = 30_000

	// The connector's topics are the log; objects are small, so that a set has many. A proof waits for what is late, be it minutes: a machine may have more to do than this.
	shelfPolicy = `
pipeline: shelf
schedule: {cycle: 1h}
quiet: 1s
range_rows: 1000
tables: [{table: public.*}]
gate: {max_lag: 10m, heartbeat: {interval: 500ms}, slot: %s%s}
detect: {confirm: {delay: 200ms}%s}
resync: {partial: {discrepancies: 1000000}, full: {discrepancies: 1000000, ratio: 100%%}, debezium: {topic_prefix: shelf}}
`
	shelfBaseline = `baseline: {url: "file://%s", refresh: %s, keep: 2, object: 64KiB}
`

	// Beside the shop: values of a unique index that move between rows, a foreign key, a text key with values that are kept out of line, and nothing.
	shelfSchema = `
CREATE TABLE seats (id int PRIMARY KEY, place int NOT NULL, CONSTRAINT seats_place UNIQUE (place));
CREATE TABLE visits (id int PRIMARY KEY, seat int NOT NULL REFERENCES seats, n int NOT NULL DEFAULT 0);
CREATE INDEX visits_seat ON visits (seat);
CREATE TABLE labels (code text PRIMARY KEY, n int NOT NULL, big text);
ALTER TABLE labels ALTER big SET STORAGE EXTERNAL;
CREATE TABLE nothing (id int PRIMARY KEY, v text)`
	shelfFill = `
INSERT INTO seats SELECT i, i FROM generate_series(1, 3000) i; -- several objects, of different moments
INSERT INTO visits SELECT i, 1 + i % 500 FROM generate_series(1, 1000) i;
INSERT INTO labels SELECT 'label ' || i, 0, repeat(md5(i::text), 300) FROM generate_series(1, 300) i`
)

func shelfTables() []string {
	return append(workload.Tables(), "public.seats", "public.visits", "public.labels", "public.nothing")
}

// shelf is a source that is being written, real Kafka and Debezium, a store, and a server for replicas that get lost.
type shelf struct {
	t         *testing.T
	stack     *stack.Stack
	src       database
	server    *testbed.Postgres // of the replicas
	source    stack.Source
	store     string // folder
	policy    string // with the view
	writer    *workload.Writer
	admin     *kadm.Client
	publisher *process
	random    *rand.Rand
	n         int // of the writes beside the shop's, which never repeat one
	stops     []func()
	lost      map[string]bool // the databases that there are
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	ctx := t.Context()
	s := &shelf{t: t, lost: map[string]bool{}, server: pgtest.Server(t, testbed.Options{}), store: filepath.Join(t.TempDir(), "store"), random: rand.New(rand.NewPCG(shelfSeed, shelfSeed))}
	s.src = connect(t, pgtest.DatabaseOn(t, pgtest.Server(t, testbed.Options{})))
	if err := workload.Schema(ctx, s.src.dsn); err != nil {
		t.Fatal(err)
	}
	if err := workload.Fill(ctx, s.src.dsn, shelfRows); err != nil {
		t.Fatal(err)
	}
	s.src.exec(t, shelfSchema, shelfFill, heartbeat.New(nil, "trickle.heartbeat", "shelf").DDL(), `ANALYZE`)
	s.stack = stack.Start(t, kafka.Options{})
	s.source = s.stack.Source("shelf", s.src.dsn, shelfTables(), nil)
	client, err := kgo.NewClient(kgo.SeedBrokers(s.stack.Broker.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	s.admin = kadm.NewClient(client)
	rows := value[int64](t, s.src, `SELECT sum(reltuples)::bigint FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'`) // nobody writes yet
	await(t, patience, "the first copy is in the topics", func() bool {
		var n int64
		s.ends(t).Each(func(o kadm.Offset) { n += o.At })
		return n >= rows
	})
	s.policy = s.policyOf(s.store, "1h")
	s.writer = workload.NewWriter(s.src.dsn, 30, shelfSeed)
	return s
}

// policyOf is the pipeline's with a view in a folder.
func (s *shelf) policyOf(store, refresh string) string { return s.policyWith(store, refresh, "", "") }

// policyWith is that with more of the gate and of what is done with drift.
func (s *shelf) policyWith(store, refresh, gate, detect string) string {
	s.t.Helper()
	return writeFile(s.t, "policy.yaml", fmt.Sprintf(shelfPolicy+shelfBaseline, s.source.Slot, gate, detect, store, refresh))
}

// publish starts the publisher, which answers whoever proves a replica. It builds no sets.
func (s *shelf) publish() {
	s.t.Helper()
	policy := writeFile(s.t, "policy.yaml", fmt.Sprintf(shelfPolicy, s.source.Slot, "", ""))
	s.publisher = start(s.t, trickle("run", "--policy", policy, "--source", s.src.dsn, "--brokers", s.brokers(), "--listen", ""))
}

func (s *shelf) brokers() string { return s.stack.Broker.Addr() }

// load begins to write.
func (s *shelf) load(t *testing.T) {
	t.Helper()
	s.stops = append(s.stops, background(t, s.writer.Run), background(t, s.writeOthers))
}

// rest ends all writing.
func (s *shelf) rest() {
	for _, stop := range s.stops {
		stop()
	}
	s.stops = nil
}

// writeOthers writes the tables that the shop's writer doesn't know: unique values change places, keys change, big values are left alone and are written.
func (s *shelf) writeOthers(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s.n++
		n, a, b := s.n, 1+s.n*7%500, 1+s.n*13%500
		sql := []string{fmt.Sprintf(`UPDATE labels SET n = n + 1 WHERE rtrim(code, '.') = 'label %d'`, a)}
		switch n % 5 {
		case 0:
			sql = append(sql, fmt.Sprintf(`UPDATE seats SET place = -place WHERE id IN (%[1]d, %[2]d); UPDATE seats x SET place = -y.place FROM seats y WHERE (x.id, y.id) IN ((%[1]d, %[2]d), (%[2]d, %[1]d))`,
				1+n*7%3000, 1+n*13%3000))
		case 1:
			sql = append(sql, fmt.Sprintf(`INSERT INTO seats VALUES (%[1]d, %[1]d); INSERT INTO visits VALUES (%[1]d, %[1]d)`, 10_000+n))
		case 2:
			sql = append(sql, fmt.Sprintf(`DELETE FROM visits WHERE seat = %[1]d; DELETE FROM seats WHERE id = %[1]d`, 10_000+n-51))
		case 3:
			sql = append(sql, fmt.Sprintf(`UPDATE labels SET code = code || '.' WHERE rtrim(code, '.') = 'label %d'`, b),
				fmt.Sprintf(`UPDATE visits SET seat = %d WHERE id = %d`, a, b))
		case 4:
			sql = append(sql, fmt.Sprintf(`UPDATE labels SET big = repeat(md5('%d'), %d) WHERE rtrim(code, '.') = 'label %d'`, n, 1+n%600, b),
				fmt.Sprintf(`INSERT INTO labels VALUES ('new %[1]d', 0, repeat(md5('%[1]d'), 200)); DELETE FROM labels WHERE code = 'new %[2]d'`, n, n-50))
		}
		// One transaction, and whole: the connection is not cut off in its commit.
		if _, err := s.src.pool.Exec(context.WithoutCancel(ctx), strings.Join(sql, "; "), pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
}

// ends is where the CDC's topics end.
func (s *shelf) ends(t *testing.T) kadm.Offsets {
	t.Helper()
	var topics []string
	for _, table := range append(shelfTables(), "trickle.heartbeat") {
		topics = append(topics, s.source.Prefix+"."+table)
	}
	ends, err := s.admin.ListEndOffsets(t.Context(), topics...)
	if err != nil {
		t.Fatal(err)
	}
	offsets := kadm.Offsets{} // of those that there are: an empty table has no topic
	ends.Each(func(o kadm.ListedOffset) {
		if o.Err == nil {
			offsets.AddOffset(o.Topic, o.Partition, o.Offset, o.LeaderEpoch)
		}
	})
	return offsets
}

// cut removes what the CDC's topics hold now, as their retention does in time.
func (s *shelf) cut(t *testing.T) {
	t.Helper()
	if _, err := s.admin.DeleteRecords(t.Context(), s.ends(t)); err != nil {
		t.Fatal(err)
	}
}

// build builds a set.
func (s *shelf) build(t *testing.T) {
	t.Helper()
	if code, _, stderr := run(t, s.building(s.policy)); code != 0 {
		t.Fatalf("baseline build ends with %d: %s", code, stderr)
	}
}

func (s *shelf) building(policy string) command {
	return trickle("baseline", "build", "--policy", policy, "--source", s.src.dsn, "--brokers", s.brokers(), "--format", "json")
}

// sets is the names of the complete sets in the store, oldest first.
func (s *shelf) sets(t *testing.T) []string {
	t.Helper()
	return complete(t, s.store)
}

func complete(t *testing.T, store string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(store, "shelf", "sets", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		if name := strings.TrimSuffix(filepath.Base(f), ".json"); !strings.HasSuffix(name, ".partial") {
			names = append(names, name)
		}
	}
	return names
}

// lose drops a replica's database, with whoever uses it, and makes it anew, empty. The first time there is none.
func (s *shelf) lose(t *testing.T, name string) database {
	t.Helper()
	if s.lost[name] {
		if err := s.server.DropDatabase(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	s.lost[name] = true
	dsn, err := s.server.CreateDatabase(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return connect(t, dsn)
}

func (s *shelf) restoring(policy string, replica database, args ...string) command {
	return trickleConsumer(append([]string{
		"restore", "--policy", policy, "--replica", replica.dsn, "--brokers", s.brokers(), "--consumer", "replica", "--format", "json",
	}, args...)...)
}

// run runs a restore to its end.
func (s *shelf) run(t *testing.T, c command) (code int, stdout, stderr string) {
	t.Helper()
	p := start(t, c)
	code = p.wait(t, 3*patience)
	return code, p.stdout.String(), p.stderr.String()
}

// identical ends the writing, has the replica play forward what is left, and compares.
func (s *shelf) identical(t *testing.T, replica database) {
	t.Helper()
	s.rest()
	if r := s.revive(t, replica, "--play-forward"); r.Loaded {
		t.Errorf("a replica whose read point is in the log was loaded again: %s", r.Reason)
	}
	s.same(t, replica)
}

// same compares rows, indexes and constraints.
func (s *shelf) same(t *testing.T, replica database) {
	t.Helper()
	all, err := workload.Compare(t.Context(), s.src.dsn, replica.dsn, shelfTables())
	if err != nil {
		t.Fatal(err)
	}
	if !workload.Identical(all) {
		t.Errorf("the sides differ: %+v", all)
	}
	if code, stdout, stderr := run(t, trickle("diff", "--policy", s.policy, "--source", s.src.dsn, "--replica", replica.dsn)); code != 0 {
		t.Errorf("trickle diff ends with %d: %s%s", code, stdout, stderr)
	}
	const shape = `SELECT string_agg(d, E'\n' ORDER BY d) FROM (SELECT indexdef d FROM pg_indexes WHERE schemaname = 'public' UNION ALL
		SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n') x`
	if here, there := value[string](t, s.src, shape), value[string](t, replica, shape); here != there {
		t.Errorf("the source has\n%s\nthe replica\n%s", here, there)
	}
}

// jdbc is a database as Debezium's sink connects to it, past foreign keys and triggers.
func (s *shelf) jdbc(replica database) string {
	s.t.Helper()
	u, err := url.Parse(replica.dsn)
	if err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprintf("jdbc:postgresql://%s%s?stringtype=unspecified&options=-c%%20session_replication_role%%3Dreplica", u.Host, u.Path)
}
