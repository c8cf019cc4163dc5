package laws

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/resync"
)

const viaDebezium = `
pipeline: laws
quiet: 1ms
range_rows: 100
tables: [{table: public.t}]
gate: {max_lag: 1h, heartbeat: {in_commit_order: true}}
detect: {confirm: {delay: 1ms, attempts: 3}, brake: {deletes: 1000, corrections: 1000}}
resync: {cooldown: 1h, via: debezium, debezium: {topic_prefix: cdc}}
`

// within is the policy with another patience.
func within(started, progress string) string {
	return strings.Replace(viaDebezium, "topic_prefix: cdc", "topic_prefix: cdc, started_within: "+started+", progress_within: "+progress, 1)
}

// spoil makes the replica lack some rows, have others wrong, and have some that the source never had.
func (p *pair) spoil() {
	p.t.Helper()
	p.exec(p.dst, `DELETE FROM t WHERE id % 10 = 1`)
	p.exec(p.dst, `UPDATE t SET v = 'spoiled' WHERE id % 10 = 2`)
	p.exec(p.dst, `INSERT INTO t SELECT i, 'extra' FROM generate_series(-5, 0) i`)
	p.exec(p.dst, `INSERT INTO t SELECT i, 'extra' FROM generate_series(2001, 2005) i`)
	p.caughtUp()
}

func always(what string) func(int) string { return func(int) string { return what } }

// first does something about the first signals, and serves the others.
func first(n int, what string) func(int) string {
	return func(i int) string {
		if i <= n {
			return what
		}
		return serve
	}
}

func full() entry.Wish {
	return entry.Wish{ID: "full", Scope: entry.Full, Table: "public.t", Reason: "test"}
}

// Debezium brings the rows, the sink applies them, and trickle removes what no snapshot does and writes nothing else.
func TestResyncThroughDebezium(t *testing.T) {
	t.Parallel()
	p := newPair(t, viaDebezium, 1000)
	c := newConnector(t, p, always(serve))
	c.start()
	p.spoil()
	p.request(full())
	p.walk()
	p.identical()
	p.want(`SELECT count(*) FROM trickle.corrections WHERE resync_id = 'full' AND kind = 'extra' AND outcome = 'confirmed'`, "11")
	p.want(`SELECT count(*) FROM trickle.corrections WHERE kind <> 'extra'`, "0")
	p.want(`SELECT r.state || ' ' || s.state || ' ' || s.attempts || ' ' || s.rows || ' ' || s.remaining FROM trickle.resyncs r JOIN trickle.snapshots s ON s.resync_id = r.id`, "done sweeping 1 1000 0")
}

// A part of the table is only a part: of what Debezium reads, and of what is removed.
func TestResyncOfAPartThroughDebezium(t *testing.T) {
	t.Parallel()
	p := newPair(t, viaDebezium, 1000)
	c := newConnector(t, p, always(serve))
	c.start()
	p.exec(p.src, `DELETE FROM t WHERE id % 100 = 0`)
	p.exec(p.dst, `UPDATE t SET v = 'spoiled' WHERE id % 100 = 1`)
	p.caughtUp()
	p.request(entry.Wish{ID: "part", Scope: entry.Partial, Table: "public.t", Reason: "test", Range: message.Range{Lo: message.Key{"200"}, Hi: message.Key{"500"}}})
	p.walk()
	p.want(`SELECT string_agg(key->>'id', ' ' ORDER BY key->>'id') FROM trickle.corrections`, "300 400 500")
	p.want(`SELECT string_agg(id::text, ' ' ORDER BY id) FROM t WHERE v = 'spoiled'`, "1 101 501 601 701 801 901")
	p.want(`SELECT rows FROM trickle.snapshots`, "297")
}

// A signal that a connector loses is sent again; so is one of a snapshot that ends in silence, or is stopped.
func TestALostSnapshotIsAskedForAgain(t *testing.T) {
	t.Parallel()
	for _, what := range []string{lose, vanish, abort, fail} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, within("5s", "5s"), 300) // a machine with much to do may keep a connector silent for longer than a second
			c := newConnector(t, p, first(2, what))
			c.start()
			p.spoil()
			p.request(full())
			p.walk()
			p.identical()
			p.want(`SELECT state FROM trickle.resyncs`, "done")
			if signals, served := c.counts(); signals < 3 || served == 0 {
				t.Errorf("%d signals, %d snapshots", signals, served)
			}
		})
	}
}

