package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/transport"
)

const (
	crewRows   = 60_000
	crewRanges = crewRows / 250
	crewWrong  = 90

	crewPolicy = `
pipeline: crew
schedule: {cycle: 1s}
rate: {rows_per_second: 6000}   # of all publishers together: a cycle takes ten seconds
quiet: 1s
range_rows: 250
tables: [{table: public.*}]
gate: {assume_lag: 1s}
detect: {confirm: {delay: 500ms}, window: 10m}
resync: {partial: {discrepancies: 100000}, full: {discrepancies: 100000, ratio: 100%}}
`
)

// verified is one message that says what a range holds.
type verified struct {
	at    time.Time
	print *tricklepb.Thumbprint
}

// listen gathers the verification messages of a pipeline from now on.
func listen(t *testing.T, broker *kfake.Cluster, pipeline string) func() []verified {
	t.Helper()
	bus, err := transport.NewKafka(t.Context(), transport.KafkaOptions{Brokers: broker.ListenAddrs()})
	if err != nil {
		t.Fatal(err)
	}
	topic := message.Topics{Pipeline: pipeline}.Verify()
	if err := bus.Ensure(t.Context(), transport.TopicSpec{Name: topic, Partitions: 8}); err != nil {
		t.Fatal(err)
	}
	tail, err := bus.Tail(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var all []verified
	var listening sync.WaitGroup
	listening.Go(func() {
		for {
			records, err := tail.Fetch(t.Context())
			if err != nil {
				return // the test is over
			}
			for _, r := range records {
				env, err := message.Codec{}.Decode(r.Topic, r.Value)
				if err != nil {
					t.Errorf("%s/%d@%d: %v", r.Topic, r.Partition, r.Offset, err)
					continue
				}
				mu.Lock()
				all = append(all, verified{env.GetReadAt().AsTime(), env.GetThumbprint()})
				mu.Unlock()
			}
		}
	})
	t.Cleanup(func() {
		if err := bus.Close(); err != nil {
			t.Error(err)
		}
		listening.Wait()
	})
	return func() []verified {
		mu.Lock()
		defer mu.Unlock()
		return all[:len(all):len(all)]
	}
}

// ofCycle counts how often each range was sent in a cycle.
func ofCycle(all []verified, cycle uint64) (times map[string]int, first, last time.Time) {
	times = map[string]int{}
	for _, v := range all {
		if v.print.GetCycle() != cycle {
			continue
		}
		times[message.RangeOf(v.print.GetRange()).String()]++
		if first.IsZero() || v.at.Before(first) {
			first = v.at
		}
		if v.at.After(last) {
			last = v.at
		}
	}
	return times, first, last
}

// whole tells whether the ranges of a cycle follow each other from -infinity to +infinity, with none to spare.
func whole(all []verified, cycle uint64) bool {
	next := map[string]message.Range{}
	for _, v := range all {
		if v.print.GetCycle() == cycle {
			r := message.RangeOf(v.print.GetRange())
			next[r.Lo.ID()] = r
		}
	}
	steps := 0
	for at := (message.Key{}); ; steps++ {
		r, ok := next[at.ID()]
		if !ok || r.Hi == nil {
			return ok && steps+1 == len(next)
		}
		at = r.Hi
	}
}

// owners is who has which share, by what trickle status says.
func owners(t *testing.T, policy, brokers string) map[string]int {
	t.Helper()
	code, out, errs := run(t, trickle("status", "--policy", policy, "--brokers", brokers, "--format", "json"))
	var scan app.Scan
	if err := json.Unmarshal([]byte(out), &scan); code != 0 || err != nil {
		t.Fatalf("status ended with %d, printed %s, %s: %v", code, out, errs, err)
	}
	shares := map[string]int{}
	for _, s := range scan.Shares {
		_, pid, _ := strings.Cut(s.Owner, "/")
		shares[pid]++
	}
	return shares
}

// Three publishers share a table. One is killed in the middle of a cycle: the others take its ranges over and go on where it was, so that the
// cycle leaves nothing out and no range is sent again but the one that it may have had in hand. Two detectors share the replica, one of them
// killed too, and whatever is wrong there counts once.
func TestKilledPublisherIsTakenOver(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, testbed.Options{})
	src, dst := connect(t, pgtest.DatabaseOn(t, server)), connect(t, pgtest.DatabaseOn(t, server))
	for _, side := range []database{src, dst} {
		side.exec(t, `CREATE TABLE t (id int PRIMARY KEY, v text)`, fmt.Sprintf(`INSERT INTO t SELECT i, 'value ' || i FROM generate_series(1, %d) i`, crewRows), `VACUUM ANALYZE t`)
	}
	broker, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	missSoon(broker)
	policy, brokers := writeFile(t, "policy.yaml", crewPolicy), broker.ListenAddrs()[0]
	sent := listen(t, broker, "crew")
	var publishers, detectors []*process
	for range 3 {
		publishers = append(publishers, start(t, trickle("run", "--policy", policy, "--source", src.dsn, "--brokers", brokers, "--listen", "")))
	}
	for range 2 {
		detectors = append(detectors, start(t, trickleConsumer("run", "--policy", policy, "--replica", dst.dsn, "--brokers", brokers, "--consumer", "replica", "--listen", "")))
	}
	pid := func(p *process) string { return fmt.Sprint(p.cmd.Process.Pid) }
	await(t, patience, "all three have their part", func() bool {
		shares := owners(t, policy, brokers)
		return shares[pid(publishers[0])] == 4 && shares[pid(publishers[1])] == 4 && shares[pid(publishers[2])] == 4
	})
	// The cycle after the one that is under way, with all three from its beginning.
	cycle := uint64(1)
	for _, v := range sent() {
		cycle = max(cycle, v.print.GetCycle()+1)
	}
	dst.exec(t, fmt.Sprintf(`DELETE FROM t WHERE id %% %d = 7`, crewRows/30), fmt.Sprintf(`UPDATE t SET v = 'drift' WHERE id %% %d = 8`, crewRows/30),
		fmt.Sprintf(`INSERT INTO t SELECT i, 'extra' FROM generate_series(%d, %d) i`, crewRows+1, crewRows+crewWrong-60))
	await(t, patience, "a third of the cycle is done", func() bool {
		times, _, _ := ofCycle(sent(), cycle)
		return len(times) > crewRanges/3
	})
	killed := time.Now()
	publishers[1].kill()
	detectors[0].kill()
	await(t, patience, "the other two have its part", func() bool {
		shares := owners(t, policy, brokers)
		return shares[pid(publishers[0])] == 6 && shares[pid(publishers[2])] == 6
	})
	t.Logf("taken over within %s of the kill; the broker misses a member after 2.5 s", time.Since(killed).Round(100*time.Millisecond))
	await(t, patience, "two cycles more", func() bool {
		times, _, _ := ofCycle(sent(), cycle+2)
		return len(times) > 0
	})
	for c := cycle; c <= cycle+1; c++ {
		times, first, last := ofCycle(sent(), c)
		again := 0
		for _, n := range times {
			again += n - 1
		}
		t.Logf("cycle %d: %d ranges in %s, %d of them sent again", c, len(times), last.Sub(first).Round(100*time.Millisecond), again)
		if !whole(sent(), c) || len(times) < crewRanges || again > 1 {
			t.Errorf("cycle %d: %d ranges of about %d were sent, %d of them again", c, len(times), crewRanges, again)
		}
		if _, next, _ := ofCycle(sent(), c+1); next.Before(last) {
			t.Errorf("cycle %d began before cycle %d had ended", c+1, c)
		}
	}
	await(t, patience, "everything wrong is corrected", func() bool {
		return value[int](t, dst, `SELECT count(*) FROM trickle.corrections WHERE closed_at IS NOT NULL`) >= crewWrong
	})
	r := status(t, policy, dst.dsn)
	if n := value[int](t, dst, `SELECT count(*) FROM trickle.corrections`); n != crewWrong || r.Window.Discrepancies != crewWrong {
		t.Errorf("%d rows were made wrong: %d corrections, %d discrepancies in the window", crewWrong, n, r.Window.Discrepancies)
	}
	if got := table(r, "public.t"); got.Coverage != 1 || got.Paused != "" {
		t.Errorf("after whole cycles the coverage is %v, paused %q", got.Coverage, got.Paused)
	}
	for _, p := range []*process{publishers[0], publishers[2], detectors[1]} {
		if code := p.stop(t, syscall.SIGTERM); code != 0 {
			t.Errorf("%s ends with status %d", p.name, code)
		}
	}
}
