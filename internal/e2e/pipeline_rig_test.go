package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/trickle-verify/trickle/heartbeat"
	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/kafka"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/internal/testbed/stack"
	"github.com/trickle-verify/trickle/internal/testbed/workload"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/transport"
)

const (
	worksSeed = 20251126
	worksRows = 20_000

	// A topic for each table, as Debezium has it by default: only slot and group together keep the gate honest.
	worksPolicy = `
pipeline: shop
schedule: {cycle: 10s}
quiet: 2s
max_staleness: 60s
range_rows: 500
tables: [{table: public.*}]
gate: {max_lag: 30s, heartbeat: {interval: 500ms}, slot: %s, group: %s}
detect: {confirm: {delay: 1s}, window: 30s, brake: {deletes: 1000000, corrections: 1000000}}
resync: {partial: {discrepancies: 1000000}, full: {discrepancies: 1000000, ratio: 100%%}, in_flight: 2}
`
)

// worksKeys is every table with the columns of its key: the shop's, one with a column of every common type, one with types that the sink loses, and
// one more shape of key.
func worksKeys() map[string][]string {
	return map[string][]string{"orders": {"id"}, "customers": {"id"}, "order_items": {"order_id", "line_no"}, "types": {"code"}, "lost": {"id"}, "days": {"day", "place"}}
}

func worksTables() []string {
	return []string{"public.orders", "public.customers", "public.order_items", "public.types", "public.lost", "public.days"}
}

// works is a source that is being written, real Kafka and Debezium, and two replicas, each with a sink and a detector of its own.
type works struct {
	t      *testing.T
	stack  *stack.Stack
	src    database
	source stack.Source
	a, b   *outlet
	writer *workload.Writer
	admin  *kadm.Client
	stop   func() // ends the writers
}

// outlet is one of the replicas.
type outlet struct {
	t        *testing.T
	name     string
	dst      database
	sink     stack.Sink
	policy   string
	injector *workload.Injector
	injected drift
	left     []string // of these, when last looked at
	emptied  string   // table
}

