package transport_test

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/trickle-verify/trickle/transport"
)

func logsOf(ctx context.Context, t *testing.T, bus *transport.Kafka, patterns ...string) []transport.Log {
	t.Helper()
	logs, err := bus.Logs(ctx, patterns)
	if err != nil {
		t.Fatal(err)
	}
	return logs
}

// Topics come as they are, by name, and one that is missing without partitions.
func TestLogs(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	s := newSink(ctx, t, nil, transport.TopicSpec{Name: "cdc.c", Partitions: 2})
	create(ctx, t, s.bare(), "cdc.a", map[string]string{"retention.ms": "60000", "retention.bytes": "1000"})
	create(ctx, t, s.bare(), "cdc.b", map[string]string{"cleanup.policy": "compact,delete", "retention.ms": "-1", "delete.retention.ms": "5000"})
	create(ctx, t, s.bare(), "other", map[string]string{"cleanup.policy": "compact", "retention.ms": "60000"})
	s.produce(ctx, "cdc.a", 5)
	if err := s.cluster.DeleteRecords("cdc.a", 0, 2); err != nil {
		t.Fatal(err)
	}
	logs := logsOf(ctx, t, s.bus, "other", "cdc.*", "missing", "cdc.a", "nothing.*")
	ids := map[string]bool{"": true}
	for i := range logs {
		if id := logs[i].ID; ids[id] != (logs[i].Topic == "missing") {
			t.Errorf("%s has the id %q", logs[i].Topic, id)
		}
		ids[logs[i].ID] = true
		logs[i].ID = ""
	}
	week := 7 * 24 * time.Hour
	if want := []transport.Log{
		{Topic: "cdc.a", Partitions: []transport.Extent{{Start: 2, End: 5}}, Retention: transport.Retention{Time: time.Minute, Bytes: 1000}},
		{Topic: "cdc.b", Partitions: []transport.Extent{{}}, Retention: transport.Retention{Compacted: true, Tombstones: 5 * time.Second}},
		{Topic: "cdc.c", Partitions: []transport.Extent{{}, {}}, Retention: transport.Retention{Time: week}},
		{Topic: "missing"},
		{Topic: "other", Partitions: []transport.Extent{{}}, Retention: transport.Retention{Compacted: true, Tombstones: 24 * time.Hour}},
	}; !reflect.DeepEqual(logs, want) {
		t.Errorf("got  %+v\nwant %+v", logs, want)
	}
	if none := logsOf(ctx, t, s.bus, "nothing.*"); len(none) > 0 {
		t.Errorf("of nothing: %+v", none)
	}
}

// Another topic of the same name has another id.
func TestATopicThatIsMadeAgainIsAnother(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	s := newSink(ctx, t, nil, transport.TopicSpec{Name: "a", Partitions: 1})
	s.produce(ctx, "a", 3)
	was := transport.Ends(logsOf(ctx, t, s.bus, "a"))
	s.again(ctx, "a")
	s.produce(ctx, "a", 9)
	err := was.Held(logsOf(ctx, t, s.bus, "a"))
	if !errors.Is(err, transport.ErrLost) || !strings.Contains(err.Error(), "made again") {
		t.Errorf("got %v", err)
	}
}

// Where settings may not be read, it is not said that the topic keeps everything; where the topic may not be seen, the line that grants it is.
func TestLogsThatMayNotBeSeen(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	bus, _ := limited(t, []string{"seen", "hidden"}, topicACL("seen", kmsg.ACLOperationDescribe))
	if logs := logsOf(ctx, t, bus, "*"); len(logs) != 1 || logs[0].Topic != "seen" || len(logs[0].Partitions) != 1 || !logs[0].Retention.Unknown {
		t.Errorf("got %+v", logs)
	}
	_, err := bus.Logs(ctx, []string{"seen", "hidden"})
	var rights *transport.RightsError
	if !errors.As(err, &rights) || !strings.Contains(err.Error(), "--operation Describe --operation DescribeConfigs --topic hidden") {
		t.Errorf("got %v", err)
	}
}

func TestWrittenAt(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	s := newSink(ctx, t, nil, transport.TopicSpec{Name: "a", Partitions: 1})
	s.produce(ctx, "a", 4)
	end(kgo.TryAbort)(ctx, t, s.produce(ctx, "a", 3, kgo.TransactionalID("t"))) // and a marker, up to 8
	s.produce(ctx, "a", 2)
	end(kgo.TryCommit)(ctx, t, s.produce(ctx, "a", 1, kgo.TransactionalID("t"))) // up to 12
	if err := s.cluster.DeleteRecords("a", 0, 1); err != nil {
		t.Fatal(err)
	}
	for offset, want := range map[int64]time.Duration{1: 1 * time.Second, 3: 3 * time.Second, 4: 0, 7: 0, 9: time.Second, 10: 0} {
		at, err := s.bus.WrittenAt(ctx, "a", 0, offset)
		if err != nil || !at.Equal(time.UnixMilli(written).Add(want)) {
			t.Errorf("%d: %s, %v", offset, at, err)
		}
	}
	for _, offset := range []int64{11, 12} {
		if at, err := s.bus.WrittenAt(ctx, "a", 0, offset); err != nil || !at.IsZero() {
			t.Errorf("%d: %s, %v", offset, at, err)
		}
	}
	for _, offset := range []int64{0, 13} {
		if _, err := s.bus.WrittenAt(ctx, "a", 0, offset); !errors.Is(err, transport.ErrLost) {
			t.Errorf("%d: %v", offset, err)
		}
	}
	if _, err := s.bus.WrittenAt(ctx, "missing", 0, 0); !errors.Is(err, transport.ErrNoTopic) {
		t.Errorf("a topic that is missing: %v", err)
	}
}

func TestThePositionAtATime(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	s := newSink(ctx, t, nil, transport.TopicSpec{Name: "a", Partitions: 2}, transport.TopicSpec{Name: "b", Partitions: 1})
	s.produce(ctx, "a", 5) // a second apart, in the first partition
	for after, want := range map[time.Duration]int64{-time.Hour: 0, 1500 * time.Millisecond: 2, 4 * time.Second: 4, time.Hour: 5} {
		at, err := s.bus.PositionAt(ctx, []string{"a", "b", "missing"}, time.UnixMilli(written).Add(after))
		if err != nil || len(at) != 3 || at[0].ID == "" {
			t.Fatal(at, err)
		}
		if !reflect.DeepEqual(at[0].Offsets, []int64{want, 0}) || !reflect.DeepEqual(at[1].Offsets, []int64{0}) || len(at[2].Offsets) != 0 {
			t.Errorf("%s: %v, want %d", after, at, want)
		}
	}
}
