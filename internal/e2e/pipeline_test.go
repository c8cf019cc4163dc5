package e2e

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed/workload"
	"github.com/trickle-verify/trickle/message"
)

// Real Kafka, real Debezium, two replicas, a source that never stands still. Each chapter begins where the one before ended.
func TestRealPipeline(t *testing.T) {
	t.Parallel()
	w := newWorks(t)
	publisher := w.publisher()
	a, b := w.detector(w.a), w.detector(w.b)
	for _, o := range []*outlet{w.a, w.b} {
		o.covered()
		o.gate(true, "")
	}
	// From here on one detector is away for five minutes.
	away := time.Now()
	if code := b.stop(t, syscall.SIGTERM); code != 0 {
		t.Fatalf("detector b ends with %d", code)
	}

	w.nothingIsCorrected(t)
	w.pausedSink(t)
	w.stoppedSource(t)
	w.killedBroker(t)

	w.b.inject(workload.Drift{Missing: 20, Mismatched: 20, Extra: 20})
	w.b.injected = append(w.b.injected, w.lost()...)
	time.Sleep(time.Until(away.Add(5 * time.Minute)))
	b = w.detector(w.b)
	began := time.Now()
	w.b.covered()
	w.b.corrected(2 * patience)
	t.Logf("b was away for %s and has caught up %s after its start", began.Sub(away).Round(time.Second), time.Since(began).Round(time.Second))

	b = w.resyncOfOne(t, b)

	w.stop()
	t.Logf("%d source writes", w.writer.Writes())
	for _, o := range []*outlet{w.a, w.b} {
		await(t, 2*patience, o.name+" is the same as the source", func() bool { return len(w.differing(o)) == 0 })
		await(t, 2*patience, o.name+" suspects nothing any more", func() bool {
			return value[bool](t, o.dst, `SELECT NOT EXISTS (SELECT FROM trickle.suspects) AND NOT EXISTS (SELECT FROM trickle.corrections WHERE closed_at IS NULL)`)
		})
		o.injected.audit(t, o.dst)
		if got := o.unexplained(); len(got) > 0 {
			t.Errorf("%s: %d corrections of rows that nobody had made wrong: %v", o.name, len(got), got[:min(3, len(got))])
		}
		if code, stdout, stderr := run(t, trickle("diff", "--policy", o.policy, "--source", w.src.dsn, "--replica", o.dst.dsn)); code != 0 {
			t.Errorf("trickle diff of %s ends with %d: %s%s", o.name, code, stdout, stderr)
		}
	}
	for name, p := range map[string]*process{"publisher": publisher, "detector a": a, "detector b": b} {
		if code := p.stop(t, syscall.SIGTERM); code != 0 {
			t.Errorf("the %s ends with status %d", name, code)
		}
	}
}

// nothingIsCorrected is two minutes of load in which both connectors and their worker are restarted, the worker without a warning, so that Debezium delivers
// again what it had not confirmed: nothing is wrong, so nothing is corrected.
func (w *works) nothingIsCorrected(t *testing.T) {
	began := time.Now()
	for at, act := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"the source connector is restarted", w.source.Restart},
		{"the sink is restarted", w.a.sink.Restart},
		{"the worker is killed and started again", func(ctx context.Context) error {
			if err := w.stack.Worker.Kill(); err != nil {
				return err
			}
			return w.stack.Worker.Restart(ctx)
		}},
		{"the source connector is restarted again", w.source.Restart},
	} {
		time.Sleep(time.Until(began.Add(time.Duration(at+1) * 20 * time.Second)))
		w.do(act.what, act.do)
	}
	time.Sleep(time.Until(began.Add(2 * time.Minute)))
	w.a.covered()
	if got := w.a.unexplained(); len(got) > 0 {
		t.Fatalf("%d corrections where nothing was wrong: %v", len(got), got)
	}
	t.Logf("%s of load, %d writes, no correction; %s suspects were changes on their way", time.Since(began).Round(time.Second), w.writer.Writes(),
		value[string](t, w.a.dst, `SELECT sum(resolved)::text FROM trickle.tables`))
}

// pausedSink holds the sink for a minute: the gate closes and opens again, and what was late is not taken for wrong.
func (w *works) pausedSink(t *testing.T) {
	began := time.Now()
	w.do("the sink is paused", w.a.sink.Pause)
	w.a.gate(false, w.a.sink.Group)
	time.Sleep(time.Until(began.Add(time.Minute)))
	if w.lag(w.a.sink.Group) == 0 {
		t.Error("the paused sink lags behind nothing")
	}
	w.do("the sink goes on", w.a.sink.Resume)
	w.a.gate(true, "")
	w.a.covered()
	if got := w.a.unexplained(); len(got) > 0 {
		t.Fatalf("%d corrections where nothing was wrong: %v", len(got), got)
	}
}

