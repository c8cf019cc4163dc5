package transport

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Replay reads each partition up to the high watermark it had at the beginning. It asks the leaders itself, one step after the other,
// because only their answers tell the end: the last offsets may be transaction markers, or gone in a compaction, and no record will
// ever come for them. Of a topic that Ensure was told is compacted only the last record of each key is kept, none where that deletes.
func (k *Kafka) Replay(ctx context.Context, topic string) ([]Record, error) {
	starts, ends, err := k.bounds(ctx, topic)
	if err != nil {
		return nil, err
	}
	var out []Record
	for id, end := range ends {
		records, err := k.replay(ctx, partition{topic, id}, starts[id], end)
		if err != nil {
			return nil, err
		}
		out = append(out, records...)
	}
	sortByAge(out)
	k.mu.Lock()
	_, compacted := k.compacted[topic]
	k.mu.Unlock()
	if compacted {
		out = lastOfEachKey(out)
	}
	return out, nil
}

// Since reads one partition from an offset up to the high watermark that it had at the beginning.
func (k *Kafka) Since(ctx context.Context, topic string, id int32, offset int64) (records []Record, next int64, err error) {
	starts, ends, err := k.bounds(ctx, topic)
	if err != nil {
		return nil, offset, err
	}
	end, ok := ends[id]
	switch {
	case !ok:
		return nil, offset, noPartition(topic, id, len(ends))
	case offset > end:
		offset = starts[id]
	}
	records, err = k.replay(ctx, partition{topic, id}, max(offset, starts[id]), end)
	if err != nil {
		return nil, offset, err
	}
	return records, end, nil
}

func (k *Kafka) replay(ctx context.Context, at partition, offset, end int64) ([]Record, error) {
	var (
		out   []Record
		parts assembler
	)
	for offset < end {
		var (
			held kgo.FetchPartition
			next int64
		)
		err := k.patient(ctx, func() (err error) {
			held, next, err = k.fetchAt(ctx, at, fetch{offset: offset, most: 8 << 20})
			return err
		})
		if errors.Is(err, kerr.OffsetOutOfRange) { // retention was faster: go on with the oldest that is left
			starts, _, err := k.bounds(ctx, at.topic)
			if err != nil {
				return nil, err
			}
			offset = max(starts[at.id], offset+1)
			continue
		}
		if err != nil {
			return nil, k.explain(err, at.topic, Read)
		}
		for _, raw := range held.Records {
			if raw.Offset >= end {
				return out, nil
			}
			if whole, ok := parts.add(fromKafka(raw)); ok {
				out = append(out, whole)
			}
		}
		if next <= offset { // the leader has nothing from here to its end
			return out, nil
		}
		offset = next
	}
	return out, nil
}

// fetch is what fetchAt asks for.
type fetch struct {
	offset    int64
	most      int32 // bytes, beyond the first batch
	committed bool  // leave out what a transaction that was aborted, or is still open, has written
}

// fetchAt asks the partition's leader for what it holds from the offset on, and returns the offset to go on with: the same one when it
// holds nothing.
func (k *Kafka) fetchAt(ctx context.Context, at partition, what fetch) (kgo.FetchPartition, int64, error) {
	from, err := k.lead(ctx, at)
	if err != nil {
		return kgo.FetchPartition{}, 0, err
	}
	return k.fetchFrom(ctx, from, at, what)
}

// lead is who to ask for a partition's records.
type lead struct {
	broker int32
	topic  kadm.TopicID // brokers that know it answer for this topic, and for no other of its name
}

func (k *Kafka) lead(ctx context.Context, at partition) (lead, error) {
	detail, err := k.describe(ctx, at.topic)
	if err != nil {
		return lead{}, err
	}
	p, ok := detail.Partitions[at.id]
	switch {
	case !ok:
		return lead{}, kerr.UnknownTopicOrPartition
	case p.Err != nil:
		return lead{}, p.Err
	case p.Leader < 0:
		return lead{}, kerr.LeaderNotAvailable
	}
	return lead{p.Leader, detail.ID}, nil
}

func (k *Kafka) fetchFrom(ctx context.Context, from lead, at partition, what fetch) (kgo.FetchPartition, int64, error) {
	req := kmsg.NewPtrFetchRequest()
	req.MaxBytes = math.MaxInt32
	req.MinBytes = 0
	level := kgo.ReadUncommitted()
	if what.committed {
		req.IsolationLevel, level = 1, kgo.ReadCommitted()
	}
	ask := kmsg.NewFetchRequestTopic()
	ask.Topic, ask.TopicID = at.topic, from.topic
	part := kmsg.NewFetchRequestTopicPartition()
	part.Partition, part.FetchOffset, part.PartitionMaxBytes, part.CurrentLeaderEpoch = at.id, what.offset, what.most, -1
	ask.Partitions = append(ask.Partitions, part)
	req.Topics = append(req.Topics, ask)
	raw, err := k.client.Broker(int(from.broker)).RetriableRequest(ctx, req)
	if err != nil {
		return kgo.FetchPartition{}, 0, err
	}
	answer := raw.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
		return kgo.FetchPartition{}, 0, err
	}
	for i := range answer.Topics {
		for j := range answer.Topics[i].Partitions {
			held, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
				Offset: what.offset, Topic: at.topic, Partition: at.id, IsolationLevel: level,
			}, &answer.Topics[i].Partitions[j], kgo.DefaultDecompressor(), nil)
			return held, next, held.Err
		}
	}
	return kgo.FetchPartition{}, 0, fmt.Errorf("partition %d of topic %s is missing in its leader's answer", at.id, at.topic)
}
