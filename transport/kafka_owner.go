package transport

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
)

// kafkaOwner is a member of a group that takes no records, only partitions.
type kafkaOwner struct {
	bus    *Kafka
	client *kgo.Client
	group  string
	stop   context.CancelFunc
	ended  chan struct{}
	once   sync.Once

	mu      sync.Mutex
	owned   map[int32]uint64
	terms   uint64 // so far
	changed chan struct{}
	err     error
}

// Own joins a group with cooperative-sticky balancing: whoever joins or leaves moves no more partitions than it must, and the others keep
// theirs meanwhile.
func (k *Kafka) Own(ctx context.Context, group, topic string) (Ownership, error) {
	if err := k.existing(ctx, topic); err != nil {
		return nil, err
	}
	watching, stop := context.WithCancel(context.Background()) //nolint:contextcheck // it lasts until Close, longer than this call
	o := &kafkaOwner{bus: k, group: group, stop: stop, ended: make(chan struct{}), owned: map[int32]uint64{}, changed: make(chan struct{})}
	gained := func(_ context.Context, _ *kgo.Client, gained map[string][]int32) {
		o.change(func() {
			o.terms++
			o.err = nil // it has been let in since
			for _, id := range gained[topic] {
				o.owned[id] = o.terms
			}
		})
	}
	lost := func(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
		o.change(func() {
			for _, id := range lost[topic] {
				delete(o.owned, id)
			}
		})
	}
	client, err := k.newClient(append(membership(group, topic),
		kgo.OnPartitionsAssigned(gained),
		kgo.OnPartitionsRevoked(lost),
		kgo.OnPartitionsLost(lost),
	)...)
	if err != nil {
		stop()
		return nil, fmt.Errorf("joining Kafka group %s: %w", group, err)
	}
	client.PauseFetchTopics(topic)
	o.client = client
	go func() {
		defer close(o.ended)
		o.watch(watching)
	}()
	if !k.watch(o) {
		return nil, errors.Join(ErrClosed, o.Close())
	}
	return o, nil
}

// change does something to what is owned and tells those who wait.
func (o *kafkaOwner) change(do func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	do()
	close(o.changed)
	o.changed = make(chan struct{})
}

// watch looks for errors of the group, which come as what is fetched; records don't, as the topic is paused.
func (o *kafkaOwner) watch(ctx context.Context) {
	for ctx.Err() == nil {
		fetches := o.client.PollFetches(ctx)
		if fetches.IsClientClosed() {
			return
		}
		for _, e := range fetches.Errors() {
			if err := o.bus.judge(ctx, o.group, e); err != nil && ctx.Err() == nil {
				o.change(func() { o.err = err })
			}
		}
		if len(fetches.Errors()) > 0 {
			pause(ctx) // the next is likely the same
		}
	}
}

// Owned returns the partitions of this member.
func (o *kafkaOwner) Owned() (map[int32]uint64, <-chan struct{}, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.owned), o.changed, o.err
}

// Close leaves the group.
func (o *kafkaOwner) Close() error {
	o.once.Do(func() {
		o.stop()
		o.bus.leave(o.client, o.group)
		<-o.ended
		o.bus.forget(o)
	})
	return nil
}
