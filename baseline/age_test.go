package baseline

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/transport"
)

var (
	taken = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	week  = transport.Retention{Time: 7 * 24 * time.Hour}
)

func topic(name, id string, offsets ...int64) transport.TopicPosition {
	return transport.TopicPosition{Topic: name, ID: id, Offsets: offsets}
}

func log(name, id string, r transport.Retention, partitions ...transport.Extent) transport.Log {
	return transport.Log{Topic: name, ID: id, Retention: r, Partitions: partitions}
}

func setAt(p ...transport.TopicPosition) *Manifest {
	return &Manifest{
		Set: "s1", Begun: taken, Completed: taken.Add(time.Hour), Positions: []Point{{taken, p}},
		Tables: []Table{{Table: "public.t", Objects: []Object{{Name: "o"}}}},
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	compacted := transport.Retention{Compacted: true, Tombstones: 24 * time.Hour}
	bySize := transport.Retention{Time: 7 * 24 * time.Hour, Bytes: 1 << 30}
	secret := transport.Retention{Unknown: true}
	for _, tc := range []struct {
		name    string
		set     *Manifest
		after   time.Duration // since it was taken
		logs    []transport.Log
		before  *Seen
		reason  string // part of it; empty: valid
		events  int64
		expires time.Duration // after it was taken; 0: never or unknown
		unknown string
		due     time.Duration // after it was taken
	}{
		{
			name: "all there", set: setAt(topic("a", "1", 10, 20)), after: time.Hour,
			logs: []transport.Log{log("a", "1", week, transport.Extent{Start: 10, End: 15}, transport.Extent{Start: 3, End: 20})}, events: 5, expires: week.Time, due: 6 * time.Hour,
		},
		{
			name: "half of a short retention comes before the refresh", set: setAt(topic("a", "1", 10)), after: time.Hour,
			logs: []transport.Log{log("a", "1", transport.Retention{Time: 4 * time.Hour}, transport.Extent{Start: 0, End: 10})}, expires: 4 * time.Hour, due: 2 * time.Hour,
		},
		{
			name: "the shortest of all topics counts", set: setAt(topic("a", "1", 1), topic("b", "2", 1)), after: time.Hour,
			logs: []transport.Log{
				log("a", "1", week, transport.Extent{Start: 0, End: 1}),
				log("b", "2", transport.Retention{Time: 2 * time.Hour}, transport.Extent{Start: 0, End: 1}),
			}, expires: 2 * time.Hour, due: time.Hour,
		},
		{
			name: "kept for ever", set: setAt(topic("a", "1", 10)), after: 1000 * time.Hour,
			logs: []transport.Log{log("a", "1", transport.Retention{}, transport.Extent{Start: 0, End: 10})}, due: 6 * time.Hour,
		},
		{name: "the topic is gone", set: setAt(topic("a", "1", 10)), logs: nil, reason: "topic a is gone"},
		{name: "there is no such topic", set: setAt(topic("a", "1", 10)), logs: []transport.Log{{Topic: "a"}}, reason: "topic a is gone"},
		{
			name: "made anew", set: setAt(topic("a", "1", 10)), logs: []transport.Log{log("a", "2", week, transport.Extent{Start: 0, End: 12})},
			reason: "made anew: its id is 2 and was 1", expires: week.Time,
		},
		{
			name: "a cluster without ids", set: setAt(topic("a", "", 10)), logs: []transport.Log{log("a", "", week, transport.Extent{Start: 0, End: 12})},
			events: 2, expires: week.Time, due: 6 * time.Hour,
		},
		{
			name: "fewer partitions", set: setAt(topic("a", "", 10, 10)), logs: []transport.Log{log("a", "", week, transport.Extent{Start: 0, End: 12})},
			reason: "it has 1 partitions and had 2", expires: week.Time,
		},
		{
			name: "expired", set: setAt(topic("a", "1", 10)), logs: []transport.Log{log("a", "1", week, transport.Extent{Start: 11, End: 12})},
			reason: "the log has expired: partition 0 of topic a starts at offset 11, and the set needs it from 10 on", expires: week.Time,
		},
		{
			name: "cut", set: setAt(topic("a", "1", 10)), logs: []transport.Log{log("a", "1", week, transport.Extent{Start: 0, End: 9})},
			reason: "ends at offset 9, before the set's position 10", expires: week.Time,
		},
		{
			name: "deletions may be gone", set: setAt(topic("a", "1", 10)), after: 25 * time.Hour, logs: []transport.Log{log("a", "1", compacted, transport.Extent{Start: 0, End: 12})},
			reason: "topic a is compacted and keeps deletions for 24h0m0s (delete.retention.ms), and the position is 25h0m0s old", events: 2, expires: 24 * time.Hour,
		},
		{
			name: "compacted and nothing came since", set: setAt(topic("a", "1", 10)), after: 25 * time.Hour, logs: []transport.Log{log("a", "1", compacted, transport.Extent{Start: 0, End: 10})},
			expires: 24 * time.Hour, due: 6 * time.Hour,
		},
		{
			name: "compacted and young", set: setAt(topic("a", "1", 10)), after: 23 * time.Hour, logs: []transport.Log{log("a", "1", compacted, transport.Extent{Start: 0, End: 12})},
			events: 2, expires: 24 * time.Hour, due: 6 * time.Hour,
		},
		{
			name: "a topic that did not exist, whole", set: setAt(topic("a", "")), logs: []transport.Log{log("a", "9", week, transport.Extent{Start: 0, End: 7})},
			events: 7, expires: week.Time, due: 6 * time.Hour,
		},
		{
			name: "a topic that the set does not know, whole", set: setAt(topic("a", "1", 0)),
			logs:   []transport.Log{log("a", "1", week, transport.Extent{}), log("b", "9", week, transport.Extent{Start: 0, End: 7})},
			events: 7, expires: week.Time, due: 6 * time.Hour,
		},
		{
			name: "a topic that did not exist, its beginning gone", set: setAt(topic("a", "")), logs: []transport.Log{log("a", "9", week, transport.Extent{Start: 1, End: 7})},
			reason: "topic a did not exist when the position was read, and its beginning has expired", expires: week.Time,
		},
		{
			name: "a topic that does not exist yet", set: setAt(topic("a", "")), logs: []transport.Log{{Topic: "a"}}, due: 6 * time.Hour,
		},
		{
			name: "a partition that did not exist, its beginning gone", set: setAt(topic("a", "1", 10)),
			logs:   []transport.Log{log("a", "1", week, transport.Extent{Start: 0, End: 10}, transport.Extent{Start: 1, End: 7})},
			reason: "partition 1 of topic a did not exist", expires: week.Time,
		},
		{
			name: "a partition that did not exist, whole", set: setAt(topic("a", "1", 10)),
			logs:   []transport.Log{log("a", "1", week, transport.Extent{Start: 0, End: 10}, transport.Extent{Start: 0, End: 7})},
			events: 7, expires: week.Time, due: 6 * time.Hour,
		},
		{
			name: "limited by size, at an unknown rate", set: setAt(topic("a", "1", 10)), logs: []transport.Log{log("a", "1", bySize, transport.Extent{Start: 5, End: 10})},
			expires: week.Time, unknown: "limited by size", due: 6 * time.Hour,
		},
		{
			name: "limited by size, at a known rate", set: setAt(topic("a", "1", 3000)), after: time.Hour,
			logs:    []transport.Log{log("a", "1", bySize, transport.Extent{Start: 1000, End: 5000})},
			before:  &Seen{taken, []transport.Log{log("a", "1", bySize, transport.Extent{Start: 0, End: 3000})}},
			expires: 3 * time.Hour, events: 2000, due: 90 * time.Minute,
		},
		{
			name: "limited by size, seen when it was another topic", set: setAt(topic("a", "1", 3000)), after: time.Hour,
			logs:    []transport.Log{log("a", "1", bySize, transport.Extent{Start: 1000, End: 5000})},
			before:  &Seen{taken, []transport.Log{log("a", "0", bySize, transport.Extent{Start: 0, End: 3000})}},
			expires: week.Time, unknown: "limited by size", events: 2000, due: 6 * time.Hour,
		},
		{
			name: "retention unreadable", set: setAt(topic("a", "1", 10)), logs: []transport.Log{log("a", "1", secret, transport.Extent{Start: 5, End: 10})},
			unknown: "how long topic a keeps its records is not known: this login may not", due: 6 * time.Hour,
		},
		{
			name: "not complete", set: &Manifest{Set: "s1", Positions: []Point{{taken, nil}}}, reason: "it is not complete",
		},
		{
			name: "no position", set: &Manifest{Set: "s1", Completed: taken}, reason: "names no position",
		},
		{
			name: "made anew while it was built",
			set: &Manifest{
				Set: "s1", Completed: taken, Positions: []Point{{taken, transport.Position{topic("a", "1", 1)}}, {taken, transport.Position{topic("a", "2", 1)}}},
				Tables: []Table{{Objects: []Object{{Point: 0}, {Point: 1}}}},
			},
			logs: []transport.Log{log("a", "2", week, transport.Extent{Start: 0, End: 10})}, reason: "topic a was made anew while the set was being built",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			now := Seen{taken.Add(tc.after), tc.logs}
			var before Seen
			if tc.before != nil {
				before = *tc.before
			}
			a := tc.set.Judge(now, before, 6*time.Hour)
			if (a.Reason == "") != (tc.reason == "") || !strings.Contains(a.Reason, tc.reason) {
				t.Errorf("reason %q, want %q", a.Reason, tc.reason)
			}
			if tc.reason == "" != (a.Err() == nil) || tc.reason != "" && !strings.Contains(a.Err().Error(), "trickle-consumer resync") {
				t.Errorf("error %v", a.Err())
			}
			if a.Events != tc.events {
				t.Errorf("%d events, want %d", a.Events, tc.events)
			}
			if a.Unknown == "" != (tc.unknown == "") || !strings.Contains(a.Unknown, tc.unknown) {
				t.Errorf("unknown %q, want %q", a.Unknown, tc.unknown)
			}
			if tc.expires == 0 != a.Expires.IsZero() || tc.expires != 0 && !a.Expires.Equal(taken.Add(tc.expires)) {
				t.Errorf("expires %s, want %s after %s", a.Expires, tc.expires, taken)
			}
			due := taken.Add(tc.due)
			if tc.reason != "" {
				due = now.At // at once
			}
			if !a.RefreshDue.Equal(due) {
				t.Errorf("refresh due %s, want %s", a.RefreshDue, due)
			}
		})
	}
}

