package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/kafka"
	"github.com/trickle-verify/trickle/internal/testbed/otlp"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

const tracedPolicy = `
pipeline: traced
schedule: {cycle: 1s}
quiet: 1ms
range_rows: 100
tables: [{table: public.t}]
gate: {assume_lag: 100ms}
detect: {confirm: {delay: %s}}
tracing: {sample: %s, link: "https://jaeger.example/trace/{trace_id}"}
privacy: {keys: %s}
resync: {in_flight: 1}
`

// correctionTree is docs/traces.md's.
const correctionTree = `scan (trickle, internal)
  publish (trickle, producer)
    receive (trickle-consumer, consumer)
      mismatch (trickle-consumer, internal)
      correct (trickle-consumer, internal)
        observe (trickle-consumer, internal)
        refetch (trickle-consumer, client)
        write (trickle-consumer, internal)
        confirm (trickle-consumer, client)
          answer (trickle, server)
`

const (
	pickedTree = `scan (trickle, internal)
  publish (trickle, producer)
    receive (trickle-consumer, consumer)
`
	resyncTree = `resync (trickle-consumer, internal)
  range (trickle-consumer, internal)
    answer (trickle, server)
    answer (trickle, server)
    answer (trickle, server)
  range (trickle-consumer, internal)
    answer (trickle, server)
  range (trickle-consumer, internal)
    answer (trickle, server)
  range (trickle-consumer, internal)
    answer (trickle, server)
`
)

// traced is both commands over a real broker, each of which sends its traces to a receiver. There is no CDC: whatever differs was made to.
type traced struct {
	t        *testing.T
	src, dst database
	broker   *kafka.Broker
	received *otlp.Receiver
	policy   string
}

func newTraced(t *testing.T) *traced {
	t.Helper()
	server := pgtest.Server(t, testbed.Options{})
	w := &traced{t: t, src: connect(t, pgtest.DatabaseOn(t, server)), dst: connect(t, pgtest.DatabaseOn(t, server)), received: otlp.Start(t)}
	for _, d := range []database{w.src, w.dst} {
		d.exec(t, `CREATE TABLE t (id int PRIMARY KEY, v text, n numeric)`, `INSERT INTO t SELECT i, 'value ' || i, i FROM generate_series(1, 300) i`)
	}
	broker, err := kafka.Start(t.Context(), kafka.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broker.Stop(context.Background()) })
	w.broker = broker
	w.policy = writeFile(t, "policy.yaml", fmt.Sprintf(tracedPolicy, "100ms", "0%", "hash"))
	return w
}

func (w *traced) env() []string {
	return []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + w.received.URL, "OTEL_BSP_SCHEDULE_DELAY=100", "OTEL_METRICS_EXPORTER=none"}
}

func (w *traced) publisher() *process {
	return start(w.t, trickle("run", "--policy", w.policy, "--source", w.src.dsn, "--brokers", w.broker.Addr(), "--listen", "").with(w.env()...))
}

func (w *traced) detector() *process {
	return start(w.t, trickleConsumer("run", "--policy", w.policy, "--replica", w.dst.dsn, "--brokers", w.broker.Addr(), "--consumer", "r", "--listen", "").with(w.env()...))
}

// edit changes the policy, and waits until both sides have it.
func (w *traced) edit(delay, sample, keys string, both ...*process) {
	w.t.Helper()
	const says = "the edited policy is in force"
	before := make([]int, len(both))
	for i, p := range both {
		before[i] = strings.Count(p.stderr.String(), says)
	}
	if err := os.WriteFile(w.policy, []byte(fmt.Sprintf(tracedPolicy, delay, sample, keys)), 0o600); err != nil {
		w.t.Fatal(err)
	}
	for i, p := range both {
		await(w.t, patience, p.name+" works by the edited policy", func() bool { return strings.Count(p.stderr.String(), says) > before[i] })
	}
}

// covered waits until every range was compared anew, and whatever was sent before has come in.
func (w *traced) covered() {
	w.t.Helper()
	began := value[time.Time](w.t, w.dst, `SELECT clock_timestamp()`)
	await(w.t, patience, "everything was compared anew", func() bool {
		return value[bool](w.t, w.dst, `SELECT count(*) >= 3 AND bool_and(equal) FROM trickle.ranges WHERE verified_at > $1`, began)
	})
}

