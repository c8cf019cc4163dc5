package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/trickle-verify/trickle/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// buses are the transports; every test below holds for each of them.
func buses() map[string]func(t *testing.T) transport.Bus {
	return map[string]func(t *testing.T) transport.Bus{
		"memory": func(t *testing.T) transport.Bus {
			bus := transport.NewMemory(transport.MemoryOptions{})
			t.Cleanup(func() { closed(t, bus) })
			return bus
		},
		"kafka": func(t *testing.T) transport.Bus { return newKafka(t, newCluster(t).ListenAddrs()) },
	}
}

func newCluster(t *testing.T, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return cluster
}

func newKafka(t *testing.T, brokers []string) *transport.Kafka {
	t.Helper()
	bus, err := transport.NewKafka(t.Context(), transport.KafkaOptions{Brokers: brokers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, bus) })
	return bus
}

func closed(t *testing.T, c interface{ Close() error }) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
}

func onEach(t *testing.T, test func(ctx context.Context, t *testing.T, bus transport.Bus)) {
	t.Helper()
	for name, make := range buses() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
			defer cancel()
			test(ctx, t, make(t))
		})
	}
}

func ensure(ctx context.Context, t *testing.T, bus transport.Bus, topics ...transport.TopicSpec) {
	t.Helper()
	if err := bus.Ensure(ctx, topics...); err != nil {
		t.Fatal(err)
	}
}

func send(ctx context.Context, t *testing.T, bus transport.Bus, topic string, values ...string) {
	t.Helper()
	for _, v := range values {
		if err := bus.Send(ctx, transport.Record{Topic: topic, Key: []byte(v), Value: []byte(v)}); err != nil {
			t.Fatalf("sending %q: %v", v, err)
		}
	}
}

func join(ctx context.Context, t *testing.T, bus transport.Bus, group, topic string) transport.Reader {
	t.Helper()
	r, err := bus.Group(ctx, group, topic)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, r) })
	return r
}

// read fetches until it has n different values.
func read(ctx context.Context, t *testing.T, r transport.Reader, n int) []string {
	t.Helper()
	var got []string
	for len(got) < n {
		records, err := r.Fetch(ctx)
		if err != nil {
			t.Fatalf("fetching after %q: %v", got, err)
		}
		for _, rec := range records {
			if !slices.Contains(got, string(rec.Value)) {
				got = append(got, string(rec.Value))
			}
		}
	}
	slices.Sort(got)
	return got
}

func numbers(from, to int) []string {
	var out []string
	for i := from; i < to; i++ {
		out = append(out, fmt.Sprintf("%04d", i))
	}
	return out
}

func same(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEnsureLeavesAnExistingTopicAsItIs(t *testing.T) {
	t.Parallel()
	onEach(t, func(ctx context.Context, t *testing.T, bus transport.Bus) {
		ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 2})
		send(ctx, t, bus, "a", numbers(0, 3)...)
		ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 5}, transport.TopicSpec{Name: "b", Partitions: 1, Retention: time.Hour})
		same(t, read(ctx, t, join(ctx, t, bus, "g", "a"), 3), numbers(0, 3))
	})
}

func TestATopicThatDoesNotExistIsNamed(t *testing.T) {
	t.Parallel()
	onEach(t, func(ctx context.Context, t *testing.T, bus transport.Bus) {
		_, group := bus.Group(ctx, "g", "nope")
		_, tail := bus.Tail(ctx, "nope")
		_, replay := bus.Replay(ctx, "nope")
		for call, err := range map[string]error{
			"send": bus.Send(ctx, transport.Record{Topic: "nope"}), "group": group, "tail": tail, "replay": replay,
		} {
			if !errors.Is(err, transport.ErrNoTopic) || !bytes.Contains([]byte(err.Error()), []byte("nope")) {
				t.Errorf("%s: got %v, want an ErrNoTopic that names the topic", call, err)
			}
		}
	})
}