// After so many attempts the resync fails, with the reason; at once where trying again is no use.
func TestASnapshotThatCannotBeFails(t *testing.T) {
	t.Parallel()
	for what, want := range map[string]struct{ signals, why string }{fail: {"3", "%after 3 signals%log has the reason%"}, exotic: {"1", "%table.include.list%"}} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, strings.Replace(within("1m", "1m"), "cdc,", "cdc, attempts: 3,", 1), 100)
			c := newConnector(t, p, always(what))
			c.start()
			p.spoil()
			p.request(full())
			p.walk()
			p.want(`SELECT state || ' ' || (failure LIKE '`+want.why+`')::text FROM trickle.resyncs`, "failed true")
			p.want(`SELECT attempts FROM trickle.snapshots`, want.signals)
			p.want(`SELECT count(*) FROM trickle.corrections`, "0")
		})
	}
}

// A connector that is down has lost nothing: its signal waits for it, and no second one is sent, however long it takes.
func TestNoSecondSignalWhileTheFirstIsUnread(t *testing.T) {
	t.Parallel()
	p := newPair(t, within("8s", "1h"), 300)
	c := newConnector(t, p, always(serve))
	stop := c.start()
	p.request(entry.Wish{ID: "before", Scope: entry.Partial, Table: "public.t", Range: message.Range{Hi: message.Key{"1"}}, Reason: "its group has read something"})
	p.walk()
	stop()
	p.spoil()
	p.request(full())
	kill := p.run()
	const excused = `SELECT failure LIKE '%has not read%' AND version > 5 FROM trickle.snapshots WHERE resync_id = 'full'` // longer than started_within, by quarters
	p.eventuallyIn(excused, "true")
	p.want(`SELECT state || ' ' || attempts FROM trickle.snapshots WHERE resync_id = 'full'`, "signalled 1")
	kill()
	c.start()
	p.walk()
	p.identical()
	if signals, served := c.counts(); signals != 2 || served != 2 {
		t.Errorf("%d signals, %d snapshots", signals, served)
	}
}

// What the sink did not apply, though Debezium had read it, is drift like any other: counted, suspected, and corrected as no resync's own.
func TestWhatASnapshotLeaves(t *testing.T) {
	t.Parallel()
	p := newPair(t, viaDebezium, 100)
	c := newConnector(t, p, always(unkept))
	c.start()
	p.exec(p.dst, `DELETE FROM t`)
	p.caughtUp()
	p.request(full())
	p.walk()
	p.want(`SELECT remaining FROM trickle.snapshots`, "10")
	p.want(`SELECT state FROM trickle.resyncs`, "done")
	p.settle()
	p.identical()
	p.want(`SELECT count(*) FROM trickle.corrections WHERE resync_id IS NULL AND kind = 'missing'`, "10")
	p.want(`SELECT count(*) FROM trickle.discrepancies`, "10")
}

// A snapshot removes nothing, so what trickle removes behind it is held by the brake as ever.
func TestTheBrakeHoldsBehindASnapshot(t *testing.T) {
	t.Parallel()
	p := newPair(t, strings.Replace(viaDebezium, "deletes: 1000", "deletes: 4", 1), 100)
	c := newConnector(t, p, always(serve))
	c.start()
	p.spoil()
	p.request(full())
	kill := p.run()
	for p.value(p.dst, `SELECT brake_reason IS NOT NULL FROM trickle.pipelines`) != "true" {
		p.caughtUp()
		if err := p.settleOnce(); err != nil {
			t.Fatal(err)
		}
	}
	kill()
	p.want(`SELECT count(*) <= 4 FROM trickle.corrections`, "true")
	p.want(`SELECT state FROM trickle.resyncs`, "running")
	if _, err := p.ledger.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// No signal is sent while nothing may be written: what the sink writes could be as wrong.
func TestNoSignalWhileNothingMayBeWritten(t *testing.T) {
	t.Parallel()
	for name, hold := range map[string]func(p *pair){
		"behind a closed gate": func(p *pair) { p.beat.set(time.Time{}) },
		"under the brake": func(p *pair) {
			if err := p.ledger.Brake(p.t.Context(), "test"); err != nil {
				p.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, viaDebezium, 100)
			newConnector(t, p, always(serve)).start()
			p.spoil()
			if _, err := p.detector.Source().Table(t.Context(), "public.t", 0); err != nil { // the gate hears of the source
				t.Fatal(err)
			}
			hold(p)
			var passes atomic.Int32
			parts := p.resync.Parts
			parts.Policy = func() *policy.Policy { passes.Add(1); return p.policy }
			p.resync = resync.New(parts)
			p.request(full())
			kill := p.run()
			for passes.Load() < 10 {
				p.want(`SELECT count(*) FROM trickle.snapshots WHERE state <> 'due' OR attempts > 0`, "0")
			}
			kill()
			p.want(`SELECT count(*) FROM trickle.snapshots WHERE state = 'due'`, "1")
			if _, err := p.ledger.Release(t.Context()); err != nil {
				t.Fatal(err)
			}
			p.walk()
			p.identical()
		})
	}
}

