package transport_test

import (
	"errors"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/transport"
)

func TestTailSinceATime(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	s := newSink(ctx, t, nil, transport.TopicSpec{Name: "a", Partitions: 1})
	s.produce(ctx, "a", 4) // a second apart
	for _, c := range []struct {
		since time.Time
		first int64 // offset
	}{{time.UnixMilli(written).Add(-time.Hour), 0}, {time.UnixMilli(written).Add(1500 * time.Millisecond), 2}, {time.UnixMilli(written).Add(time.Hour), 4}, {time.Time{}, 4}} {
		r, err := s.bus.TailSince(ctx, "a", c.since)
		if err != nil {
			t.Fatal(err)
		}
		if c.first == 4 { // what comes later
			s.produce(ctx, "a", 1)
		}
		records, err := r.Fetch(ctx)
		if err != nil || records[0].Offset < c.first || c.first < 4 && records[0].Offset != c.first {
			t.Errorf("since %s: %v, %v, want offset %d first", c.since, records, err, c.first)
		}
		closed(t, r)
	}
	if _, err := s.bus.TailSince(ctx, "missing", time.Now()); !errors.Is(err, transport.ErrNoTopic) {
		t.Errorf("a topic that is missing: %v", err)
	}
}