func TestEverythingAboutARecordArrives(t *testing.T) {
	t.Parallel()
	onEach(t, func(ctx context.Context, t *testing.T, bus transport.Bus) {
		ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 3})
		before := time.Now().Add(-time.Second)
		sent := transport.Record{Topic: "a", Key: []byte("k"), Value: []byte("v"), Headers: map[string]string{"traceparent": "00-1"}}
		if err := bus.Send(ctx, sent); err != nil {
			t.Fatal(err)
		}
		records, err := join(ctx, t, bus, "g", "a").Fetch(ctx)
		if err != nil || len(records) != 1 {
			t.Fatalf("got %v, %v", records, err)
		}
		got := records[0]
		if got.Topic != "a" || string(got.Key) != "k" || string(got.Value) != "v" || got.Headers["traceparent"] != "00-1" || len(got.Headers) != 1 ||
			got.Offset != 0 || got.At.Before(before) {
			t.Errorf("got %+v", got)
		}
	})
}

func TestEqualKeysStayInOrder(t *testing.T) {
	t.Parallel()
	onEach(t, func(ctx context.Context, t *testing.T, bus transport.Bus) {
		ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 3})
		var records []transport.Record
		for i := range 300 {
			records = append(records, transport.Record{Topic: "a", Key: fmt.Append(nil, i%7), Value: fmt.Append(nil, i)})
		}
		for i := range 100 {
			records = append(records, transport.Record{Topic: "a", Value: fmt.Append(nil, i)})
		}
		if err := bus.Send(ctx, records...); err != nil {
			t.Fatal(err)
		}
		r, last := join(ctx, t, bus, "g", "a"), map[string]int{}
		for seen := 0; seen < len(records); {
			got, err := r.Fetch(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, rec := range got {
				n, err := strconv.Atoi(string(rec.Value))
				if err != nil {
					t.Fatal(err)
				}
				if before, ok := last[string(rec.Key)]; ok && n <= before {
					t.Fatalf("key %q: %d came after %d", rec.Key, n, before)
				}
				last[string(rec.Key)] = n
				seen++
			}
		}
	})
}

func TestAMemberThatDiesBeforeCommitIsFollowedByOneThatSeesItAgain(t *testing.T) {
	t.Parallel()
	onEach(t, func(ctx context.Context, t *testing.T, bus transport.Bus) {
		ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 2})
		send(ctx, t, bus, "a", numbers(0, 4)...)
		r := join(ctx, t, bus, "g", "a")
		read(ctx, t, r, 4)
		if err := r.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		send(ctx, t, bus, "a", numbers(4, 8)...)
		read(ctx, t, r, 4) // not committed
		closed(t, r)
		again := join(ctx, t, bus, "g", "a")
		same(t, read(ctx, t, again, 4), numbers(4, 8))
		if err := again.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		closed(t, again)
		send(ctx, t, bus, "a", "last")
		same(t, read(ctx, t, join(ctx, t, bus, "g", "a"), 1), []string{"last"})
	})
}

func TestMembersShareAndOtherGroupsSeeEverything(t *testing.T) {
	t.Parallel()
	onEach(t, func(ctx context.Context, t *testing.T, bus transport.Bus) {
		ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 4})
		type got struct {
			member int
			value  string
		}
		var (
			news          = make(chan got, 10_000)
			reading, stop = context.WithCancel(ctx)
			done          = make(chan error, 2)
			other         = join(ctx, t, bus, "other", "a")
		)
		for member := range 2 {
			r := join(ctx, t, bus, "g", "a")
			go func() {
				for {
					records, err := r.Fetch(reading)
					if err != nil {
						done <- err
						return
					}
					for _, rec := range records {
						news <- got{member, string(rec.Value)}
					}
					if err := r.Commit(reading); err != nil {
						done <- err
						return
					}
				}
			}()
		}
		busy, seen := map[int]bool{}, map[string]bool{}
		var sent []string
		for len(busy) < 2 || len(seen) < len(sent) { // until both have had something since the group settled
			if len(busy) < 2 {
				n := fmt.Sprintf("%04d", len(sent))
				send(ctx, t, bus, "a", n)
				sent = append(sent, n)
			}
			select {
			case g := <-news:
				busy[g.member], seen[g.value] = true, true
			case <-ctx.Done():
				t.Fatalf("busy %v, %d of %d seen", busy, len(seen), len(sent))
			}
		}
		stop()
		for range 2 {
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("a member ended with %v", err)
			}
		}
		same(t, read(ctx, t, other, len(sent)), sent)
	})
}

