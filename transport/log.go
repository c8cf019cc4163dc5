package transport

import (
	"slices"
	"strings"
	"time"
)

// Log is one topic as a log: which it is, how long it keeps what, and how far its partitions reach.
type Log struct {
	Topic string
	// ID is this topic's and no other's that bore its name before or bears it later; empty where the cluster gives none.
	ID         string
	Partitions []Extent // by number
	Retention  Retention
}

// Extent is from where to where a partition reaches: Start is its oldest offset that is left, End the one behind its newest.
type Extent struct{ Start, End int64 }

// Retention is how long a topic keeps what is in it. The zero value keeps everything for ever.
type Retention struct {
	Time  time.Duration // 0: not limited by age
	Bytes int64         // of each partition; 0: not limited by size
	// Compacted: of each key only the newest record is sure to stay, and one that deletes its key for Tombstones only: who reads later never hears of it.
	Compacted  bool
	Tombstones time.Duration
	// Unknown: this login may not read the topic's settings (DESCRIBE_CONFIGS on the topic), so nothing here says what it keeps.
	Unknown bool
}

// Position is a point in logs: in each partition the offset of the next record to read.
type Position []TopicPosition

// TopicPosition is a point in one topic. A topic that did not exist has no offsets: whatever it holds once it does comes after.
type TopicPosition struct {
	Topic   string  `json:"topic"`
	ID      string  `json:"id,omitempty"`
	Offsets []int64 `json:"offsets,omitempty"` // by partition
}

// Of finds a topic's.
func (p Position) Of(topic string) (TopicPosition, bool) {
	n, found := slices.BinarySearchFunc(p, topic, func(t TopicPosition, topic string) int { return strings.Compare(t.Topic, topic) })
	if !found {
		return TopicPosition{}, false
	}
	return p[n], true
}

// Ends is the position behind everything that the logs hold.
func Ends(logs []Log) Position {
	p := make(Position, len(logs))
	for i, l := range logs {
		p[i] = TopicPosition{Topic: l.Topic, ID: l.ID, Offsets: make([]int64, len(l.Partitions))}
		for n, at := range l.Partitions {
			p[i].Offsets[n] = at.End
		}
	}
	slices.SortFunc(p, func(a, b TopicPosition) int { return strings.Compare(a.Topic, b.Topic) })
	return p
}
