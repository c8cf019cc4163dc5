package transport

import (
	"cmp"
	"context"
	"hash/fnv"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/trickle-verify/trickle/telemetry/pulse"
)

// What Memory holds unless told otherwise, for each partition.
const (
	defaultBacklog      = 10_000
	defaultBacklogBytes = 64 << 20
	fetchRecords        = 256 // at most, in one Fetch
)

// MemoryOptions bound what a Memory holds; zero means the default.
type MemoryOptions struct {
	Backlog      int   // records of a partition that a reader may be behind; default 10,000
	BacklogBytes int64 // bytes of them; default 64 MiB
}

// Memory carries records inside one process. A topic that is not compacted keeps what some reader still needs: Send waits while a
// group that has members, or a tail, is further behind than the bounds in MemoryOptions. What no such reader waits for is kept up to
// those bounds too, for groups that join later or come back; then the oldest go. Nothing outlives the process.
type Memory struct {
	backlog      int
	backlogBytes int64

	mu      sync.Mutex
	changed chan struct{} // closed and replaced whenever somebody who waits should look again
	closed  bool
	topics  map[string]*memoryTopic
	groups  map[string]*memoryGroup
	tails   map[*memoryTail]struct{}
}

// NewMemory returns an empty bus.
func NewMemory(o MemoryOptions) *Memory {
	return &Memory{
		backlog:      cmp.Or(o.Backlog, defaultBacklog),
		backlogBytes: cmp.Or(o.BacklogBytes, defaultBacklogBytes),
		changed:      make(chan struct{}),
		topics:       map[string]*memoryTopic{},
		groups:       map[string]*memoryGroup{},
		tails:        map[*memoryTail]struct{}{},
	}
}

type memoryTopic struct {
	spec  TopicSpec
	parts []*memoryLog
}

// Ensure creates the topics that do not exist.
func (m *Memory) Ensure(_ context.Context, topics ...TopicSpec) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	for _, spec := range topics {
		if m.topics[spec.Name] != nil {
			continue
		}
		t := &memoryTopic{spec: spec}
		for range max(spec.Partitions, 1) {
			t.parts = append(t.parts, &memoryLog{})
		}
		m.topics[spec.Name] = t
	}
	return nil
}

