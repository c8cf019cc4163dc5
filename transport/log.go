package transport

import (
	"errors"
	"fmt"
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

// Partition is one of a topic's.
type Partition struct {
	Topic string
	ID    int32
}

func (p Partition) String() string { return fmt.Sprintf("%s[%d]", p.Topic, p.ID) }

// ErrLost is wrapped by errors about a position behind which the logs no longer hold everything that they once held there.
var ErrLost = errors.New("the log has lost what came after the position")

const (
	goneTopic = "the topic does not exist any more"
	newTopic  = "the topic was deleted and made again"
)

// LostError is where, and why.
type LostError struct {
	Partition

	Offset int64
	Reason string
}

func (e *LostError) Error() string {
	return fmt.Sprintf("%s can't be read on from offset %d: %s", e.Partition, e.Offset, e.Reason)
}

// Unwrap returns ErrLost.
func (e *LostError) Unwrap() error { return ErrLost }

// Held says whether the logs, as they are now, hold everything behind the position: else a *LostError of the first that does not. What a compacted topic has forgotten
// meanwhile is not seen here: that takes when the position was read.
func (p Position) Held(logs []Log) error {
	for _, at := range p {
		log := Log{Topic: at.Topic}
		if i := slices.IndexFunc(logs, func(l Log) bool { return l.Topic == at.Topic }); i >= 0 {
			log = logs[i]
		}
		if err := at.held(log); err != nil {
			return err
		}
	}
	return nil
}

func (t TopicPosition) held(log Log) error {
	lost := func(n int, why string, args ...any) error {
		return &LostError{Partition{t.Topic, int32(n)}, t.offset(n), fmt.Sprintf(why, args...)}
	}
	switch {
	case len(t.Offsets) > 0 && len(log.Partitions) == 0:
		return lost(0, goneTopic)
	case t.ID != "" && log.ID != "" && t.ID != log.ID:
		return lost(0, newTopic)
	case len(t.Offsets) > len(log.Partitions):
		return lost(len(log.Partitions), "the topic has %d partitions, and had %d: it was deleted and made again", len(log.Partitions), len(t.Offsets))
	}
	for n, has := range log.Partitions {
		switch at := t.offset(n); {
		case at < 0:
			return lost(n, "no offset is known there")
		case at < has.Start:
			return lost(n, "what was there has expired, the oldest that is left is %d", has.Start)
		case at > has.End:
			return lost(n, "the log ends before that, at %d: the topic was made again, or a broker lost records", has.End)
		}
	}
	return nil
}

// offset is where a partition is to be read on from: one that did not exist, from its beginning.
func (t TopicPosition) offset(n int) int64 {
	if n < len(t.Offsets) {
		return t.Offsets[n]
	}
	return 0
}

// MatchTopic says whether a topic's name is the pattern's, in which a * stands for any run of characters.
func MatchTopic(pattern, topic string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == topic
	}
	topic, ok := strings.CutPrefix(topic, first)
	if !ok {
		return false
	}
	for {
		piece, next, star := strings.Cut(rest, "*")
		if !star {
			return strings.HasSuffix(topic, piece)
		}
		at := strings.Index(topic, piece)
		if at < 0 {
			return false
		}
		topic, rest = topic[at+len(piece):], next
	}
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
