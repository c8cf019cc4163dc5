package cdc_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/trickle-verify/trickle/internal/testbed/cdc"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/internal/testbed/workload"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// bench is one pipeline with its parts startable apart.
type bench struct {
	t      *testing.T
	broker *kfake.Cluster
	cfg    cdc.Config
	source *cdc.Source
	sink   *cdc.Sink
}

// setUp makes both databases with the same schema and a prepared pipeline; nothing runs yet.
func setUp(t *testing.T, schema string) *bench {
	t.Helper()
	broker, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	b := &bench{t: t, broker: broker, cfg: cdc.Config{
		Source: pgtest.Database(t), Replica: pgtest.Database(t),
		Kafka: []kgo.Opt{kgo.SeedBrokers(broker.ListenAddrs()...)},
		Topic: "changes", Group: "sink", Slot: fmt.Sprintf("cdc_%d", slots.Add(1)),
	}}
	if schema != "" {
		pgtest.Exec(t, b.cfg.Source, schema)
		pgtest.Exec(t, b.cfg.Replica, schema)
	}
	b.prepare()
	b.source, b.sink = cdc.NewSource(b.cfg), cdc.NewSink(b.cfg)
	return b
}

// slots are names in the shared server.
var slots atomic.Int64

func (b *bench) prepare() {
	b.t.Helper()
	for range 2 { // the second time there is nothing left to do
		if err := cdc.Prepare(b.t.Context(), b.cfg); err != nil {
			b.t.Fatal(err)
		}
	}
}

// start runs something until the returned function is called, or the test ends.
func start(t *testing.T, run func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { run(ctx) })
	stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(stop)
	return stop
}

func (b *bench) barrier() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	if err := cdc.Barrier(ctx, b.cfg.Source, b.sink); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) mustBeIdentical(tables ...string) {
	b.t.Helper()
	all, err := workload.Compare(b.t.Context(), b.cfg.Source, b.cfg.Replica, tables)
	if err != nil {
		b.t.Fatal(err)
	}
	if !workload.Identical(all) {
		b.t.Errorf("%+v", all)
	}
}

const everyType = `
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE "Every Type" (
	"Id" uuid, part int, PRIMARY KEY (part, "Id"),
	m mood, ms mood[], p pair, d positive, n numeric, n2 numeric(10,2), f float8, b bytea, j json, jb jsonb, t text, c char(4), v varchar(9),
	ts timestamp, tz timestamptz, dt date, iv interval, bits bit(3), arr text[], r int4range, ip inet, pt point, vec tsvector, x xml, bo boolean,
	g int GENERATED ALWAYS AS (part * 2) STORED, seq bigint GENERATED ALWAYS AS IDENTITY
);
CREATE TABLE only_keys (a int, b text, PRIMARY KEY (a, b));
CREATE TABLE whole (a int PRIMARY KEY, b text, big text);
ALTER TABLE whole REPLICA IDENTITY FULL;`