// correction waits for the one that comes after another, and gives its id and its trace.
func (w *traced) correction(after int64) (id int64, trace string) {
	w.t.Helper()
	await(w.t, patience, "a row is corrected, and that confirmed", func() bool {
		return value[bool](w.t, w.dst, `SELECT EXISTS (SELECT FROM trickle.corrections WHERE id > $1 AND closed_at IS NOT NULL)`, after)
	})
	id = value[int64](w.t, w.dst, `SELECT min(id) FROM trickle.corrections WHERE id > $1`, after)
	return id, value[string](w.t, w.dst, `SELECT trace_id FROM trickle.corrections WHERE id = $1`, id)
}

// tree waits until a trace looks so.
func (w *traced) tree(trace, want string) []otlp.Span {
	w.t.Helper()
	defer func() {
		if w.t.Failed() {
			w.t.Logf("trace %s is\n%s", trace, otlp.Tree(w.received.Of(trace)))
		}
	}()
	await(w.t, patience, "the trace "+trace+" is\n"+want, func() bool { return otlp.Tree(w.received.Of(trace)) == want })
	return w.received.Of(trace)
}

func spanOf(t *testing.T, spans []otlp.Span, name string) otlp.Span {
	t.Helper()
	i := slices.IndexFunc(spans, func(s otlp.Span) bool { return s.Name == name })
	if i < 0 {
		t.Fatalf("no span %s among %v", name, spans)
	}
	return spans[i]
}

// A correction that two processes make over a real broker is one trace, span by span; what is equal leaves none; and what is in headers, or killed, changes nothing but that.
func TestCorrectionIsOneTrace(t *testing.T) {
	t.Parallel()
	w := newTraced(t)
	publisher, consumer := w.publisher(), w.detector()
	await(t, patience, "the ledger is there", func() bool { return value[bool](t, w.dst, `SELECT to_regclass('trickle.ranges') IS NOT NULL`) })
	w.covered()

	w.forge()
	w.covered()
	if got := w.received.Spans(); len(got) > 0 {
		t.Fatalf("nothing had drifted, and yet there are spans: %+v", got)
	}

	began := time.Now()
	w.dst.exec(t, `UPDATE t SET v = 'drifted', n = n + 0.5 WHERE id = 42`)
	last, trace := w.correction(0)
	spans := w.tree(trace, correctionTree)
	w.attributes(spans, began)
	consumer.says(t, trace)
	if kept := value[int](t, w.dst, `SELECT count(*) FROM trickle.corrections WHERE trace IS NOT NULL`); kept > 0 {
		t.Error("a closed correction keeps what its trace was made of")
	}

	w.edit("100ms", "0%", "show", publisher, consumer)
	w.dst.exec(t, `DELETE FROM t WHERE id = 7`)
	last, trace = w.correction(last)
	if got := spanOf(t, w.tree(trace, correctionTree), "correct").Attributes; got["trickle.kind"] != "missing" || got["trickle.key"] != "7" {
		t.Errorf("a row that was missing: %v", got)
	}
	w.edit("100ms", "0%", "omit", publisher, consumer)
	w.dst.exec(t, `INSERT INTO t VALUES (500, 'extra', 0)`)
	last, trace = w.correction(last)
	got := spanOf(t, w.tree(trace, correctionTree), "correct").Attributes
	if _, shown := got["trickle.key"]; got["trickle.kind"] != "extra" || shown {
		t.Errorf("a row that was extra: %v", got)
	}
	if n := len(w.received.Traces("scan")); n != 3 {
		t.Errorf("3 corrections made %d traces", n)
	}

	last = w.killed(last, publisher, consumer)
	consumer = w.detector()
	consumer.says(t, "detecting")

	w.edit("10m", "0%", "hash", publisher, consumer) // so that the resync finds it first
	w.dst.exec(t, `UPDATE t SET v = 'drifted' WHERE id = 42`)
	if code, _, stderr := run(t, trickleConsumer("resync", "--table", "public.t", "--policy", w.policy, "--replica", w.dst.dsn)); code != 0 {
		t.Fatalf("resync ends with %d: %s", code, stderr)
	}
	last, trace = w.correction(last)
	if got := spanOf(t, w.tree(trace, resyncTree), "resync").Attributes; got["trickle.resync"] == "" || got["trickle.rows"] != "300" || got["trickle.rows.corrected"] != "1" {
		t.Errorf("the resync: %v", got)
	}

	w.edit("100ms", "100%", "hash", publisher, consumer)
	await(t, patience, "every range is traced", func() bool { return len(w.received.Traces("receive")) >= 10 })
	w.dst.exec(t, `UPDATE t SET v = 'drifted' WHERE id = 142`)
	_, trace = w.correction(last)
	receive := spanOf(t, w.tree(trace, correctionTree), "receive")
	if len(receive.Links) != 1 || !strings.Contains(otlp.Tree(w.received.Of(receive.Links[0])), "mismatch") {
		t.Errorf("it is linked to %v", receive.Links)
	}
	equal := slices.IndexFunc(w.received.Spans(), func(s otlp.Span) bool { return s.Attributes["trickle.equal"] == "true" })
	w.tree(w.received.Spans()[equal].Trace, pickedTree)
}

