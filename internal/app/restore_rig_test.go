package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/export"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/transport"
)

const cdcTopic = "shop.public.t"

// restoreRig is a source, an empty replica, a store and a broker. The test plays CDC, event by event.
type restoreRig struct {
	t        *testing.T
	cluster  *kfake.Cluster
	kafka    *transport.Kafka
	src, dst *pgxpool.Pool
	settings Settings
	store    string

	mu  sync.Mutex
	lsn int
}

const restorePolicy = `
pipeline: shop
tables: [{table: public.t}]
gate: {assume_lag: 100ms}
detect: {confirm: {delay: 10ms}}
`

func newRestoreRig(t *testing.T) *restoreRig {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, cdcTopic, "shop.trickle.heartbeat"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	dir := t.TempDir()
	r := &restoreRig{t: t, cluster: cluster, store: "file://" + filepath.ToSlash(filepath.Join(dir, "view"))}
	file := filepath.Join(dir, "policy.yaml")
	r.settings = Settings{
		PolicyFile: file, SourceDSN: pgtest.Database(t), ReplicaDSN: pgtest.Database(t), Brokers: cluster.ListenAddrs(), Consumer: "cache",
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	r.policy(restorePolicy)
	r.src, r.dst = r.open(r.settings.SourceDSN), r.open(r.settings.ReplicaDSN)
	if r.kafka, err = transport.NewKafka(t.Context(), transport.KafkaOptions{Brokers: cluster.ListenAddrs()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.kafka.Close() })
	r.exec(r.src, `CREATE TABLE t (id bigint PRIMARY KEY, v text UNIQUE)`)
	r.exec(r.src, `INSERT INTO t SELECT i, 'value ' || i FROM generate_series(1, 1000) AS i`)
	return r
}

func (r *restoreRig) policy(text string) {
	r.t.Helper()
	text += "baseline: {url: \"" + r.store + "\", topics: [\"shop.public.*\", \"shop.trickle.*\"]}\n"
	if err := os.WriteFile(r.settings.PolicyFile, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *restoreRig) open(dsn string) *pgxpool.Pool {
	r.t.Helper()
	pool, err := postgres.Open(r.t.Context(), dsn, postgres.Options{Role: "test", Setting: "the test"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(pool.Close)
	return pool
}

func (r *restoreRig) exec(pool *pgxpool.Pool, sql string) {
	r.t.Helper()
	if _, err := pool.Exec(r.t.Context(), sql); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

func (r *restoreRig) value(pool *pgxpool.Pool, sql string) string {
	r.t.Helper()
	var v *string
	if err := pool.QueryRow(r.t.Context(), "SELECT ("+sql+")::text").Scan(&v); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	if v == nil {
		return ""
	}
	return *v
}

// build makes a set of the source as it is.
func (r *restoreRig) build() *baseline.Manifest {
	r.t.Helper()
	store, err := baseline.Open(r.t.Context(), baseline.Options{URL: r.store, Pipeline: "shop", Make: true})
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	id, err := postgres.Identify(r.t.Context(), r.src)
	if err != nil {
		r.t.Fatal(err)
	}
	built, err := export.Build(r.t.Context(), export.Parts{
		Source: postgres.NewSource(r.src), Store: store,
		Logs: func(ctx context.Context) ([]transport.Log, error) {
			return r.kafka.Logs(ctx, []string{"shop.public.*", "shop.trickle.*"})
		},
	}, export.Options{Pipeline: "shop", Source: id.String(), Tables: []export.Table{{Name: postgres.Name{Schema: "public", Table: "t"}}}, Object: 8 << 10})
	if err != nil {
		r.t.Fatal(err)
	}
	return built.Manifest
}

// change writes to the source, and to the CDC's topic what Debezium would. An empty value deletes.
func (r *restoreRig) change(id int, v string) {
	r.t.Helper()
	was := r.value(r.src, fmt.Sprintf(`SELECT v FROM t WHERE id = %d`, id))
	op, before, after := "u", "null", fmt.Sprintf(`{"id":%d,"v":%q}`, id, v)
	switch {
	case v == "":
		op, before, after = "d", fmt.Sprintf(`{"id":%d,"v":null}`, id), "null"
		r.exec(r.src, fmt.Sprintf(`DELETE FROM t WHERE id = %d`, id))
	case was == "":
		op = "c"
		r.exec(r.src, fmt.Sprintf(`INSERT INTO t VALUES (%d, '%s')`, id, v))
	default:
		r.exec(r.src, fmt.Sprintf(`UPDATE t SET v = '%s' WHERE id = %d`, v, id))
	}
	r.emit("t", op, before, after, fmt.Sprintf(`{"id":%d}`, id))
}

// emit writes an event as Debezium does.
func (r *restoreRig) emit(table, op, before, after, key string) {
	r.t.Helper()
	r.mu.Lock()
	r.lsn += 100
	lsn := r.lsn
	r.mu.Unlock()
	schema := "public"
	if table == "heartbeat" {
		schema = "trickle"
	}
	now := time.Now().UnixMilli()
	value := fmt.Sprintf(`{"before":%s,"after":%s,"op":%q,"ts_ms":%d,"source":{"connector":"postgresql","db":%q,"schema":%q,"table":%q,"txId":%d,"lsn":%d,"ts_ms":%d,"sequence":"[\"%d\",\"%d\"]"}}`,
		before, after, op, now, r.src.Config().ConnConfig.Database, schema, table, lsn, lsn, now, lsn-50, lsn)
	if err := r.kafka.SendTo(r.t.Context(), 0, transport.Record{Topic: "shop." + schema + "." + table, Key: []byte(key), Value: []byte(value)}); err != nil && r.t.Context().Err() == nil {
		r.t.Error(err)
	}
}

// beats has the source's heartbeat come through CDC until the test ends.
func (r *restoreRig) beats() {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			var after string
			err := r.src.QueryRow(ctx, `SELECT json_build_object('pipeline', pipeline, 'at', to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'timeline', timeline) FROM trickle.heartbeat`).Scan(&after)
			if err == nil {
				r.emit("heartbeat", "u", "null", after, `{"pipeline":"shop"}`)
			}
		}
	})
	r.t.Cleanup(func() { cancel(); wg.Wait() })
}

// publish runs the publisher until the test ends.
func (r *restoreRig) publish() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	s := r.settings
	s.Log = slog.New(slog.DiscardHandler)
	wg.Go(func() {
		if err := Publisher(ctx, s); err != nil {
			r.t.Error(err)
		}
	})
	r.t.Cleanup(func() { cancel(); wg.Wait() })
}

func (r *restoreRig) restore(o RestoreOptions) (RestoreReport, error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 90*time.Second)
	defer cancel()
	return Restore(ctx, r.settings, o)
}

func (r *restoreRig) identical() {
	r.t.Helper()
	const sum = `SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)), 0) FROM t`
	if src, dst := r.value(r.src, sum), r.value(r.dst, sum); src != dst {
		r.t.Errorf("the source has %s and the replica %s", src, dst)
	}
}

func (r *restoreRig) refused(o RestoreOptions, parts ...string) {
	r.t.Helper()
	_, err := r.restore(o)
	if err == nil {
		r.t.Errorf("%+v was not refused", o)
		return
	}
	for _, want := range parts {
		if !strings.Contains(err.Error(), want) {
			r.t.Errorf("%q is missing in: %v", want, err)
		}
	}
}

// untouched makes sure that nothing was written to the replica.
func (r *restoreRig) untouched() {
	r.t.Helper()
	if n := r.value(r.dst, `SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('public', 'trickle')`); n != "0" {
		r.t.Errorf("%s relations were made", n)
	}
}
