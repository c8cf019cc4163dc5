package transport_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/trickle-verify/trickle/transport"
)

// committed reads what a group has committed in a topic.
func committed(ctx context.Context, t *testing.T, bus *transport.Kafka, group, topic string) []int64 {
	t.Helper()
	at, err := bus.Committed(ctx, group, []string{topic})
	if err != nil {
		t.Fatal(err)
	}
	if len(at) != 1 || at[0].Topic != topic || at[0].ID != "" {
		t.Fatalf("got %+v", at)
	}
	return at[0].Offsets
}

func TestAGroupIsSetToAPosition(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	s := newSink(ctx, t, nil, transport.TopicSpec{Name: "a", Partitions: 2}, transport.TopicSpec{Name: "b", Partitions: 1}, transport.TopicSpec{Name: "other", Partitions: 1})
	if got := committed(ctx, t, s.bus, "sink", "a"); !slices.Equal(got, []int64{-1, -1}) {
		t.Errorf("of a group that is not there: %v", got)
	}
	for _, topic := range []string{"a", "b", "other"} {
		s.produce(ctx, topic, 5)
		s.commit(ctx, topic, 5)
	}
	if got := committed(ctx, t, s.bus, "sink", "a"); !slices.Equal(got, []int64{5, -1}) {
		t.Errorf("before: %v", got)
	}
	to := transport.Position{{Topic: "a", Offsets: []int64{3}}, {Topic: "b"}, {Topic: "c"}} // a[1], b and c were not there
	if err := s.bus.ResetGroup(ctx, "sink", to); err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string][]int64{"a": {3, 0}, "b": {0}, "other": {5}} {
		if got := committed(ctx, t, s.bus, "sink", topic); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", topic, got, want)
		}
	}
	if err := s.bus.ResetGroup(ctx, "sink", from("a", 6, 0)); !errors.Is(err, transport.ErrLost) {
		t.Errorf("beyond the end: %v", err)
	}
}

// joined waits until the group has a member.
func (s *sinkOf) joined(ctx context.Context) {
	s.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		members, err := s.bus.Members(ctx, "sink")
		if err != nil {
			s.t.Fatal(err)
		}
		if len(members) > 0 {
			return
		}
		<-tick.C
	}
}

// A group with members keeps its offsets, whichever protocol they speak.
func TestAGroupWithMembersIsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]kgo.Opt{"classic": {}, "newer": {kgo.ServerSideBalancer()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			s := newSink(ctx, t, append(opts, kgo.ClientID("the-sink")), transport.TopicSpec{Name: "a", Partitions: 1})
			s.produce(ctx, "a", 5)
			s.joined(ctx)
			s.commit(ctx, "a", 5)
			for what, err := range map[string]error{
				"reset":  s.bus.ResetGroup(ctx, "sink", from("a", 1)),
				"commit": s.bus.CommitFor(ctx, "sink", from("a", 1)),
			} {
				var has *transport.MembersError
				if !errors.As(err, &has) || len(has.Members) != 1 || !strings.Contains(err.Error(), "the-sink at 127.0.0.1") {
					t.Errorf("%s: %v", what, err)
				}
			}
			if got := committed(ctx, t, s.bus, "sink", "a"); !slices.Equal(got, []int64{5}) {
				t.Errorf("it has %v now", got)
			}
		})
	}
}

// A member that comes once it has been seen that there is none is noticed by Kafka itself.
func TestAMemberThatComesInBetween(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	s := newSink(ctx, t, []kgo.Opt{}, transport.TopicSpec{Name: "a", Partitions: 1})
	s.produce(ctx, "a", 5)
	s.joined(ctx)
	s.cluster.ControlKey(int16(kmsg.DescribeGroups), func(req kmsg.Request) (kmsg.Response, error, bool) {
		answer := req.ResponseKind().(*kmsg.DescribeGroupsResponse)
		g := kmsg.NewDescribeGroupsResponseGroup()
		g.Group, g.State = "sink", "Empty"
		answer.Groups = append(answer.Groups, g)
		return answer, nil, true
	})
	var has *transport.MembersError
	if err := s.bus.ResetGroup(ctx, "sink", from("a", 1)); !errors.As(err, &has) || len(has.Members) != 1 {
		t.Errorf("got %v", err)
	}
	if got := committed(ctx, t, s.bus, "sink", "a"); !slices.Equal(got, []int64{-1}) {
		t.Errorf("it has %v now", got)
	}
}

// What was set is read back: somebody else who commits too is noticed.
func TestAGroupThatSomebodyElseSetsToo(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	s := newSink(ctx, t, nil, transport.TopicSpec{Name: "a", Partitions: 1})
	s.produce(ctx, "a", 5)
	s.commit(ctx, "a", 2)
	s.cluster.ControlKey(int16(kmsg.OffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		asked := req.(*kmsg.OffsetCommitRequest)
		asked.Topics[0].Partitions[0].Offset = 4
		return nil, nil, false
	})
	if err := s.bus.ResetGroup(ctx, "sink", from("a", 1)); err == nil || !strings.Contains(err.Error(), "was set to 1 and is 4 now") {
		t.Errorf("got %v", err)
	}
}

func TestAGroupThatMayNotBeSetIsToldWithTheCommand(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	grant := func(bus *transport.Kafka) string {
		t.Helper()
		var rights *transport.RightsError
		err := bus.ResetGroup(ctx, "sink", from("a", 0))
		if !errors.As(err, &rights) {
			t.Fatalf("got %v", err)
		}
		return err.Error()
	}
	bus, _ := limited(t, []string{"a"}, topicACL("a", kmsg.ACLOperationRead))
	if got := grant(bus); !strings.Contains(got, "--operation Read --group sink") {
		t.Error(got)
	}
	bus, _ = limited(t, []string{"a"}, topicACL("a", kmsg.ACLOperationDescribe), acl(kmsg.ACLResourceTypeGroup, "sink", kmsg.ACLOperationRead))
	if got := grant(bus); !strings.Contains(got, "--operation Read --topic a") {
		t.Error(got)
	}
}