func newWorks(t *testing.T) *works {
	t.Helper()
	ctx := t.Context()
	w := &works{t: t}
	servers := [2]*testbed.Postgres{pgtest.Server(t, testbed.Options{}), pgtest.Server(t, testbed.Options{})}
	w.src = connect(t, pgtest.DatabaseOn(t, servers[0]))
	w.a = &outlet{t: t, name: "a", dst: connect(t, pgtest.DatabaseOn(t, servers[1]))}
	w.b = &outlet{t: t, name: "b", dst: connect(t, pgtest.DatabaseOn(t, servers[1]))}
	common, lost := workload.CommonTypes(), workload.LostTypes()
	for _, d := range []database{w.src, w.a.dst, w.b.dst} {
		if err := workload.Schema(ctx, d.dsn); err != nil {
			t.Fatal(err)
		}
		d.exec(t, workload.TypeSchema, heartbeat.New(nil, "trickle.heartbeat", "shop").DDL(),
			`CREATE TABLE types (code text PRIMARY KEY, n int NOT NULL, big text, `+workload.Columns(common)+`)`, `ALTER TABLE types ALTER big SET STORAGE EXTERNAL`,
			`CREATE TABLE lost (id int PRIMARY KEY, `+workload.Columns(lost)+`)`,
			`CREATE TABLE days (day date, place varchar(20), n int NOT NULL, PRIMARY KEY (day, place))`)
	}
	if err := workload.Fill(ctx, w.src.dsn, worksRows); err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		var rows []string
		for i := range 20 {
			for _, fate := range []string{"kept", "written"} {
				rows = append(rows, fmt.Sprintf(`('%s %d.%d', 0, repeat('big', 3000), %s)`, fate, n, 1+i, workload.Row(common, n)))
			}
		}
		w.src.exec(t, `INSERT INTO types VALUES `+strings.Join(rows, ", "))
	}
	w.src.exec(t, `INSERT INTO lost VALUES (0)`) // so that it has a topic: a sink finds those that come later only after a while
	w.src.exec(t, `INSERT INTO days SELECT date '2024-01-01' + i, 'place ' || i % 7, 0 FROM generate_series(1, 1000) i`)
	for _, d := range []database{w.a.dst, w.b.dst} {
		if err := ledger.New(connect(t, d.dsn).pool, "shop").Migrate(ctx); err != nil {
			t.Fatal(err)
		}
		d.exec(t, auditing(worksKeys())...)
	}

	w.stack = stack.Start(t, kafka.Options{})
	w.source = w.stack.Source("shop", w.src.dsn, worksTables(), nil)
	for _, o := range []*outlet{w.a, w.b} {
		o.sink = w.source.Sink("sink-"+o.name, o.dst.dsn, nil)
		o.policy = writeFile(t, "policy.yaml", fmt.Sprintf(worksPolicy, w.source.Slot, o.sink.Group))
		o.injector = workload.NewInjector(o.dst.dsn, worksSeed)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(w.stack.Broker.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	w.admin = kadm.NewClient(client)
	for _, o := range []*outlet{w.a, w.b} {
		await(t, 2*patience, "the first copy is over in "+o.name, func() bool { return len(w.differing(o)) == 0 })
	}
	w.writer = workload.NewWriter(w.src.dsn, 60, worksSeed)
	stops := []func(){background(t, w.writer.Run), background(t, w.writeTypes)}
	w.stop = func() {
		for _, stop := range stops {
			stop()
		}
	}
	return w
}

// writeTypes keeps writing rows of the tables that the shop's writer doesn't know, none that is reserved for drift.
func (w *works) writeTypes(ctx context.Context) error {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		_, err := w.src.pool.Exec(ctx, fmt.Sprintf(`WITH a AS (UPDATE types SET n = n + 1 WHERE code = 'written ' || %d || '.' || %d), b AS (UPDATE days SET n = n + 1 WHERE day = date '2024-01-01' + %d),
			c AS (DELETE FROM days WHERE day = date '2030-01-01' + %d) INSERT INTO days VALUES (date '2030-01-01' + %d, 'new', 0) ON CONFLICT DO NOTHING`, n%10, 1+n/10%20, 501+n%500, n-20, n))
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// differing names the tables that are not the same on both sides.
func (w *works) differing(o *outlet) []string {
	w.t.Helper()
	all, err := workload.Compare(w.t.Context(), w.src.dsn, o.dst.dsn, worksTables())
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, c := range all {
		if c.Missing+c.Mismatched+c.Extra > 0 {
			names = append(names, fmt.Sprintf("%+v", c))
		}
	}
	return names
}

func (w *works) publisher() *process {
	return start(w.t, trickle("run", "--policy", w.a.policy, "--source", w.src.dsn, "--brokers", w.stack.Broker.Addr(), "--listen", ""))
}

func (w *works) detector(o *outlet) *process {
	return start(w.t, trickleConsumer("run", "--policy", o.policy, "--replica", o.dst.dsn, "--brokers", w.stack.Broker.Addr(), "--consumer", o.name, "--listen", ""))
}

// do is for what is done to brokers and connectors.
func (w *works) do(what string, do func(context.Context) error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	began := time.Now()
	if err := do(ctx); err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
	w.t.Logf("%s, in %s", what, time.Since(began).Round(time.Millisecond))
}

// inject makes rows of every table wrong, in every way and in every column, among those that nobody writes.
func (o *outlet) inject(few workload.Drift) {
	o.t.Helper()
	done, err := o.injector.Inject(o.t.Context(), few)
	if err != nil {
		o.t.Fatal(err)
	}
	o.injected = append(o.injected, done...)
	note := func(kind, table, query string) {
		o.t.Helper()
		keys := values[string](o.t, o.dst, query)
		if len(keys) == 0 {
			o.t.Fatalf("nothing was made wrong: %s", query)
		}
		for _, key := range keys {
			o.injected = append(o.injected, workload.Injected{Table: table, Key: key, Kind: kind})
		}
	}
	const code, day = ` RETURNING jsonb_build_object('code', code)::text`, ` RETURNING jsonb_build_object('day', day, 'place', place)::text`
	for i := range workload.CommonTypes() {
		// Rows of the n-th kind have the n-th value of each type, so this takes another row's value for that column.
		note(workload.Mismatched, "public.types", fmt.Sprintf(`UPDATE types SET c%d = (SELECT c%[1]d FROM types t WHERE t.code LIKE 'kept %%' AND t.c%[1]d::text <> types.c%[1]d::text LIMIT 1)
			WHERE code = (SELECT code FROM types WHERE code LIKE 'kept %%' ORDER BY code OFFSET %[1]d LIMIT 1)`, i)+code)
		note(workload.Mismatched, "public.types", fmt.Sprintf(`UPDATE types SET c%d = NULL WHERE code = (SELECT code FROM types WHERE code LIKE 'kept %%' ORDER BY code OFFSET %d LIMIT 1)`, i, 60+i)+code)
	}
	note(workload.Mismatched, "public.types", `UPDATE types SET big = NULL WHERE code = (SELECT code FROM types WHERE code LIKE 'kept %' ORDER BY code OFFSET 130 LIMIT 1)`+code)
	note(workload.Missing, "public.types", `DELETE FROM types WHERE code IN (SELECT code FROM types WHERE code LIKE 'kept %' ORDER BY code OFFSET 140 LIMIT 20)`+code)
	note(workload.Extra, "public.types", fmt.Sprintf(`INSERT INTO types VALUES ('', 1, '', %s), ('zzz "\', 1, '', %s)`, workload.Row(workload.CommonTypes(), 0), workload.Row(workload.CommonTypes(), 1))+code)
	note(workload.Missing, "public.days", `DELETE FROM days WHERE day BETWEEN '2024-02-01' AND '2024-02-10'`+day)
	note(workload.Mismatched, "public.days", `UPDATE days SET n = n + 1 WHERE day BETWEEN '2024-03-01' AND '2024-03-10'`+day)
	note(workload.Extra, "public.days", `INSERT INTO days VALUES ('1999-12-31', 'place', 1), ('2024-02-01', 'place 99', 1), ('2099-12-31', '', 1)`+day)
	o.t.Logf("%s: %d rows are wrong", o.name, len(o.injected))
}

// covered waits until every range of every table was compared since it was called.
func (o *outlet) covered() {
	o.t.Helper()
	began := value[time.Time](o.t, o.dst, `SELECT clock_timestamp()`)
	await(o.t, 4*patience, o.name+" has compared everything anew", func() bool {
		return value[bool](o.t, o.dst, `SELECT count(*) = $2 AND bool_and(t.paused = '' AND t.ranges > 0 AND t.ranges <= (SELECT count(*) FROM trickle.ranges r
			WHERE (r.pipeline, r.table_name) = (t.pipeline, t.table_name) AND r.verified_at > $1)) FROM trickle.tables t`, began, len(worksTables()))
	})
}

// corrected waits until the journal holds every row that was made wrong.
func (o *outlet) corrected(atMost time.Duration) {
	o.t.Helper()
	began := time.Now()
	o.t.Cleanup(func() {
		if o.t.Failed() && len(o.left) > 0 {
			o.t.Logf("%s: not corrected of %d rows: %d, such as %v", o.name, len(o.injected), len(o.left), o.left[:min(5, len(o.left))])
		}
	})
	await(o.t, atMost, o.name+" has corrected every row that was made wrong", func() bool {
		o.left = o.injected.uncorrected(o.t, o.dst)
		return len(o.left) == 0
	})
	o.t.Logf("%s: corrected within %s", o.name, time.Since(began).Round(time.Second))
}

// gate waits until the gate is open, or closed with a reason that holds a word.
func (o *outlet) gate(open bool, word string) {
	o.t.Helper()
	began := time.Now()
	var last ledger.GateReport
	await(o.t, 2*patience, fmt.Sprintf("%s's gate: open %t, %q", o.name, open, word), func() bool {
		last = status(o.t, o.policy, o.dst.dsn).Gate
		return last.Open == open && strings.Contains(last.Reason, word)
	})
	o.t.Logf("%s's gate after %s: open %t %s", o.name, time.Since(began).Round(time.Second), last.Open, last.Reason)
}

// unexplained is the corrections of rows that nobody had made wrong. A table that was emptied was made wrong as a whole: what the resync brought back, and brought
// up to date once more where the source was written before it could confirm, is not among them.
func (o *outlet) unexplained() []string {
	o.t.Helper()
	return slices.DeleteFunc(o.injected.unexplained(o.t, o.dst), func(c string) bool {
		return o.emptied != "" && strings.Contains(c, fmt.Sprintf(`"table_name": %q`, o.emptied)) && (strings.Contains(c, `"kind": "missing"`) || !strings.Contains(c, `"resync_id": null`))
	})
}

// lag is how many records the sink has not committed, over all partitions that it has committed in.
func (w *works) lag(group string) int64 {
	w.t.Helper()
	lags, err := w.admin.Lag(w.t.Context(), group)
	if err != nil {
		w.t.Fatal(err)
	}
	l := lags[group]
	if l.Error() != nil {
		w.t.Fatal(l.Error())
	}
	return l.Lag.Total()
}

// letter is a message of ours.
type letter struct {
	env   *tricklepb.Envelope
	bytes int
}

// letters is all that a topic of ours holds, whole.
func (w *works) letters(topic string) []letter {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	bus, err := transport.NewKafka(ctx, transport.KafkaOptions{Brokers: []string{w.stack.Broker.Addr()}})
	if err != nil {
		w.t.Fatal(err)
	}
	defer bus.Close()
	records, err := bus.Replay(ctx, topic)
	if err != nil {
		w.t.Fatal(err)
	}
	all := make([]letter, len(records))
	for i, r := range records {
		env, err := message.Codec{}.Decode(r.Topic, r.Value)
		if err != nil {
			w.t.Fatal(err)
		}
		all[i] = letter{env, len(r.Value)}
	}
	return all
}
