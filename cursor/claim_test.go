package cursor_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/transport"
)

// partition is a topic's only one, of which everybody who asks is told that he is the owner. It reckons by itself what is true: what the one
// wrote whose claim was the last to follow the one in force.
type partition struct {
	records  []transport.Record
	next     int64
	between  func() // called before each step, where others may get in
	inForce  string
	truth    map[string]uint64            // cycles by table
	accepted map[string]map[string]uint64 // the truth when a claim came into force
	strayed  map[string]bool              // tables that somebody wrote who didn't count
}

func (p *partition) Ensure(context.Context, ...transport.TopicSpec) error { return nil }
func (p *partition) Partitions(context.Context, string) (int, error)      { return 1, nil }
func (p *partition) Own(context.Context, string, string) (transport.Ownership, error) {
	return everyones{}, nil
}

// everyones is partition 0, and others.
type everyones map[int32]uint64

func (o everyones) Owned() (map[int32]uint64, <-chan struct{}, error) {
	owned := map[int32]uint64{0: 1}
	maps.Copy(owned, o)
	return owned, nil, nil
}
func (everyones) Close() error { return nil }

func (p *partition) Since(_ context.Context, _ string, _ int32, offset int64) ([]transport.Record, int64, error) {
	p.between()
	var out []transport.Record
	for _, r := range p.records {
		if r.Offset >= offset {
			out = append(out, r)
		}
	}
	return out, p.next, nil
}

func (p *partition) SendTo(_ context.Context, _ int32, records ...transport.Record) error {
	for _, r := range records {
		p.between()
		r.Offset = p.next
		p.next++
		p.records = append(p.records, r)
		if id, ok := strings.CutPrefix(string(r.Key), "claim/"); ok && r.Value != nil {
			var c cursor.Claim
			if err := json.Unmarshal(r.Value, &c); err != nil {
				return err
			}
			if c.After == p.inForce {
				p.inForce, p.accepted[id] = id, maps.Clone(p.truth)
			}
		}
		name, ok := strings.CutPrefix(string(r.Key), "table/")
		switch {
		case !ok:
		case r.Headers["trickle-claim"] != p.inForce:
			p.strayed[name] = true
		default:
			var table cursor.Table
			if err := json.Unmarshal(r.Value, &table); err != nil {
				return err
			}
			p.truth[name] = table.Cycle
		}
	}
	return nil
}

// compact keeps the last record of each key up to an offset, and none of those that delete.
func (p *partition) compact(upTo int64) {
	last := map[string]int64{}
	for _, r := range p.records {
		if r.Offset < upTo {
			last[string(r.Key)] = r.Offset
		}
	}
	var out []transport.Record
	for _, r := range p.records {
		if r.Offset >= upTo || last[string(r.Key)] == r.Offset && r.Value != nil {
			out = append(out, r)
		}
	}
	p.records = out
}

// view is one owner's way to the partition.
type view struct {
	*partition
	topic  *cursor.Topic
	claim  string // the last one
	loaded bool
	busy   bool
}

func (v *view) SendTo(ctx context.Context, to int32, records ...transport.Record) error {
	for _, r := range records {
		if id, ok := strings.CutPrefix(string(r.Key), "claim/"); ok && r.Value != nil {
			v.claim = id
		}
	}
	return v.partition.SendTo(ctx, to, records...)
}

// However those who take themselves for the owner get in each other's way, whoever loads the share finds exactly what was saved by the owners
// before him, each up to the moment at which the next one took over. Compaction does not change that, except where it keeps what somebody wrote
// who didn't count, and not what was there before.
func TestOnlyOneOwnerCounts(t *testing.T) {
	t.Parallel()
	for name, compacting := range map[string]bool{"whole log": false, "compacted log": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(rt *rapid.T) { contest(rt, compacting) })
		})
	}
}

