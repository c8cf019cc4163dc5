package transport

import (
	"cmp"
	"context"
	"maps"
	"slices"
)

// memoryGroup is a consumer group. It outlives its members: what was committed stays.
type memoryGroup struct {
	members   map[*memoryMember]struct{}
	topics    map[string]struct{} // every topic that some member ever read
	owner     map[partition]*memoryMember
	committed map[partition]int64
	joined    int           // members so far, for an order among them
	moved     chan struct{} // closed and replaced with every rebalance
}

// reads reports whether a member is there that reads the topic.
func (g *memoryGroup) reads(topic string) bool {
	for m := range g.members {
		if slices.Contains(m.topics, topic) {
			return true
		}
	}
	return false
}

func (g *memoryGroup) knows(topic string) bool {
	_, ok := g.topics[topic]
	return ok
}

// memoryMember is a Reader in a group.
type memoryMember struct {
	bus      *Memory
	group    *memoryGroup
	topics   []string
	number   int
	turn     int                 // of the partition to look at first, so that none starves
	position map[partition]int64 // offset to read next, for the partitions it owns
	terms    map[partition]uint64
	closed   bool
}

// Group joins the group.
func (m *Memory) Group(ctx context.Context, group string, topics ...string) (Reader, error) {
	r, err := m.join(ctx, group, topics)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (m *Memory) join(ctx context.Context, group string, topics []string) (*memoryMember, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, ErrClosed
	}
	for _, topic := range topics {
		if m.topics[topic] == nil {
			return nil, noTopic(topic)
		}
	}
	g := m.groups[group]
	if g == nil {
		g = &memoryGroup{
			members:   map[*memoryMember]struct{}{},
			topics:    map[string]struct{}{},
			owner:     map[partition]*memoryMember{},
			committed: map[partition]int64{},
			moved:     make(chan struct{}),
		}
		m.groups[group] = g
	}
	g.joined++
	r := &memoryMember{bus: m, group: g, topics: slices.Clone(topics), number: g.joined, position: map[partition]int64{}, terms: map[partition]uint64{}}
	g.members[r] = struct{}{}
	for _, topic := range topics {
		g.topics[topic] = struct{}{}
	}
	m.rebalance(g)
	return r, nil
}

// rebalance shares out partitions evenly and leaves as many as it can where they are. A member that gets a partition begins behind
// what was committed.
func (m *Memory) rebalance(g *memoryGroup) {
	for topic := range g.topics {
		members := slices.Collect(maps.Keys(g.members))
		members = slices.DeleteFunc(members, func(r *memoryMember) bool { return !slices.Contains(r.topics, topic) })
		slices.SortFunc(members, func(a, b *memoryMember) int { return cmp.Compare(a.number, b.number) })
		parts := m.topics[topic].parts
		load := map[*memoryMember]int{}
		for id := range parts {
			at := partition{topic, int32(id)}
			if r := g.owner[at]; r != nil {
				if slices.Contains(members, r) && load[r] < (len(parts)+len(members)-1)/len(members) {
					load[r]++
					continue
				}
				delete(r.position, at)
				delete(g.owner, at)
			}
		}
		for id := range parts {
			at := partition{topic, int32(id)}
			if g.owner[at] != nil || len(members) == 0 {
				continue
			}
			least := slices.MinFunc(members, func(a, b *memoryMember) int { return cmp.Compare(load[a], load[b]) })
			load[least]++
			g.owner[at] = least
			least.position[at] = g.committed[at]
			least.terms[at]++
		}
	}
	close(g.moved)
	g.moved = make(chan struct{})
	m.wake()
}

// Fetch returns records of the partitions this member owns.
func (r *memoryMember) Fetch(ctx context.Context) ([]Record, error) {
	var out []Record
	err := r.bus.wait(ctx, func() (bool, error) {
		if r.closed {
			return false, ErrClosed
		}
		owned := slices.SortedFunc(maps.Keys(r.position), func(a, b partition) int {
			return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.id, b.id))
		})
		r.turn++
		for i := range owned {
			at := owned[(i+r.turn)%len(owned)]
			got := r.bus.topics[at.topic].parts[at.id].read(r.position[at], fetchRecords-len(out))
			if len(got) > 0 {
				r.position[at] = got[len(got)-1].Offset + 1
				out = append(out, got...)
			}
		}
		return len(out) > 0, nil
	})
	return out, err
}

// Commit records the positions of the partitions that are still this member's.
func (r *memoryMember) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.bus.mu.Lock()
	defer r.bus.mu.Unlock()
	if r.closed || r.bus.closed {
		return ErrClosed
	}
	for at, offset := range r.position {
		r.group.committed[at] = max(offset, r.group.committed[at])
		r.bus.trim(at)
	}
	r.bus.wake()
	return nil
}

// Close leaves the group.
func (r *memoryMember) Close() error {
	r.bus.mu.Lock()
	defer r.bus.mu.Unlock()
	if !r.closed {
		r.closed = true
		delete(r.group.members, r)
		r.bus.rebalance(r.group)
	}
	return nil
}

// Own joins the group as a member that reads nothing.
func (m *Memory) Own(ctx context.Context, group, topic string) (Ownership, error) {
	r, err := m.join(ctx, group, []string{topic})
	if err != nil {
		return nil, err
	}
	return memoryOwner{r}, nil
}

type memoryOwner struct{ member *memoryMember }

// Owned returns the partitions of this member.
func (o memoryOwner) Owned() (map[int32]uint64, <-chan struct{}, error) {
	r := o.member
	r.bus.mu.Lock()
	defer r.bus.mu.Unlock()
	if r.closed || r.bus.closed {
		return nil, nil, ErrClosed
	}
	out := map[int32]uint64{}
	for at := range r.position {
		out[at.id] = r.terms[at]
	}
	return out, r.group.moved, nil
}

// Close leaves the group.
func (o memoryOwner) Close() error { return o.member.Close() }

// memoryTail is a Reader without a group.
type memoryTail struct {
	bus      *Memory
	topic    string
	position []int64 // by partition
	closed   bool
}

// Tail reads what is sent from now on.
func (m *Memory) Tail(ctx context.Context, topic string) (Reader, error) {
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
	r := &memoryTail{bus: m, topic: topic}
	for _, log := range t.parts {
		r.position = append(r.position, log.next)
	}
	m.tails[r] = struct{}{}
	return r, nil
}

// Fetch returns the next records of all partitions.
func (r *memoryTail) Fetch(ctx context.Context) ([]Record, error) {
	var out []Record
	err := r.bus.wait(ctx, func() (bool, error) {
		if r.closed {
			return false, ErrClosed
		}
		for id, log := range r.bus.topics[r.topic].parts {
			if got := log.read(r.position[id], fetchRecords); len(got) > 0 {
				r.position[id] = got[len(got)-1].Offset + 1
				out = append(out, got...)
				r.bus.trim(partition{r.topic, int32(id)})
			}
		}
		if len(out) > 0 {
			r.bus.wake() // a sender may have waited for this reader
		}
		return len(out) > 0, nil
	})
	sortByAge(out)
	return out, err
}

// Commit does nothing: a tail belongs to no group.
func (r *memoryTail) Commit(context.Context) error { return nil }

// Close ends the reading.
func (r *memoryTail) Close() error {
	r.bus.mu.Lock()
	defer r.bus.mu.Unlock()
	r.closed = true
	delete(r.bus.tails, r)
	r.bus.wake()
	return nil
}