// Send appends the records, waiting for readers that are too far behind.
func (m *Memory) Send(ctx context.Context, records ...Record) error {
	for _, r := range records {
		r.Partition = byKey
		if err := m.send(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// SendTo is Send to one partition.
func (m *Memory) SendTo(ctx context.Context, to int32, records ...Record) error {
	for _, r := range records {
		r.Partition = to
		if err := m.send(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func (m *Memory) send(ctx context.Context, r Record) error {
	r.Key, r.Value, r.Headers = slices.Clone(r.Key), slices.Clone(r.Value), maps.Clone(r.Headers)
	return m.wait(ctx, func() (bool, error) {
		t := m.topics[r.Topic]
		if t == nil {
			return false, noTopic(r.Topic)
		}
		if r.Partition == byKey {
			h := fnv.New32a()
			h.Write(r.Key)
			r.Partition = int32(h.Sum32() % uint32(len(t.parts)))
		}
		if int(r.Partition) >= len(t.parts) {
			return false, noPartition(r.Topic, r.Partition, len(t.parts))
		}
		log := t.parts[r.Partition]
		if t.spec.Compacted {
			r.At = time.Now()
			log.append(r)
			log.compact()
			m.wake()
			return true, nil
		}
		at := partition{r.Topic, r.Partition}
		if records, bytes := log.after(m.slowest(at, log)); records >= m.backlog || records > 0 && bytes >= m.backlogBytes {
			return false, nil
		}
		r.At = time.Now()
		log.append(r)
		m.trim(at)
		m.wake()
		return true, nil
	})
}

// wait calls try under the lock, again after every change, until it is done or fails.
func (m *Memory) wait(ctx context.Context, try func() (done bool, err error)) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		m.mu.Lock()
		if m.closed {
			m.mu.Unlock()
			return ErrClosed
		}
		done, err := try()
		changed := m.changed
		m.mu.Unlock()
		if done || err != nil {
			return err
		}
		back := pulse.Away(ctx) // the other side, which may have nothing to say
		select {
		case <-changed:
		case <-ctx.Done():
		}
		back()
	}
}

// wake lets everybody who waits look again; the lock is held.
func (m *Memory) wake() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// slowest returns the lowest offset that a present reader still needs.
func (m *Memory) slowest(at partition, log *memoryLog) int64 {
	lowest := log.next
	for _, g := range m.groups {
		if g.reads(at.topic) {
			lowest = min(lowest, max(g.committed[at], log.start))
		}
	}
	for t := range m.tails {
		if t.topic == at.topic {
			lowest = min(lowest, t.position[at.id])
		}
	}
	return lowest
}

// trim drops what every group has committed, and what exceeds the bounds and nobody present needs.
func (m *Memory) trim(at partition) {
	t := m.topics[at.topic]
	if t.spec.Compacted {
		return
	}
	log := t.parts[at.id]
	slowest := m.slowest(at, log)
	wanted, known := slowest, false
	for _, g := range m.groups {
		if offset, ok := g.committed[at]; ok {
			wanted, known = min(wanted, offset), true
		} else if g.knows(at.topic) {
			wanted, known = log.start, true
		}
	}
	if known {
		log.drop(wanted)
	}
	for {
		records, bytes := log.after(log.start)
		if log.start >= slowest || records <= m.backlog && bytes <= m.backlogBytes {
			return
		}
		log.drop(log.start + 1)
	}
}

// Replay returns what the topic holds.
func (m *Memory) Replay(ctx context.Context, topic string) ([]Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, ErrClosed
	}
	t := m.topics[topic]
	if t == nil {
		return nil, noTopic(topic)
	}
	var out []Record
	for _, log := range t.parts {
		out = append(out, log.read(log.start, len(log.records))...)
	}
	sortByAge(out)
	if t.spec.Compacted {
		out = lastOfEachKey(out)
	}
	return out, nil
}

// Partitions counts the topic's partitions.
func (m *Memory) Partitions(_ context.Context, topic string) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return 0, ErrClosed
	}
	t := m.topics[topic]
	if t == nil {
		return 0, noTopic(topic)
	}
	return len(t.parts), nil
}

// Since returns what one partition holds from an offset on.
func (m *Memory) Since(ctx context.Context, topic string, id int32, offset int64) ([]Record, int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, offset, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, offset, ErrClosed
	}
	t := m.topics[topic]
	if t == nil {
		return nil, offset, noTopic(topic)
	}
	if int(id) >= len(t.parts) {
		return nil, offset, noPartition(topic, id, len(t.parts))
	}
	log := t.parts[id]
	if offset > log.next {
		offset = 0
	}
	return log.read(offset, len(log.records)), log.next, nil
}

// sortByAge puts records of several partitions in the order in which they were taken, and keeps the order in each.
func sortByAge(records []Record) {
	slices.SortStableFunc(records, func(a, b Record) int {
		if a.Partition == b.Partition {
			return cmp.Compare(a.Offset, b.Offset)
		}
		return a.At.Compare(b.At)
	})
}

// lastOfEachKey keeps the last record of each key, unless that deletes it.
func lastOfEachKey(records []Record) []Record {
	last := make(map[string]int, len(records))
	for i, r := range records {
		last[string(r.Key)] = i
	}
	var out []Record
	for i, r := range records {
		if last[string(r.Key)] == i && r.Value != nil {
			out = append(out, r)
		}
	}
	return out
}

// Close makes every call on the bus and on its readers end with ErrClosed.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.closed = true
		m.wake()
	}
	return nil
}
