package e2e

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/trickle-verify/trickle/heartbeat"
	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/cdc"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/internal/testbed/workload"
	"github.com/trickle-verify/trickle/ledger"
)

const (
	killSeed = 20250711
	killRows = 40_000
	kills    = 15 // of the publisher, and of detectors

	resyncKills = 5 // of these, in the midst of a resync

	killPolicy = `
pipeline: kill
schedule: {cycle: 5s}
quiet: 1s
range_rows: 200
tables: [{table: public.*}]
gate: {max_lag: 20s, heartbeat: {interval: 300ms, in_commit_order: true}}
detect: {confirm: {delay: 500ms}, window: 30s, brake: {deletes: 1000000, corrections: 1000000}}
resync: {partial: {discrepancies: 60}, full: {discrepancies: 300, ratio: 100%}, cooldown: 20s, in_flight: 2}
`
)

// yard is a source that is being written, a replica that CDC feeds over a broker, and trickle's processes.
type yard struct {
	t        *testing.T
	random   *rand.Rand
	src, dst database
	broker   *kfake.Cluster
	sink     *cdc.Sink
	writer   *workload.Writer
	policy   string
	stop     func() // ends the writer

	injected drift
	left     []string // of these, when last looked at
}

func newYard(t *testing.T) *yard {
	t.Helper()
	ctx := t.Context()
	y := &yard{t: t, random: rand.New(rand.NewPCG(killSeed, killSeed)), policy: writeFile(t, "policy.yaml", killPolicy)}
	source, replica := pgtest.Server(t, testbed.Options{}), pgtest.Server(t, testbed.Options{})
	y.src, y.dst = connect(t, pgtest.DatabaseOn(t, source)), connect(t, pgtest.DatabaseOn(t, replica))
	var err error
	if y.broker, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(time.Second)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(y.broker.Close)
	missSoon(y.broker)
	config := cdc.Config{
		Source: y.src.dsn, Replica: y.dst.dsn, Kafka: []kgo.Opt{kgo.SeedBrokers(y.broker.ListenAddrs()...)}, Topic: "cdc", Group: "sink", Slot: "cdc",
	}
	for _, step := range []func() error{
		func() error { return workload.Schema(ctx, y.src.dsn) },
		func() error { return workload.Fill(ctx, y.src.dsn, killRows) },
		func() error { return cdc.Prepare(ctx, config) },
		func() error { return workload.Replicate(ctx, y.src.dsn, y.dst.dsn) },
		func() error { return ledger.New(y.dst.pool, "kill").Migrate(ctx) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []database{y.src, y.dst} {
		d.exec(t, heartbeat.New(nil, "trickle.heartbeat", "kill").DDL())
	}
	y.dst.exec(t, auditing(map[string][]string{"orders": {"id"}, "customers": {"id"}, "order_items": {"order_id", "line_no"}})...)
	stream := cdc.NewSource(config)
	y.sink, y.writer = cdc.NewSink(config), workload.NewWriter(y.src.dsn, 150, killSeed)
	background(t, func(ctx context.Context) error { stream.Run(ctx); return nil })
	background(t, func(ctx context.Context) error { y.sink.Run(ctx); return nil })
	y.stop = background(t, y.writer.Run)
	return y
}

// missSoon makes the broker miss members of groups sooner than they ask for: after a kill -9 nobody has their partitions until then, and this
// test has no time for nothing to happen. The rebalance is the shorter of the two since this broker, other than a real one, forgets to answer
// members that wait for a leader that died, once their session has run out.
func missSoon(broker *kfake.Cluster) {
	broker.ControlKey(int16(kmsg.JoinGroup), func(request kmsg.Request) (kmsg.Response, error, bool) {
		broker.KeepControl()
		join := request.(*kmsg.JoinGroupRequest)
		join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = 2500, 2000
		return nil, nil, false
	})
}

// background runs something until the returned function is called, or the test ends.
func background(t *testing.T, do func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := do(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(stop)
	return stop
}

func (y *yard) publisher() *process {
	return start(y.t, trickle("run", "--policy", y.policy, "--source", y.src.dsn, "--brokers", y.brokers(), "--listen", ""))
}

func (y *yard) detector() *process {
	return start(y.t, trickleConsumer("run", "--policy", y.policy, "--replica", y.dst.dsn, "--brokers", y.brokers(), "--consumer", "replica", "--listen", ""))
}

func (y *yard) brokers() string { return strings.Join(y.broker.ListenAddrs(), ",") }

func (y *yard) inject(in *workload.Injector, d workload.Drift) {
	y.t.Helper()
	done, err := in.Inject(y.t.Context(), d)
	if err != nil {
		y.t.Fatal(err)
	}
	y.injected = append(y.injected, done...)
	y.t.Logf("%d rows made wrong", len(done))
}

// work is what trickle is busy with.
type work struct{ suspects, open, resyncs int }

func (y *yard) work() work {
	y.t.Helper()
	var w work
	if err := y.dst.pool.QueryRow(y.t.Context(), `SELECT (SELECT count(*) FROM trickle.suspects), (SELECT count(*) FROM trickle.corrections WHERE closed_at IS NULL),
		(SELECT count(*) FROM trickle.resyncs WHERE state IN ('running', 'waiting'))`).Scan(&w.suspects, &w.open, &w.resyncs); err != nil {
		y.t.Fatal(err)
	}
	return w
}

func (w work) none() bool { return w == work{} }

// victim is one process that is killed and started again and again.
type victim struct {
	name  string
	start func() *process
	now   *process
	kills int
	// while counts the kills that met open corrections or a running resync.
	correcting, resyncing int
}

func (y *yard) strike(v *victim) {
	y.t.Helper()
	if !v.now.running() {
		y.t.Fatalf("the %s ended by itself with status %d", v.name, v.now.cmd.ProcessState.ExitCode())
	}
	w := y.work()
	v.now.kill()
	v.kills++
	if w.open+w.suspects > 0 {
		v.correcting++
	}
	if w.resyncs > 0 {
		v.resyncing++
	}
	y.t.Logf("kill %d of the %s: %+v", v.kills, v.name, w)
	v.now = v.start()
}

// Kill -9 of publisher and detectors while they correct and while they resync: nothing is lost, nothing is done that isn't in the journal, and no
// row is touched that nobody had made wrong.
func TestKillLoop(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	publisher := &victim{name: "publisher", start: y.publisher}
	detectors := []*victim{{name: "first detector", start: y.detector}, {name: "second detector", start: y.detector}}
	for _, v := range append(detectors, publisher) {
		v.now = v.start()
	}
	await(t, patience, "everything was compared once", func() bool { return y.covered() })
	began := time.Now()
	t.Logf("seed %d", killSeed)
	injector := workload.NewInjector(y.dst.dsn, killSeed)
	few := workload.Drift{Missing: 10, Mismatched: 10, Extra: 10}
	mass := workload.Drift{Missing: 300, Mismatched: 250, Extra: 200}
	waves := map[int]workload.Drift{0: few, 2: few, 4: mass, 8: few}
	// The publisher gets some time after the broker has missed the last one, detectors are killed at any moment.
	for n := range kills - resyncKills {
		if wave, ok := waves[n]; ok {
			y.inject(injector, wave)
		}
		now := time.Now()
		blows := []blow{{now.Add(y.between(0, 8*time.Second)), detectors[y.random.IntN(2)]}, {now.Add(y.between(2*time.Second, 8*time.Second)), publisher}}
		slices.SortFunc(blows, func(a, b blow) int { return a.at.Compare(b.at) })
		for _, b := range blows {
			time.Sleep(time.Until(b.at))
			y.strike(b.victim)
		}
	}
	// Now in the midst of a resync, each time after it has got on.
	y.inject(injector, mass)
	for range resyncKills {
		// Or nearly: what a detector had in hand when it was killed is only taken up again when its lease has run out.
		done, limit := y.walked(), time.Now().Add(20*time.Second)
		await(t, patience, "a resync gets on", func() bool { return y.work().resyncs > 0 && y.walked() > done || time.Now().After(limit) })
		for _, v := range []*victim{detectors[y.random.IntN(2)], publisher} {
			time.Sleep(y.between(0, 200*time.Millisecond))
			y.strike(v)
		}
	}
	t.Logf("%s of kills; %d source writes", time.Since(began).Round(time.Second), y.writer.Writes())
	y.judge(append(detectors, publisher))
}

func (y *yard) between(least, most time.Duration) time.Duration {
	return least + time.Duration(y.random.Int64N(int64(most-least)))
}

// blow is a kill that is planned.
type blow struct {
	at     time.Time
	victim *victim
}

// walked counts the ranges that resyncs have done.
func (y *yard) walked() int {
	return value[int](y.t, y.dst, `SELECT count(*) FROM trickle.resync_ranges WHERE done`)
}

func (y *yard) covered() bool {
	return value[bool](y.t, y.dst, `SELECT count(*) = 3 AND bool_and(ranges_verified >= ranges AND ranges > 0) FROM trickle.tables`)
}

// judge lets everything come to rest and compares.
func (y *yard) judge(victims []*victim) {
	t := y.t
	began := time.Now()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("not corrected of %d rows: %d, such as %v; %+v", len(y.injected), len(y.left), y.left[:min(5, len(y.left))], status(t, y.policy, y.dst.dsn))
		}
	})
	await(t, 120*time.Second, "every row that was made wrong is corrected", func() bool {
		y.left = y.injected.uncorrected(t, y.dst)
		return len(y.left) == 0
	})
	await(t, 120*time.Second, "no correction is open and every resync is done", func() bool {
		w := y.work()
		return w.open == 0 && w.resyncs == 0
	})
	t.Logf("at rest after %s", time.Since(began).Round(time.Second))
	y.stop()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := cdc.Barrier(ctx, y.src.dsn, y.sink); err != nil {
		t.Fatal(err)
	}
	await(t, patience, "nothing is suspected any more", func() bool { return y.work().none() })
	all, err := workload.Compare(ctx, y.src.dsn, y.dst.dsn, workload.Tables())
	if err != nil {
		t.Fatal(err)
	}
	if !workload.Identical(all) {
		t.Errorf("the two sides differ: %+v", all)
	}
	y.injected.audit(t, y.dst)
	if got := y.injected.unexplained(t, y.dst); len(got) > 0 {
		t.Errorf("%d corrections of rows that nobody had made wrong: %v", len(got), got[:min(3, len(got))])
	}
	var correcting, resyncing int
	for _, v := range victims {
		if !v.now.running() {
			t.Errorf("the %s ended by itself", v.name)
		}
		if code := v.now.stop(t, syscall.SIGTERM); code != 0 {
			t.Errorf("the %s ends with status %d", v.name, code)
		}
		correcting, resyncing = correcting+v.correcting, resyncing+v.resyncing
		t.Logf("%s: %d kills, %d of them while suspects or corrections were open, %d during a resync", v.name, v.kills, v.correcting, v.resyncing)
	}
	if correcting < kills || resyncing < resyncKills {
		t.Errorf("%d kills met corrections and %d a resync: the test shows nothing", correcting, resyncing)
	}
	t.Logf("resyncs: %v", values[string](t, y.dst, `SELECT format('%s of %s %s: %s rows, %s corrected (%s)', scope, table_name, state, rows, corrected, failure) FROM trickle.resyncs ORDER BY requested_at`))
	if n := value[int](t, y.dst, `SELECT count(*) FROM trickle.resyncs WHERE scope = 'full' AND state = 'done' AND planned`); n == 0 {
		t.Error("no full resync was done")
	}
	t.Logf("corrections: %s", value[string](t, y.dst, `SELECT format('%s, of them in a resync %s, superseded %s', count(*), count(resync_id), count(*) FILTER (WHERE outcome = 'superseded')) FROM trickle.corrections`))
}