// died is a line whose instance is killed at a step.
type died struct {
	resync.Debezium
	before, after func()
}

func (d died) Send(ctx context.Context, to policy.Debezium, s debezium.Signal) error {
	if d.before != nil {
		d.before()
		return context.Canceled
	}
	err := d.Debezium.Send(context.WithoutCancel(ctx), to, s)
	if d.after != nil {
		d.after()
	}
	return err
}

// Killed at any step, another instance goes on. Only a signal that was never sent is followed by another.
func TestASnapshotGoesOnAfterAKill(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		wrap    func(line resync.Debezium, die func()) resync.Debezium
		started func(die func())
		signals int
	}{
		{"before the signal was sent", func(l resync.Debezium, die func()) resync.Debezium { return died{l, die, nil} }, nil, 1},
		{"after it was", func(l resync.Debezium, die func()) resync.Debezium { return died{l, nil, die} }, nil, 1},
		{"while Debezium reads", nil, func(die func()) { die() }, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text := within("1h", "1h")
			if c.name == "before the signal was sent" {
				text = within("2s", "1h")
			}
			p := newPair(t, text, 300)
			conn := newConnector(t, p, always(serve))
			dead := make(chan struct{}, 2)
			die := func() { dead <- struct{}{} }
			if c.started != nil {
				conn.between = func() { c.started(die) }
			}
			conn.start()
			p.spoil()
			line := p.connector
			if c.wrap != nil {
				p.connector = c.wrap(line, die)
				p.wire()
			}
			p.request(full())
			kill := p.run()
			<-dead
			kill()
			p.connector = line
			p.wire()
			p.walk()
			p.identical()
			if signals, served := conn.counts(); signals != c.signals || served != 1 {
				t.Errorf("%d signals were sent and %d snapshots made, want %d and one", signals, served, c.signals)
			}
		})
	}
}

// Two instances at once send one signal.
func TestTwoInstancesSignalOnce(t *testing.T) {
	t.Parallel()
	p := newPair(t, viaDebezium, 300)
	c := newConnector(t, p, always(serve))
	c.start()
	p.spoil()
	p.request(full())
	first := p.resync
	p.wire() // another instance, before either works
	defer p.start(first)()
	defer p.start(p.resync)()
	p.walk()
	p.identical()
	if signals, served := c.counts(); signals != 1 || served != 1 {
		t.Errorf("%d signals, %d snapshots", signals, served)
	}
}

// Nothing is looked at before the replica has applied the snapshot; meanwhile the connector, which is idle, is given the next one to make.
func TestASnapshotHasToBeApplied(t *testing.T) {
	t.Parallel()
	p := newPair(t, viaDebezium, 200)
	newConnector(t, p, always(serve)).start()
	p.spoil()
	half := message.Key{"100"}
	p.request(entry.Wish{ID: "a", Scope: entry.Partial, Table: "public.t", Range: message.Range{Hi: half}, Reason: "test"})
	p.request(entry.Wish{ID: "b", Scope: entry.Partial, Table: "public.t", Range: message.Range{Lo: half}, Reason: "test"})
	kill := p.run()
	p.eventuallyIn(`SELECT count(*) FROM trickle.snapshots WHERE state = 'applying' AND through IS NOT NULL`, "2")
	p.want(`SELECT count(*) FROM trickle.resync_ranges`, "0")
	p.want(`SELECT count(*) FROM trickle.suspects`, "0")
	kill()
	p.walk()
	p.identical()
}

// While the gate is closed a connector's silence says nothing.
func TestSilenceBehindAClosedGateIsExcused(t *testing.T) {
	t.Parallel()
	p := newPair(t, within("2s", "1h"), 100)
	c := newConnector(t, p, first(1, lose))
	c.start()
	p.spoil()
	p.request(full())
	kill := p.run()
	p.eventuallyIn(`SELECT state FROM trickle.snapshots`, "signalled")
	p.beat.set(time.Time{})
	p.eventuallyIn(`SELECT version > 6 FROM trickle.snapshots`, "true") // noted again by quarters of the time
	p.want(`SELECT state || ' ' || attempts FROM trickle.snapshots`, "signalled 1")
	kill()
	p.walk()
	p.identical()
	p.want(`SELECT attempts > 1 FROM trickle.snapshots`, "true")
}
