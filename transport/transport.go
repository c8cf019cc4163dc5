// Package transport is how messages travel: Kafka, or memory when both sides are one process.
//
// It decides nothing about contents: bytes go in under a key on a topic and come out in order per key. What always holds: Send
// returns nil only once the record is durable for that transport; a member of a group sees a record again after a crash unless it was
// committed, and never loses one; while its members are well, a partition has one owner in a group; Tail sees what was sent after it began and belongs to no group; a record larger than the broker's
// limit is cut into parts and comes out whole. When a broker goes away, calls wait for it until their context ends. What waiting does not cure, such as a login that is
// refused, a missing right or a topic that may not be made, ends a call with an error that says what mends it: the setting, or the line that grants or creates.
//
// Bus is what both carry. What only a Kafka can be asked stands on [Kafka]: how topics are set up (Inspect, CanCreate), who answers (Cluster), what this login may do (Lacking, Require), and how far
// other programs' groups have got (Follow, Unread, Committed) or are to begin (ResetGroup), and what topics are as logs: how far they reach and what they keep (Logs), and their records
// from a position on (Play), of which none is ever skipped: what a log has lost is an error (ErrLost).
package transport

import (
	"context"
	"errors"
	"time"
)

// ErrClosed is returned by a Reader or Bus that was closed.
var ErrClosed = errors.New("transport is closed")

// Record is one message on a topic.
type Record struct {
	Topic   string
	Key     []byte // records with equal keys stay in order
	Value   []byte
	Headers map[string]string // trace context

	// Set on records that were read.
	Partition int32
	Offset    int64
	At        time.Time // when the transport took it
}

// Reader gives records out in order per partition.
type Reader interface {
	// Fetch waits for records and returns at least one, or the context's error, or ErrClosed.
	Fetch(ctx context.Context) ([]Record, error)
	// Commit says that everything fetched so far is done: a group goes on behind it after a restart. Without a group it
	// does nothing.
	Commit(ctx context.Context) error
	// Close leaves the group without committing and waits for the reader's goroutines.
	Close() error
}

// Bus carries records.
type Bus interface {
	// Ensure creates the topics that do not exist; those that exist are left as they are.
	Ensure(ctx context.Context, topics ...TopicSpec) error
	// Send appends the records and returns once all of them are durable.
	Send(ctx context.Context, records ...Record) error
	// Group joins a consumer group on the topics: each record goes to one member. A new group begins with the oldest record.
	Group(ctx context.Context, group string, topics ...string) (Reader, error)
	// Tail reads everything that is sent to the topic from now on. Once it has returned, nothing sent later is missed.
	Tail(ctx context.Context, topic string) (Reader, error)
	// Replay returns what the topic holds now, oldest first; of a compacted topic only the last record of each key.
	Replay(ctx context.Context, topic string) ([]Record, error)

	// Partitions counts the partitions of a topic.
	Partitions(ctx context.Context, topic string) (int, error)
	// SendTo is Send to one partition, whatever the keys.
	SendTo(ctx context.Context, partition int32, records ...Record) error
	// Since returns all that one partition of a compacted topic holds from an offset on, oldest first, with the records that delete a key,
	// and the offset to go on with later. An offset behind the end means that the topic was made anew: then it begins with the oldest.
	Since(ctx context.Context, topic string, partition int32, offset int64) (records []Record, next int64, err error)
	// Own joins a group whose members divide the partitions of a topic among them, to write them rather than to read them.
	Own(ctx context.Context, group, topic string) (Ownership, error)
	Close() error
}

// Ownership is one member's part of a topic's partitions. A member that dies without a word keeps its part until the group has missed it, and
// may itself be the last to learn that it has lost it: what it writes until then is for whoever reads the partition to tell apart.
type Ownership interface {
	// Owned returns the partitions that are this member's now, each with its term, and a channel that is closed once that may have changed. A
	// partition that comes back begins a new term, as somebody else may have had it in between. The error is one that
	// somebody has to mend, such as a right that is missing, and is gone once the member has been let in again.
	Owned() (terms map[int32]uint64, changed <-chan struct{}, err error)
	// Close gives them up and leaves the group.
	Close() error
}