// attributes looks at those of a mismatch.
func (w *traced) attributes(spans []otlp.Span, began time.Time) {
	w.t.Helper()
	correct := spanOf(w.t, spans, "correct").Attributes
	for key, want := range map[string]string{"trickle.table": "public.t", "trickle.kind": "mismatched", "trickle.columns": "n,v", "trickle.attempts": "1", "trickle.outcome": "confirmed", "trickle.correction": "1"} {
		if correct[key] != want {
			w.t.Errorf("%s is %q, want %q", key, correct[key], want)
		}
	}
	if key := correct["trickle.key"]; !strings.HasPrefix(key, "#") {
		w.t.Errorf("the key is shown as %q", key)
	}
	if lag := correct["trickle.lag_seconds"]; lag == "" {
		w.t.Error("it does not tell the lag")
	}
	for _, name := range []string{"scan", "refetch", "answer"} {
		if lsn := spanOf(w.t, spans, name).Attributes["trickle.source.lsn"]; !strings.Contains(lsn, "/") || lsn == "0/0" {
			w.t.Errorf("the position of the source at %s is %q", name, lsn)
		}
	}
	if at := spanOf(w.t, spans, "receive").Attributes["trickle.message"]; !strings.HasPrefix(at, "traced.verify/") {
		w.t.Errorf("it was received from %q", at)
	}
	for _, s := range spans {
		if s.Begin.Before(began.Add(-5*time.Second)) || s.End.Before(s.Begin) || s.End.After(time.Now()) {
			w.t.Errorf("%s took from %s to %s", s.Name, s.Begin, s.End)
		}
		for key, v := range s.Attributes {
			if strings.Contains(v, "drifted") || strings.Contains(v, "value 42") {
				w.t.Errorf("%s shows a value: %s=%s", s.Name, key, v)
			}
		}
	}
}

