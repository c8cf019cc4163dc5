package laws

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/trickle-verify/trickle/gate"
	"github.com/trickle-verify/trickle/internal/testbed/cdc"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/slot"
	"github.com/trickle-verify/trickle/transport"
)

// way is CDC through a real slot and a broker, with the gate over it. The publisher is a function call.
type way struct {
	t     *testing.T
	gate  *gate.Gate
	watch *slot.Watch
	kafka *transport.Follower
}

func (w *way) Path(ctx context.Context, name string) (gate.Path, error) {
	s, err := w.watch.Look(ctx, name)
	if err != nil {
		return gate.Path{}, err
	}
	w.gate.Heard(s.Clock, s.Timeline)
	return gate.Path{Clock: s.Clock, Timeline: s.Timeline, Through: s.Through, Reason: s.Reason}, nil
}

func (w *way) Group(ctx context.Context, name string) (gate.Group, error) {
	p, err := w.kafka.Progress(ctx, name)
	out := gate.Group{Members: p.Members, Partitions: make(map[gate.Partition]gate.Progress)}
	for _, at := range p.Partitions {
		out.Partitions[gate.Partition{Topic: at.Topic, ID: at.Partition}] = gate.Progress{End: at.End, Done: at.Done, Since: at.Since}
	}
	return out, err
}

// await looks at the gate until it likes what it sees.
func (w *way) await(what string, until func(gate.State) bool) gate.State {
	w.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(2 * time.Minute); ; <-tick.C {
		s := w.gate.Check(w.t.Context())
		if until(s) {
			return s
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: it stays at %+v", what, s)
		}
	}
}

// Slot and group measure the whole way without a heartbeat: what they say has been applied has been, a connector that stops closes the gate although the sink
// has nothing left to do, and so does a sink that stops although the connector runs.
func TestTheWholeWayBySlotAndGroup(t *testing.T) {
	t.Parallel()
	broker, bus := newBus(t)
	source, replica := pgtest.Database(t), pgtest.Database(t)
	src, dst := open(t, source), open(t, replica)
	p := &pair{t: t, src: src, dst: dst}
	p.exec(src, `CREATE TABLE t (id bigint PRIMARY KEY, v text)`)
	p.exec(dst, `CREATE TABLE t (id bigint PRIMARY KEY, v text)`)
	cfg := cdc.Config{Source: source, Replica: replica, Kafka: []kgo.Opt{kgo.SeedBrokers(broker.ListenAddrs()...)}, Topic: "changes", Group: "sink", Slot: "whole_way", Tables: []string{"public.t"}}
	if err := cdc.Prepare(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	run := func(part func(context.Context)) (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { part(ctx) })
		stop = func() {
			cancel()
			running.Wait()
		}
		t.Cleanup(stop)
		return stop
	}
	w := &way{t: t, watch: slot.New(postgres.NewSource(src)), kafka: bus.Follow()}
	w.gate = gate.New(policy.Gate{MaxLag: policy.Duration(15 * time.Second), Slot: cfg.Slot, Group: cfg.Group}, gate.Parts{})
	stopConnector, stopSink := run(cdc.NewSource(cfg).Run), run(cdc.NewSink(cfg).Run)
	p.exec(src, `INSERT INTO t VALUES (0)`)
	id := 0
	run(func(ctx context.Context) { // somebody always writes
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for ; ctx.Err() == nil; <-tick.C {
			id++
			if _, err := src.Exec(ctx, `INSERT INTO t VALUES ($1)`, id); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	run(func(ctx context.Context) {
		if err := w.gate.Run(ctx, gate.Inputs{Publisher: w, Groups: w}); err != nil {
			t.Error(err)
		}
	})
	opened := func(when string) {
		t.Helper()
		var newest int
		var committed time.Time
		if err := src.QueryRow(t.Context(), `SELECT max(id), clock_timestamp() FROM t`).Scan(&newest, &committed); err != nil {
			t.Fatal(err)
		}
		w.await(when, func(s gate.State) bool { return s.Open && s.Through.After(committed) })
		var there bool
		if err := dst.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM t WHERE id = $1)`, newest).Scan(&there); err != nil || !there {
			t.Errorf("%s: row %d is said to have been applied and is not there (%v)", when, newest, err)
		}
	}
	opened("at first")
	stopConnector()
	s := w.await("the connector stopped", func(s gate.State) bool { return !s.Open })
	if s.By != gate.BySlot || !strings.Contains(s.Reason, "is the connector running?") {
		t.Errorf("the connector stopped: %+v", s)
	}
	group := s.Measures[1]
	if group.By != gate.ByGroup || group.Reason != "" || group.Lag > 15*time.Second {
		t.Errorf("the sink has nothing left to do: %+v", group)
	}
	stopConnector = run(cdc.NewSource(cfg).Run)
	opened("the connector runs again")
	stopSink()
	s = w.await("the sink stopped", func(s gate.State) bool { return !s.Open })
	if s.By != gate.ByGroup || s.Measures[0].Reason != "" {
		t.Errorf("the sink stopped: %+v", s)
	}
	run(cdc.NewSink(cfg).Run)
	opened("the sink runs again")
	stopConnector()
	if err := cdc.Drop(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	s = w.await("the slot is gone", func(s gate.State) bool { return strings.Contains(s.Reason, "no replication slot") })
	if s.Open || s.By != gate.BySlot {
		t.Errorf("%+v", s)
	}
}
