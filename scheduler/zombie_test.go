package scheduler

import (
	"context"
	"log/slog"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/transport"
)

// tape is a topic of one partition that everybody who asks is given.
type tape struct{ records []transport.Record }

func (*tape) Ensure(context.Context, ...transport.TopicSpec) error { return nil }

func (*tape) Partitions(context.Context, string) (int, error) { return 1, nil }

func (*tape) Own(context.Context, string, string) (transport.Ownership, error) {
	return everyones{}, nil
}

func (p *tape) SendTo(_ context.Context, _ int32, records ...transport.Record) error {
	p.records = append(p.records, records...)
	return nil
}

func (p *tape) Since(_ context.Context, _ string, _ int32, offset int64) ([]transport.Record, int64, error) {
	return p.records[offset:], int64(len(p.records)), nil
}

type everyones struct{}

func (everyones) Owned() (map[int32]uint64, <-chan struct{}, error) {
	return map[int32]uint64{0: 1}, nil, nil
}

func (everyones) Close() error { return nil }

// An owner of earlier who doesn't know it yet goes on splitting and merging ranges of his own memory between the records of those who came
// after him. Whoever loads the share finds the last owner's ranges, and they cover everything.
func TestAnOwnerOfEarlierLeavesTheChainWhole(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ctx, bus, name := context.Background(), new(tape), &table{name: "a"}
		open := func() *cursor.Topic {
			topic, err := cursor.OpenTopic(ctx, bus, cursor.TopicOptions{Name: "c", Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			return topic
		}
		load := func(topic *cursor.Topic) *span {
			state, err := topic.Load(ctx, 0)
			if err != nil {
				t.Fatal(err)
			}
			return newSpan(name, cursor.Whole("a"), 0, state)
		}
		bounds := 0
		step := func(topic *cursor.Topic, sp *span) {
			var change cursor.Change
			lo, hi := 0, 0
			if len(sp.chain) == 0 {
				change.Ranges, _ = sp.adopt([]cursor.Range{{}}, everything, time.Unix(1, 0))
			} else {
				lo = rapid.IntRange(0, len(sp.chain)-1).Draw(t, "at")
				hi = lo + 1
				if m, ok := merge(sp.chain[max(lo, 1)-1], sp.chain[lo], 1000); ok && lo > 0 && rapid.Bool().Draw(t, "merge") {
					lo, change.Ranges = lo-1, []cursor.Range{m}
				} else {
					a, b := sp.chain[lo], sp.chain[lo]
					bounds++
					a.Bounds.Hi, b.Bounds.Lo = message.Key{strconv.Itoa(bounds)}, message.Key{strconv.Itoa(bounds)}
					change.Ranges, _ = sp.adopt([]cursor.Range{a, b}, sp.chain[lo].Bounds, time.Unix(1, 0))
				}
			}
			change.Removed = without(sp.chain[lo:hi], change.Ranges)
			if err := topic.Save(ctx, 0, change); err != nil {
				t.Fatal(err)
			}
			sp.replace(lo, hi, change.Ranges)
		}
		type owner struct {
			topic *cursor.Topic
			span  *span
		}
		first := open()
		crew := []owner{{first, load(first)}}
		step(crew[0].topic, crew[0].span)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			if rapid.IntRange(0, 5).Draw(t, "another") == 0 {
				next := open()
				sp := load(next)
				last := crew[len(crew)-1].span
				if err := verifyChain(sp.chain, everything); err != nil {
					t.Fatal(err)
				}
				if len(sp.chain) != len(last.chain) || len(without(sp.chain, last.chain)) > 0 {
					t.Fatalf("loaded %v, the owner before had %v", sp.chain, last.chain)
				}
				crew = append(crew, owner{next, sp})
				continue
			}
			o := rapid.SampledFrom(crew).Draw(t, "owner")
			step(o.topic, o.span)
		}
	})
}