func TestEveryTypeAndEveryOperation(t *testing.T) {
	t.Parallel()
	b := setUp(t, everyType)
	start(t, b.source.Run)
	start(t, b.sink.Run)
	const big = `(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 500) i)`
	steps := [][]string{{
		`INSERT INTO "Every Type" SELECT md5(i::text)::uuid, i, 'happy', '{sad,ok}', ROW(1, 'a,"b')::pair, 3, 1.500, 2.5, 'NaN', '\x00ff', '{"b": 1,  "a": 2}', '{"a": null}',
			` + big + `, 'ab', 'x''y', now(), now(), 'infinity', '1 mon 2 days', B'101', ARRAY['a', NULL, '', 'NULL'], '[1,5)', '10.0.0.1/8', '(1,2)', 'a:1 b:2', '<a/>', true
			FROM generate_series(1, 20) i`,
		`INSERT INTO "Every Type" ("Id", part) VALUES (md5('empty')::uuid, 99)`,
		`INSERT INTO only_keys VALUES (1, 'a'), (2, 'b'), (3, '')`,
		`INSERT INTO whole SELECT i, 'b', ` + big + ` FROM generate_series(1, 5) i`,
	}, {
		`UPDATE "Every Type" SET m = 'sad', ms = NULL WHERE part < 5`,          // the big text stays out of line
		`UPDATE "Every Type" SET part = part + 100 WHERE part BETWEEN 3 AND 6`, // a new key, and the text still left out
		`UPDATE "Every Type" SET part = 300, t = 'short' WHERE part = 10`,
		`UPDATE "Every Type" SET t = NULL WHERE part = 8`,
		`DELETE FROM "Every Type" WHERE part = 9`,
		`UPDATE only_keys SET b = 'c' WHERE a = 1`, `DELETE FROM only_keys WHERE a = 3`,
		`UPDATE whole SET a = a + 10 WHERE a < 3`, `UPDATE whole SET b = NULL WHERE a = 3`, `DELETE FROM whole WHERE a = 4`,
	}, {
		`BEGIN; TRUNCATE whole, only_keys; INSERT INTO whole VALUES (1, 'after', NULL); COMMIT`,
	}}
	for i, statements := range steps {
		pgtest.Exec(t, b.cfg.Source, statements...)
		b.barrier()
		b.mustBeIdentical(`"Every Type"`, "only_keys", "whole")
		if t.Failed() {
			t.Fatalf("step %d", i)
		}
	}
	if err := b.sink.Stats().Err; err != nil {
		t.Error(err)
	}
}