// forge sends messages again with headers that no publisher wrote.
func (w *traced) forge() {
	w.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(w.broker.Addr()), kgo.ConsumeTopics("traced.verify"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		w.t.Fatal(err)
	}
	defer client.Close()
	var again []*kgo.Record
	for _, r := range client.PollFetches(w.t.Context()).Records()[:1] {
		for _, headers := range []map[string]string{
			{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "trickle-scan": strings.Repeat("9", 500_000)},
			{"traceparent": strings.Repeat("0", 100_000), "trickle-scan": "9223372036854775807 9223372036854775807"},
			{"trickle-scan": "\x00\xff", "trickle-corrections": strings.Repeat("x\n", 200_000)},
		} {
			forged := &kgo.Record{Topic: r.Topic, Key: r.Key, Value: r.Value}
			for name, v := range headers {
				forged.Headers = append(forged.Headers, kgo.RecordHeader{Key: name, Value: []byte(v)})
			}
			again = append(again, forged)
		}
	}
	if err := client.ProduceSync(w.t.Context(), again...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

// killed has the detector die between the write and its confirmation. Whoever comes after it confirms, and tells the whole story.
func (w *traced) killed(last int64, publisher, consumer *process) int64 {
	w.t.Helper()
	// The write waits for the test, which meanwhile has the publisher stand still.
	w.dst.exec(w.t, `CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NEW; END $$`,
		`CREATE TRIGGER hold BEFORE UPDATE ON t FOR EACH ROW WHEN (OLD.v = 'held') EXECUTE FUNCTION hold()`, `UPDATE t SET v = 'held' WHERE id = 99`)
	conn, err := w.dst.pool.Acquire(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Release()
	lock := func(sql string) {
		w.t.Helper()
		if _, err := conn.Exec(w.t.Context(), sql); err != nil {
			w.t.Fatal(err)
		}
	}
	lock(`SELECT pg_advisory_lock(4711)`)
	await(w.t, patience, "the write waits", func() bool {
		return value[bool](w.t, w.dst, `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted)`)
	})
	if err := publisher.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		w.t.Fatal(err)
	}
	lock(`SELECT pg_advisory_unlock(4711)`)
	var written []bool
	await(w.t, patience, "it is written", func() bool {
		written = values[bool](w.t, w.dst, `SELECT closed_at IS NULL FROM trickle.corrections WHERE id > $1`, last)
		return len(written) > 0
	})
	if !written[0] {
		w.t.Fatal("the correction was confirmed although nobody could answer")
	}
	consumer.kill()
	if err := publisher.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		w.t.Fatal(err)
	}
	w.dst.exec(w.t, `UPDATE trickle.corrections SET checked_at = clock_timestamp() - interval '1 hour' WHERE closed_at IS NULL`, `DROP TRIGGER hold ON t`)
	after := w.detector()
	id, trace := w.correction(last)
	// The publisher may have found the dead one's question as well, and answered it: the same spans, and one more answer.
	await(w.t, patience, "the trace tells of everything", func() bool {
		names := make(map[string]bool)
		for _, s := range w.received.Of(trace) {
			names[s.Name] = true
		}
		return len(names) == strings.Count(correctionTree, "\n") && !strings.Contains(otlp.Tree(w.received.Of(trace)), "lost")
	})
	if got := spanOf(w.t, w.received.Of(trace), "correct").Attributes; got["trickle.resumed"] != "true" || got["trickle.outcome"] != "confirmed" {
		w.t.Errorf("it was resumed: %v", got)
	}
	after.stop(w.t, syscall.SIGTERM)
	return id
}

// Without Kafka it is the same, by one process; and where nobody asks for traces there still is an id, in the journal and in the log.
func TestCorrectionIsOneTraceInOneProcess(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, testbed.Options{})
	src, dst, received := connect(t, pgtest.DatabaseOn(t, server)), connect(t, pgtest.DatabaseOn(t, server)), otlp.Start(t)
	for _, d := range []database{src, dst} {
		d.exec(t, `CREATE TABLE t (id int PRIMARY KEY, v text, n numeric)`, `INSERT INTO t SELECT i, 'value ' || i, i FROM generate_series(1, 300) i`)
	}
	dst.exec(t, `UPDATE t SET v = 'drifted' WHERE id = 42`)
	policy := writeFile(t, "policy.yaml", fmt.Sprintf(tracedPolicy, "100ms", "0%", "hash"))
	w := &traced{t: t, src: src, dst: dst, received: received, policy: policy}
	args := []string{"run", "--replica", dst.dsn, "--policy", policy, "--source", src.dsn, "--listen", "", "--cursor-file", t.TempDir() + "/cursors"}
	both := start(t, trickle(args...).with(w.env()...))
	await(t, patience, "the ledger is there", func() bool { return value[bool](t, dst, `SELECT to_regclass('trickle.ranges') IS NOT NULL`) })
	last, trace := w.correction(0)
	w.tree(trace, strings.ReplaceAll(correctionTree, "trickle-consumer", "trickle"))
	both.stop(t, syscall.SIGTERM)

	dst.exec(t, `UPDATE t SET v = 'drifted' WHERE id = 43`)
	before := len(received.Spans())
	quiet := start(t, trickle(args...))
	_, trace = w.correction(last)
	if len(trace) != 32 {
		t.Errorf("its trace is %q", trace)
	}
	quiet.says(t, trace)
	var kept int
	if err := json.Unmarshal([]byte(value[string](t, dst, `SELECT count(trace)::text FROM trickle.suspects`)), &kept); err != nil || kept > 0 {
		t.Errorf("%d suspects remember what no trace is made of (%v)", kept, err)
	}
	if now := len(received.Spans()); now != before {
		t.Errorf("%d spans came that nobody asked for", now-before)
	}
}