func TestStart(t *testing.T) {
	t.Parallel()
	later := taken.Add(time.Minute)
	m := &Manifest{
		Set: "s1",
		Positions: []Point{
			{taken.Add(-time.Hour), transport.Position{topic("a", "1", 0, 0), topic("b", "2", 0)}}, // nothing needs it
			{taken, transport.Position{topic("a", "1", 10, 20), topic("c", "")}},
			{later, transport.Position{topic("a", "1", 12, 19, 3), topic("b", "2", 5), topic("c", "3", 8)}},
		},
		Tables: []Table{{Objects: []Object{{Point: 1}, {Point: 2}}}},
	}
	from, err := m.Start()
	if err != nil {
		t.Fatal(err)
	}
	if !from.Taken.Equal(taken) {
		t.Errorf("taken %s", from.Taken)
	}
	a, _ := from.Position.Of("a")
	if len(a.Offsets) != 2 || a.Offsets[0] != 10 || a.Offsets[1] != 19 {
		t.Errorf("a: %v", a)
	}
	for _, name := range []string{"b", "c"} {
		if p, there := from.Position.Of(name); !there || len(p.Offsets) != 0 || p.ID == "" {
			t.Errorf("%s was not there at the first position, and is to be read from its beginning: %v", name, p)
		}
	}
	var expired *ExpiredError
	m.Positions[2].Position[0].ID = "another"
	if _, err := m.Start(); !errors.As(err, &expired) {
		t.Errorf("two topics of one name: %v", err)
	}
}
