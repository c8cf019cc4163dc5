package transport_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/trickle-verify/trickle/transport"
)

func own(ctx context.Context, t *testing.T, bus transport.Bus, topic string) transport.Ownership {
	t.Helper()
	o, err := bus.Own(ctx, "owners", topic)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, o) })
	return o
}

// settle waits until the owners have a topic of n partitions between them, every one of them its part.
func settle(ctx context.Context, t *testing.T, n int, owners ...transport.Ownership) []map[int32]uint64 {
	t.Helper()
	for {
		parts, seen, whole := make([]map[int32]uint64, len(owners)), map[int32]int{}, true
		moved := make(chan struct{})
		looked, cancel := context.WithCancel(ctx)
		for i, o := range owners {
			part, changed, err := o.Owned()
			if err != nil {
				t.Fatal(err)
			}
			for id := range part {
				seen[id]++
			}
			parts[i] = part
			whole = whole && len(part) >= n/len(owners)
			go func() {
				select {
				case <-changed:
				case <-looked.Done():
				}
				select {
				case moved <- struct{}{}:
				case <-looked.Done():
				}
			}()
		}
		if whole && len(seen) == n {
			cancel()
			for id, times := range seen {
				if times > 1 {
					t.Fatalf("partition %d has %d owners", id, times)
				}
			}
			return parts
		}
		select {
		case <-moved:
			cancel()
		case <-ctx.Done():
			cancel()
			t.Fatalf("the partitions are shared as %v", parts)
		}
	}
}

func TestOwnersDivideThePartitions(t *testing.T) {
	t.Parallel()
	onEach(t, func(ctx context.Context, t *testing.T, bus transport.Bus) {
		ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 6, Compacted: true})
		one := own(ctx, t, bus, "a")
		settle(ctx, t, 6, one)
		two := own(ctx, t, bus, "a")
		before := settle(ctx, t, 6, one, two)
		three := own(ctx, t, bus, "a")
		after := settle(ctx, t, 6, one, two, three)
		for id, term := range after[0] {
			if before[0][id] != term {
				t.Errorf("partition %d moved between those that stayed: %v, then %v", id, before, after)
			}
		}
		closed(t, one)
		settle(ctx, t, 6, two, three)
	})
}

func TestAPartitionIsWrittenAndReadByItself(t *testing.T) {
	t.Parallel()
	onEach(t, func(ctx context.Context, t *testing.T, bus transport.Bus) {
		ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 3, Compacted: true})
		if n, err := bus.Partitions(ctx, "a"); n != 3 || err != nil {
			t.Errorf("%d partitions, %v", n, err)
		}
		if _, err := bus.Partitions(ctx, "nope"); !errors.Is(err, transport.ErrNoTopic) {
			t.Errorf("of no topic: %v", err)
		}
		since := func(id int32, offset int64) (string, int64) {
			t.Helper()
			records, next, err := bus.Since(ctx, "a", id, offset)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range records {
				if r.Partition != id {
					t.Errorf("a record of partition %d", r.Partition)
				}
				got = append(got, fmt.Sprintf("%s=%s", r.Key, r.Value))
			}
			return strings.Join(got, " "), next
		}
		put := func(id int32, key, value string) {
			t.Helper()
			r := transport.Record{Topic: "a", Key: []byte(key), Value: []byte(value)}
			if value == "" {
				r.Value = nil
			}
			if err := bus.SendTo(ctx, id, r); err != nil {
				t.Fatal(err)
			}
		}
		if got, next := since(2, 0); got != "" || next != 0 {
			t.Errorf("of an empty partition: %q, %d", got, next)
		}
		put(2, "x", "1")
		put(1, "x", "other")
		put(2, "y", "2")
		got, next := since(2, 0)
		if got != "x=1 y=2" || next != 2 {
			t.Errorf("got %q, then %d", got, next)
		}
		put(2, "x", "")
		if got, next = since(2, next); got != "x=" || next != 3 {
			t.Errorf("later %q, then %d", got, next)
		}
		if got, next = since(2, next); got != "" || next != 3 {
			t.Errorf("at the end %q, then %d", got, next)
		}
		if got, _ = since(2, 99); !strings.HasPrefix(got, "x=1 y=2") {
			t.Errorf("behind the end %q", got)
		}
		if err := bus.SendTo(ctx, 3, transport.Record{Topic: "a", Key: []byte("x")}); err == nil {
			t.Error("sent to a partition that there is not")
		}
		if _, _, err := bus.Since(ctx, "a", 3, 0); err == nil || !strings.Contains(err.Error(), "3 partitions") {
			t.Errorf("read of a partition that there is not: %v", err)
		}
	})
}

// A member that the group has missed owns nothing, by its own account too, until it is let in again.
func TestAMemberThatWasMissedLosesItsPart(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	ctx := bounded(t)
	bus := newKafka(t, cluster.ListenAddrs())
	ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 2, Compacted: true})
	o := own(ctx, t, bus, "a")
	before := settle(ctx, t, 2, o)[0]
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.UnknownMemberID, Count: 1})
	_, changed, _ := o.Owned()
	select {
	case <-changed:
	case <-ctx.Done():
		t.Fatal("it still takes itself for the owner")
	}
	for id, term := range settle(ctx, t, 2, o)[0] {
		if term == before[id] {
			t.Errorf("partition %d was lost and came back in the same term", id)
		}
	}
}

// A right that is taken away is told, and given back it is enough: nothing has to be restarted.
func TestOwningWithoutTheRightIsToldUntilItIsThere(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	ctx := bounded(t)
	bus := newKafka(t, cluster.ListenAddrs())
	ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 2, Compacted: true})
	taken := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.JoinGroup}, Err: kerr.GroupAuthorizationFailed, Count: -1})
	o := own(ctx, t, bus, "a")
	until := func(what string, done func(parts map[int32]uint64, err error) bool) {
		t.Helper()
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			if parts, _, err := o.Owned(); done(parts, err) {
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatal(what)
			}
		}
	}
	until("nothing was told", func(_ map[int32]uint64, err error) bool {
		if err != nil && !strings.Contains(err.Error(), "consumer group owners") {
			t.Errorf("got %v", err)
		}
		return err != nil
	})
	taken.Remove()
	until("the right that is there again is still missed", func(parts map[int32]uint64, err error) bool { return err == nil && len(parts) == 2 })
}