// stoppedSource takes Debezium away: the sink has nothing left to do, and yet the gate closes.
func (w *works) stoppedSource(t *testing.T) {
	w.do("the source connector is stopped", w.source.Stop)
	await(t, patience, "the sink has nothing left to do", func() bool { return w.lag(w.a.sink.Group) == 0 })
	w.a.gate(false, w.source.Slot)
	if lag := w.lag(w.a.sink.Group); lag != 0 {
		t.Errorf("the sink lags by %d records", lag)
	}
	w.do("the source connector goes on", w.source.Resume)
	w.a.gate(true, "")
	w.a.covered()
	if got := w.a.unexplained(); len(got) > 0 {
		t.Fatalf("%d corrections where nothing was wrong: %v", len(got), got)
	}
}

// killedBroker makes rows of every type wrong, and kills the broker in the midst of the cycle that is to find them.
func (w *works) killedBroker(t *testing.T) {
	w.a.inject(workload.Drift{Missing: 60, Mismatched: 60, Extra: 60})
	w.src.exec(t, fmt.Sprintf(`INSERT INTO lost VALUES (1, %s), (2, %s)`, workload.Row(workload.LostTypes(), 0), workload.Row(workload.LostTypes(), 1)))
	w.a.injected = append(w.a.injected, w.lost()...)
	await(t, patience, "the cycle that finds them is under way", func() bool { return len(w.a.injected.uncorrected(t, w.a.dst)) < len(w.a.injected) })
	w.do("the broker is killed", func(context.Context) error { return w.stack.Broker.Kill() })
	time.Sleep(5 * time.Second)
	w.do("the broker is back", w.stack.Broker.Restart)
	w.do("the source connector runs", func(ctx context.Context) error { return w.source.Await(ctx, "RUNNING") })
	w.do("the sink runs", func(ctx context.Context) error { return w.a.sink.Await(ctx, "RUNNING") })
	w.a.gate(true, "")
	w.a.covered()
	w.a.corrected(2 * patience)
}

// lost is the rows that the sink writes otherwise than they are.
func (w *works) lost() drift {
	return drift{{Table: "public.lost", Key: `{"id": 1}`, Kind: workload.Mismatched}, {Table: "public.lost", Key: `{"id": 2}`, Kind: workload.Mismatched}}
}

// resyncOfOne has one replica pull a whole table that it lost: what the other's consumer can hear, its own topic of replies, gets none of it.
func (w *works) resyncOfOne(t *testing.T, detector *process) *process {
	if code := detector.stop(t, syscall.SIGTERM); code != 0 {
		t.Fatalf("detector b ends with %d", code)
	}
	topics := message.Topics{Pipeline: "shop"}
	before := map[string]int{}
	for _, o := range []*outlet{w.a, w.b} {
		before[o.name] = len(w.letters(topics.Replies(o.name)))
	}
	w.b.dst.exec(t, `TRUNCATE orders`)
	w.b.emptied = "public.orders"
	if code, _, stderr := run(t, trickleConsumer("resync", "--table", "public.orders", "--policy", w.b.policy, "--replica", w.b.dst.dsn)); code != 0 {
		t.Fatalf("asking for a resync ends with %d: %s", code, stderr)
	}
	detector = w.detector(w.b)
	await(t, 2*patience, "b has resynced the table", func() bool {
		return value[bool](t, w.b.dst, `SELECT coalesce(bool_or(state = 'done' AND table_name = 'public.orders'), false) FROM trickle.resyncs`)
	})
	asker := map[string]string{} // by request
	for _, r := range w.letters(topics.Requests()) {
		asker[r.env.GetId()] = r.env.GetConsumer()
	}
	heard := map[string]map[string]int{"a": {}, "b": {}} // bytes, by who heard and who asked
	for name, n := range before {
		for _, r := range w.letters(topics.Replies(name))[n:] {
			heard[name][asker[r.env.GetId()]] += r.bytes
		}
	}
	t.Logf("bytes of replies by who heard and who asked: %v", heard)
	rows := value[int](t, w.b.dst, `SELECT count(*) FROM audit.writes WHERE table_name = 'public.orders' AND op = 'INSERT'`)
	if heard["b"]["b"] < rows*10 || rows < worksRows/10 {
		t.Errorf("b resynced %d rows and heard %d bytes: the test shows nothing", rows, heard["b"]["b"])
	}
	if n := heard["a"]["b"]; n > 0 {
		t.Errorf("a heard %d bytes of what b asked for", n)
	}
	return detector
}