func TestTailSeesOnlyWhatIsSentLater(t *testing.T) {
	t.Parallel()
	onEach(t, func(ctx context.Context, t *testing.T, bus transport.Bus) {
		ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 3})
		send(ctx, t, bus, "a", numbers(0, 10)...)
		r, err := bus.Tail(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closed(t, r) })
		send(ctx, t, bus, "a", numbers(10, 20)...)
		same(t, read(ctx, t, r, 10), numbers(10, 20))
		if err := r.Commit(ctx); err != nil {
			t.Errorf("commit of a tail: %v", err)
		}
	})
}

func TestReplay(t *testing.T) {
	t.Parallel()
	onEach(t, func(ctx context.Context, t *testing.T, bus transport.Bus) {
		ensure(ctx, t, bus, transport.TopicSpec{Name: "plain", Partitions: 3}, transport.TopicSpec{Name: "compacted", Partitions: 2, Compacted: true})
		for _, topic := range []string{"plain", "compacted"} {
			if got, err := bus.Replay(ctx, topic); err != nil || len(got) != 0 {
				t.Errorf("of an empty topic: %v, %v", got, err)
			}
		}
		send(ctx, t, bus, "plain", numbers(0, 50)...)
		put := func(key string, value []byte) {
			if err := bus.Send(ctx, transport.Record{Topic: "compacted", Key: []byte(key), Value: value}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 200 {
			put(fmt.Sprint(i%5), fmt.Append(nil, i))
		}
		put("3", nil)
		for topic, want := range map[string][]string{"plain": numbers(0, 50), "compacted": {"195", "196", "197", "199"}} {
			records, err := bus.Replay(ctx, topic)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range records {
				got = append(got, string(r.Value))
			}
			slices.Sort(got)
			same(t, got, want)
		}
	})
}

func TestALargeMessageComesOutWhole(t *testing.T) {
	t.Parallel()
	onEach(t, func(ctx context.Context, t *testing.T, bus transport.Bus) {
		ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 2})
		large := bytes.Repeat([]byte("0123456789abcdef"), 5<<20/16)
		tail, err := bus.Tail(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closed(t, tail) })
		for _, value := range [][]byte{[]byte("before"), large, []byte("after")} {
			if err := bus.Send(ctx, transport.Record{Topic: "a", Key: []byte("k"), Value: value, Headers: map[string]string{"h": "1"}}); err != nil {
				t.Fatal(err)
			}
		}
		for name, r := range map[string]transport.Reader{"group": join(ctx, t, bus, "g", "a"), "tail": tail} {
			var got []transport.Record
			for len(got) < 3 {
				records, err := r.Fetch(ctx)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, records...)
			}
			if string(got[0].Value) != "before" || !bytes.Equal(got[1].Value, large) || string(got[2].Value) != "after" {
				t.Errorf("%s: got lengths %d, %d, %d", name, len(got[0].Value), len(got[1].Value), len(got[2].Value))
			}
			if len(got[1].Headers) != 1 || got[1].Headers["h"] != "1" {
				t.Errorf("%s: headers %v", name, got[1].Headers)
			}
		}
		if all, err := bus.Replay(ctx, "a"); err != nil || len(all) != 3 || !bytes.Equal(all[1].Value, large) {
			t.Errorf("replay: %d records, %v", len(all), err)
		}
	})
}

func TestWaitingEndsWithTheContextAndWithClose(t *testing.T) {
	t.Parallel()
	onEach(t, func(ctx context.Context, t *testing.T, bus transport.Bus) {
		ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 1})
		r := join(ctx, t, bus, "g", "a")
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		if _, err := r.Fetch(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the context's error", err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := r.Fetch(ctx)
			ended <- err
		}()
		closed(t, r)
		if err := <-ended; !errors.Is(err, transport.ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
		tail, err := bus.Tail(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		closed(t, bus)
		if _, err := tail.Fetch(ctx); !errors.Is(err, transport.ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
		if err := bus.Send(ctx, transport.Record{Topic: "a"}); !errors.Is(err, transport.ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	})
}
