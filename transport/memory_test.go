package transport_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/transport"
)

func TestASenderWaitsForReadersThatAreBehind(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"group", "tail"} {
		for name, o := range map[string]transport.MemoryOptions{"records": {Backlog: 10}, "bytes": {BacklogBytes: 80}} {
			t.Run(kind+" by "+name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					ctx, bus := t.Context(), transport.NewMemory(o)
					ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 1})
					r, err := bus.Tail(ctx, "a")
					if kind == "group" {
						closed(t, r)
						r, err = bus.Group(ctx, "g", "a")
					}
					if err != nil {
						t.Fatal(err)
					}
					send(ctx, t, bus, "a", numbers(0, 10)...) // of 4 bytes, twice
					short, cancel := context.WithTimeout(ctx, time.Minute)
					defer cancel()
					full := transport.Record{Topic: "a", Key: []byte("0010"), Value: []byte("0010")}
					if err := bus.Send(short, full); !errors.Is(err, context.DeadlineExceeded) {
						t.Fatalf("got %v", err)
					}
					sent := make(chan error, 1)
					go func() { sent <- bus.Send(ctx, full) }()
					synctest.Wait()
					select {
					case err := <-sent:
						t.Fatalf("did not wait: %v", err)
					default:
					}
					same(t, read(ctx, t, r, 10), numbers(0, 10))
					if err := r.Commit(ctx); err != nil {
						t.Fatal(err)
					}
					if err := <-sent; err != nil {
						t.Fatal(err)
					}
					same(t, read(ctx, t, r, 1), numbers(10, 11))
				})
			})
		}
	}
}

func TestAGroupThatLeftHoldsNobodyUpAndMemoryIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, bus := t.Context(), transport.NewMemory(transport.MemoryOptions{Backlog: 10})
		ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 1})
		r := join(ctx, t, bus, "g", "a")
		send(ctx, t, bus, "a", numbers(0, 10)...)
		closed(t, r)
		send(ctx, t, bus, "a", numbers(10, 100)...)
		same(t, read(ctx, t, join(ctx, t, bus, "g", "a"), 10), numbers(90, 100))
		kept, err := bus.Replay(ctx, "a")
		if err != nil || len(kept) != 10 {
			t.Errorf("%d records are kept, %v", len(kept), err)
		}
	})
}

func TestWhatEveryGroupHasCommittedIsDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, bus := t.Context(), transport.NewMemory(transport.MemoryOptions{})
		ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 1})
		one, two := join(ctx, t, bus, "one", "a"), join(ctx, t, bus, "two", "a")
		send(ctx, t, bus, "a", numbers(0, 10)...)
		read(ctx, t, one, 10)
		read(ctx, t, two, 10)
		for _, step := range []struct {
			r    transport.Reader
			left int
		}{{one, 10}, {two, 0}} {
			if err := step.r.Commit(ctx); err != nil {
				t.Fatal(err)
			}
			if kept, err := bus.Replay(ctx, "a"); err != nil || len(kept) != step.left {
				t.Errorf("%d records are kept, want %d, %v", len(kept), step.left, err)
			}
		}
	})
}

func TestASenderMayUseItsBytesAgain(t *testing.T) {
	t.Parallel()
	ctx, bus := t.Context(), transport.NewMemory(transport.MemoryOptions{})
	ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 1})
	value := []byte("right")
	if err := bus.Send(ctx, transport.Record{Topic: "a", Value: value}); err != nil {
		t.Fatal(err)
	}
	copy(value, "wrong")
	same(t, read(ctx, t, join(ctx, t, bus, "g", "a"), 1), []string{"right"})
}

func TestAPartitionHasOneOwnerAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, bus := t.Context(), transport.NewMemory(transport.MemoryOptions{})
		ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 4})
		one := join(ctx, t, bus, "g", "a")
		two := join(ctx, t, bus, "g", "a")
		send(ctx, t, bus, "a", numbers(0, 40)...)
		seen := map[int32]transport.Reader{}
		for _, r := range []transport.Reader{one, two} {
			records, err := r.Fetch(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, rec := range records {
				if owner := seen[rec.Partition]; owner != nil && owner != r {
					t.Fatalf("partition %d has two owners", rec.Partition)
				}
				seen[rec.Partition] = r
			}
		}
	})
}