// Rows written before the copy, between slot and copy, and after it; both ends and the broker's group come and go meanwhile.
func TestConvergesUnderWritesAndRestarts(t *testing.T) {
	t.Parallel()
	b := setUp(t, "")
	if err := workload.Schema(t.Context(), b.cfg.Source); err != nil {
		t.Fatal(err)
	}
	if err := workload.Fill(t.Context(), b.cfg.Source, 3000); err != nil {
		t.Fatal(err)
	}
	writer := workload.NewWriter(b.cfg.Source, 1000, 5)
	stopWriter := start(t, func(ctx context.Context) {
		if err := writer.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	await(t, func() bool { return writer.Writes() > 100 })
	if err := workload.Replicate(t.Context(), b.cfg.Source, b.cfg.Replica); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	stopSource, stopSink := start(t, b.source.Run), start(t, b.sink.Run)
	for range 12 {
		enough := writer.Writes() + 100 + random.Int64N(200)
		await(t, func() bool { return writer.Writes() > enough })
		if random.IntN(2) == 0 {
			stopSource()
			stopSource = start(t, b.source.Run)
		} else {
			stopSink()
			stopSink = start(t, b.sink.Run)
		}
	}
	stopWriter()
	b.barrier()
	b.mustBeIdentical(workload.Tables()...)
	if got := b.sink.Stats(); got.Applied < writer.Writes()/2 {
		t.Errorf("%d rows were written and only %d events applied", writer.Writes(), got.Applied)
	}
	await(t, func() bool { // the source confirms, so that the server may forget its log
		return pgtest.Text(t, b.cfg.Source, "SELECT pg_current_wal_lsn() - confirmed_flush_lsn < 100000 FROM pg_replication_slots WHERE slot_name = '"+b.cfg.Slot+"'") == "true"
	})
}

// The whole topic comes again, from its first record, over a replica that has it all.
func TestReplayChangesNothing(t *testing.T) {
	t.Parallel()
	b := setUp(t, "")
	for _, dsn := range []string{b.cfg.Source, b.cfg.Replica} {
		if err := workload.Schema(t.Context(), dsn); err != nil {
			t.Fatal(err)
		}
	}
	if err := workload.Fill(t.Context(), b.cfg.Source, 500); err != nil {
		t.Fatal(err)
	}
	start(t, b.source.Run)
	stopSink := start(t, b.sink.Run)
	writer := workload.NewWriter(b.cfg.Source, 2000, 9)
	stopWriter := start(t, func(ctx context.Context) {
		if err := writer.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	await(t, func() bool { return writer.Writes() > 2000 })
	stopWriter()
	b.barrier()
	b.mustBeIdentical(workload.Tables()...)
	stopSink()
	client, err := kgo.NewClient(b.cfg.Kafka...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).DeleteGroup(t.Context(), b.cfg.Group); err != nil {
		t.Fatal(err)
	}
	before := b.sink.Stats().Applied
	start(t, b.sink.Run)
	b.barrier()
	if again := b.sink.Stats().Applied - before; again < before {
		t.Fatalf("only %d of %d events came again", again, before)
	}
	b.mustBeIdentical(workload.Tables()...)
}

func TestFaults(t *testing.T) {
	t.Parallel()
	b := setUp(t, `CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)`)
	start(t, b.source.Run)
	start(t, b.sink.Run)
	count := func(table string) string { return pgtest.Text(t, b.cfg.Replica, "SELECT count(*) FROM "+table) }

	b.sink.SkipNext("public.a", 3)
	pgtest.Exec(t, b.cfg.Source, `INSERT INTO b SELECT generate_series(1, 10)`, `INSERT INTO a SELECT generate_series(1, 10)`)
	b.barrier()
	if a, all := pgtest.Text(t, b.cfg.Replica, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM a"), count("b"); a != "4 5 6 7 8 9 10" || all != "10" {
		t.Errorf("after three events of a were skipped, a has %s and b %s rows", a, all)
	}

	b.sink.SetFilter(func(e cdc.Event) bool { return e.Op == cdc.Delete && *e.Key["id"] == "5" })
	pgtest.Exec(t, b.cfg.Source, `DELETE FROM b`)
	b.barrier()
	if left := pgtest.Text(t, b.cfg.Replica, "SELECT string_agg(id::text, ' ') FROM b"); left != "5" {
		t.Errorf("the filtered delete left %s", left)
	}
	b.sink.SetFilter(nil)
	if got := b.sink.Stats(); got.Dropped != 4 || got.Err != nil {
		t.Errorf("%+v", got)
	}

	b.sink.Pause()
	pgtest.Exec(t, b.cfg.Source, `INSERT INTO b VALUES (100)`)
	produced := b.source.Produced()
	await(t, func() bool { return b.source.Produced() >= produced })
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := cdc.Barrier(short, b.cfg.Source, b.sink); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a paused sink got on: %v", err)
	}
	if got := count("b WHERE id = 100"); got != "0" {
		t.Error("a paused sink applied a row")
	}
	b.sink.Resume()
	b.barrier()
	if got := count("b WHERE id = 100"); got != "1" {
		t.Error("the row is lost after the pause")
	}

	b.sink.SetDelay(400 * time.Millisecond)
	began := time.Now()
	pgtest.Exec(t, b.cfg.Source, `INSERT INTO b VALUES (101)`)
	b.barrier()
	if took := time.Since(began); took < 400*time.Millisecond {
		t.Errorf("delayed by 400ms, it came through in %v", took)
	}
	b.sink.SetDelay(time.Hour)
	pgtest.Exec(t, b.cfg.Source, `INSERT INTO b VALUES (102)`)
	b.sink.SetDelay(0) // takes effect at once on what waits already
	b.barrier()
	if got := count("b WHERE id = 102"); got != "1" {
		t.Error("the row is lost after the delay")
	}
}

// An update that leaves a large value out can't make a row that the replica has lost; it must not get stuck on it either.
func TestPartialUpdateOfAMissingRowIsPassedOver(t *testing.T) {
	t.Parallel()
	b := setUp(t, `CREATE TABLE x (id int PRIMARY KEY, v int, big text NOT NULL)`)
	start(t, b.source.Run)
	start(t, b.sink.Run)
	pgtest.Exec(t, b.cfg.Source, `INSERT INTO x SELECT id, 1, (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 500) i) FROM generate_series(1, 2) id`)
	b.barrier()
	pgtest.Exec(t, b.cfg.Replica, `DELETE FROM x WHERE id = 1`)
	pgtest.Exec(t, b.cfg.Source, `UPDATE x SET v = 2`)
	b.barrier()
	if got := pgtest.Text(t, b.cfg.Replica, "SELECT string_agg(id || ':' || v, ' ') FROM x"); got != "2:2" {
		t.Errorf("the replica has %s", got)
	}
}

// What the broker has not taken is not confirmed to the server: a source that ends before that sends it again.
func TestNothingIsConfirmedBeforeTheBrokerHasIt(t *testing.T) {
	t.Parallel()
	b := setUp(t, `CREATE TABLE x (id int PRIMARY KEY)`)
	stop := start(t, b.source.Run)
	start(t, b.sink.Run)
	b.barrier()
	var open atomic.Bool
	seen := make(chan struct{}, 1000)
	b.broker.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		b.broker.KeepControl()
		if open.Load() {
			return nil, nil, false
		}
		select {
		case seen <- struct{}{}:
		default:
		}
		return nil, errors.New("the broker hangs up"), true
	})
	pgtest.Exec(t, b.cfg.Source, `INSERT INTO x VALUES (1)`)
	committed := pgtest.Text(t, b.cfg.Source, "SELECT pg_current_wal_lsn()")
	<-seen
	for range 50 { // several times as long as the source takes to report
		if pgtest.Text(t, b.cfg.Source, "SELECT confirmed_flush_lsn >= '"+committed+"' FROM pg_replication_slots WHERE slot_name = '"+b.cfg.Slot+"'") == "true" {
			t.Fatal("confirmed what only the source has")
		}
		time.Sleep(20 * time.Millisecond)
	}
	stop()
	open.Store(true)
	start(t, b.source.Run)
	b.barrier()
	b.mustBeIdentical("x")
}

// A sink that can't apply says why and goes on once it can; nothing is lost.
func TestStuckSinkRecovers(t *testing.T) {
	t.Parallel()
	b := setUp(t, "")
	pgtest.Exec(t, b.cfg.Source, `CREATE TABLE late (id int PRIMARY KEY, v text)`, `INSERT INTO late VALUES (1, 'a')`)
	start(t, b.source.Run)
	start(t, b.sink.Run)
	await(t, func() bool { err := b.sink.Stats().Err; return err != nil && strings.Contains(err.Error(), `"late"`) })
	pgtest.Exec(t, b.cfg.Replica, `CREATE TABLE late (v text, id int PRIMARY KEY, more text DEFAULT 'kept')`) // another order of columns
	b.barrier()
	if got := pgtest.Text(t, b.cfg.Replica, "SELECT id || v || more FROM late"); got != "1akept" {
		t.Errorf("got %s", got)
	}
	if err := b.sink.Stats().Err; err != nil {
		t.Errorf("the sink gets on and still reports %v", err)
	}
}

func TestRenameAndTableList(t *testing.T) {
	t.Parallel()
	b := setUp(t, `CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)`)
	if err := cdc.Drop(t.Context(), b.cfg); err != nil {
		t.Fatal(err)
	}
	b.cfg.Tables = []string{"public.a"}
	b.cfg.Rename = func(table string) string { return strings.Replace(table, "public.", "cache.", 1) }
	b.prepare()
	b.source, b.sink = cdc.NewSource(b.cfg), cdc.NewSink(b.cfg)
	pgtest.Exec(t, b.cfg.Replica, `CREATE SCHEMA cache; CREATE TABLE cache.a (id int PRIMARY KEY)`)
	start(t, b.source.Run)
	start(t, b.sink.Run)
	pgtest.Exec(t, b.cfg.Source, `INSERT INTO a VALUES (1)`, `INSERT INTO b VALUES (1)`)
	b.barrier()
	if got := pgtest.Text(t, b.cfg.Replica, "SELECT (SELECT count(*) FROM cache.a) || ' ' || (SELECT count(*) FROM public.a) || ' ' || (SELECT count(*) FROM b)"); got != "1 0 0" {
		t.Errorf("cache.a, public.a and b have %s rows", got)
	}
}

// await polls for what another goroutine does in its own time.
func await(t *testing.T, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
		time.Sleep(10 * time.Millisecond)
	}
}