func contest(t *rapid.T, compacting bool) {
	ctx := context.Background()
	p := &partition{truth: map[string]uint64{}, accepted: map[string]map[string]uint64{}, strayed: map[string]bool{}, between: func() {}}
	var owners []*view
	for range 3 {
		v := &view{partition: p}
		var err error
		if v.topic, err = cursor.OpenTopic(ctx, v, cursor.TopicOptions{Name: "c", Log: slog.New(slog.DiscardHandler)}); err != nil {
			t.Fatal(err)
		}
		owners = append(owners, v)
	}
	cycle := uint64(0)
	act := func() {
		v := rapid.SampledFrom(owners).Draw(t, "owner")
		if v.busy {
			return
		}
		v.busy = true
		defer func() { v.busy = false }()
		if v.loaded && rapid.IntRange(0, 3).Draw(t, "save") > 0 {
			cycle++
			change := cursor.Change{Tables: []cursor.Table{{Name: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "table"), Cycle: cycle}}}
			if err := v.topic.Save(ctx, 0, change); err != nil {
				t.Fatal(err)
			}
			return
		}
		state, err := v.topic.Load(ctx, 0)
		if err != nil {
			t.Fatal(err)
		}
		v.loaded = true
		want := p.accepted[v.claim]
		if want == nil {
			t.Fatal("it takes itself for the owner by a claim that never came into force")
		}
		for _, name := range []string{"a", "b", "c"} {
			got, found := state.Tables[name]
			if cycle, ok := want[name]; (got.Cycle != cycle || found != ok) && !(compacting && p.strayed[name]) {
				t.Fatalf("table %s is in cycle %d, loaded as %d", name, cycle, got.Cycle)
			}
		}
	}
	depth := 0
	p.between = func() {
		if depth++; depth < 4 && rapid.IntRange(0, 5).Draw(t, "get in") == 0 {
			act()
		}
		depth--
	}
	for range rapid.IntRange(1, 25).Draw(t, "steps") {
		act()
		if compacting && rapid.IntRange(0, 3).Draw(t, "compact") == 0 {
			p.compact(rapid.Int64Range(0, p.next).Draw(t, "up to"))
		}
	}
}

// A share that another has claimed, though the group has it as ours, begins a new term, so that it is taken over anew: what we went on saving under
// a claim that has passed would count for nothing.
func TestAShareThatAnotherClaimedIsTakenOverAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		p := &partition{truth: map[string]uint64{}, accepted: map[string]map[string]uint64{}, strayed: map[string]bool{}, between: func() {}}
		open := func(name string) *cursor.Topic {
			topic, err := cursor.OpenTopic(ctx, p, cursor.TopicOptions{Name: "c", Owner: name, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := topic.Load(ctx, 0); err != nil {
				t.Fatal(err)
			}
			return topic
		}
		term := func(topic *cursor.Topic) uint64 {
			shares, err := topic.Shares()
			if err != nil {
				t.Fatal(err)
			}
			return shares.Mine[0]
		}
		ours := open("ours")
		was := term(ours)
		if _, err := ours.Follow(ctx); err != nil || term(ours) != was {
			t.Errorf("the term changed to %d for nothing, %v", term(ours), err)
		}
		open("theirs")
		time.Sleep(time.Minute)
		if _, err := ours.Follow(ctx); err != nil {
			t.Fatal(err)
		}
		if term(ours) == was {
			t.Error("it goes on under a claim that has passed")
		}
		change := cursor.Change{Tables: []cursor.Table{{Name: "a", Cycle: 1}}}
		if err := ours.Save(ctx, 0, change); !errors.Is(err, cursor.ErrNotMine) {
			t.Errorf("saved before it was taken over anew: %v", err)
		}
		if _, err := ours.Load(ctx, 0); err != nil {
			t.Fatal(err)
		}
		save(t, only{ours}, change)
		state, owners, err := cursor.ReadTopic(ctx, p, cursor.TopicOptions{Name: "c", Log: slog.New(slog.DiscardHandler)})
		if err != nil || state.Tables["a"].Cycle != 1 || len(owners) != 1 || owners[0].Owner != "ours" {
			t.Errorf("read %+v of %v, %v", state, owners, err)
		}
	})
}

// grown is a topic that got a second partition after it was opened.
type grown struct{ *partition }

func (grown) Own(context.Context, string, string) (transport.Ownership, error) {
	return everyones{1: 1}, nil
}

// What a publisher owns and can't serve is told, once: publishers that were restarted wait for it.
func TestPartitionsThatWereAddedAreTold(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, nil))
	topic, err := cursor.OpenTopic(t.Context(), grown{&partition{between: func() {}}}, cursor.TopicOptions{Name: "c", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if shares, err := topic.Shares(); err != nil || len(shares.Mine) != 1 || shares.Of != 1 {
			t.Errorf("%+v, %v", shares, err)
		}
	}
	if n := strings.Count(out.String(), "restart all publishers"); n != 1 {
		t.Errorf("told %d times:\n%s", n, out.String())
	}
}
