package transport

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Logs returns the topics that the patterns name (see MatchTopic), by name. One that is named in full and does not exist comes without partitions.
func (k *Kafka) Logs(ctx context.Context, patterns []string) ([]Log, error) {
	var logs []Log
	err := k.patient(ctx, func() (err error) {
		logs, err = k.logs(ctx, patterns)
		return err
	})
	return logs, err
}

// logs asks for the topics' ids before and after it asks how far they reach: else the offsets might be those of another topic of that name.
func (k *Kafka) logs(ctx context.Context, patterns []string) ([]Log, error) {
	before, err := k.topics(ctx, patterns)
	if err != nil {
		return nil, err
	}
	var there []string
	for _, t := range before {
		if len(t.Partitions) > 0 {
			there = append(there, *t.Topic)
		}
	}
	starts, err := k.offsets(ctx, k.admin.ListStartOffsets, there)
	if err != nil {
		return nil, err
	}
	ends, err := k.offsets(ctx, k.admin.ListEndOffsets, there)
	if err != nil {
		return nil, err
	}
	settings, err := k.settings(ctx, there)
	if err != nil {
		return nil, err
	}
	after, err := k.topics(ctx, patterns)
	if err != nil {
		return nil, err
	}
	if !slices.EqualFunc(before, after, func(a, b kmsg.MetadataResponseTopic) bool { return *a.Topic == *b.Topic && a.TopicID == b.TopicID }) {
		return nil, kerr.UnknownTopicID // once more
	}
	logs := make([]Log, len(before))
	for i, t := range before {
		logs[i] = Log{Topic: *t.Topic, ID: topicID(t.TopicID)}
		if len(t.Partitions) == 0 {
			continue
		}
		logs[i].Retention = retention(settings[*t.Topic])
		for n := range t.Partitions {
			start, known := starts.Lookup(*t.Topic, int32(n))
			end, ended := ends.Lookup(*t.Topic, int32(n))
			if !known || !ended {
				return nil, fmt.Errorf("Kafka does not say how far %s reaches", Partition{*t.Topic, int32(n)})
			}
			logs[i].Partitions = append(logs[i].Partitions, Extent{start.Offset, end.Offset})
		}
	}
	return logs, nil
}

// topics returns those that the patterns name, by name.
func (k *Kafka) topics(ctx context.Context, patterns []string) ([]kmsg.MetadataResponseTopic, error) {
	named, globs := []string{}, []string{}
	for _, p := range patterns {
		if strings.Contains(p, "*") {
			globs = append(globs, p)
		} else {
			named = append(named, p)
		}
	}
	if len(globs) > 0 {
		all, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, k.client)
		if err != nil {
			return nil, fmt.Errorf("asking Kafka for topics: %w", err)
		}
		for _, t := range all.Topics {
			if t.Topic != nil && !t.IsInternal && slices.ContainsFunc(globs, func(glob string) bool { return MatchTopic(glob, *t.Topic) }) {
				named = append(named, *t.Topic)
			}
		}
	}
	slices.Sort(named)
	named = slices.Compact(named)
	if len(named) == 0 {
		return nil, nil // no name would mean all topics
	}
	found, err := k.metadata(ctx, named)
	if err != nil {
		return nil, fmt.Errorf("asking Kafka for topics: %w", err)
	}
	out := make([]kmsg.MetadataResponseTopic, 0, len(named))
	var denied []Right
	for _, name := range named {
		t, ok := found[name]
		switch err := kerr.ErrorForCode(t.ErrorCode); {
		case errors.Is(err, kerr.TopicAuthorizationFailed):
			denied = append(denied, Right{Resource: Topic, Name: name, Operations: []Operation{Describe, DescribeConfigs}})
		case !ok, errors.Is(err, kerr.UnknownTopicOrPartition):
			t = kmsg.NewMetadataResponseTopic()
			t.Topic = &name
		case err != nil:
			return nil, explain(err, name)
		}
		out = append(out, t)
	}
	if len(denied) > 0 {
		return nil, k.denied(kerr.TopicAuthorizationFailed, denied...)
	}
	return out, nil
}

// offsets lists one of each partition's.
func (k *Kafka) offsets(ctx context.Context, list func(context.Context, ...string) (kadm.ListedOffsets, error), topics []string) (kadm.ListedOffsets, error) {
	if len(topics) == 0 {
		return nil, nil // no name would mean all topics
	}
	listed, err := list(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("asking Kafka how far topics reach: %w", err)
	}
	var failed error
	listed.Each(func(o kadm.ListedOffset) {
		switch {
		case o.Err == nil, failed != nil:
		case errors.Is(o.Err, kerr.UnknownTopicOrPartition):
			failed = o.Err // it was there: whoever asks again sees whether it was deleted
		default:
			failed = k.explain(o.Err, o.Topic, Describe)
		}
	})
	return listed, failed
}

func topicID(id kadm.TopicID) string {
	if id == (kadm.TopicID{}) {
		return ""
	}
	return id.String()
}

// retention reads a topic's settings.
func retention(settings map[string]string) Retention {
	if settings == nil {
		return Retention{Unknown: true}
	}
	limit := func(name string) int64 {
		n, err := strconv.ParseInt(settings[name], 10, 64)
		if err != nil || n < 0 {
			return 0
		}
		return max(n, 1) // 0 would be no limit
	}
	var r Retention
	for rule := range strings.SplitSeq(settings["cleanup.policy"], ",") {
		switch strings.TrimSpace(rule) {
		case "compact":
			r.Compacted, r.Tombstones = true, milliseconds(limit("delete.retention.ms"))
		case "delete":
			r.Time, r.Bytes = milliseconds(limit("retention.ms")), limit("retention.bytes")
		}
	}
	return r
}

// milliseconds is as long as there is, where that is not long enough.
func milliseconds(n int64) time.Duration {
	return time.Duration(min(n, int64(1<<63-1)/int64(time.Millisecond))) * time.Millisecond
}

// WrittenAt is when the first record at an offset or behind it was written, by the clock of its producer or broker. It is zero where there is none, or a transaction around it
// is still open; an offset that is not in the log is a *LostError.
func (k *Kafka) WrittenAt(ctx context.Context, topic string, id int32, offset int64) (time.Time, error) {
	starts, ends, err := k.bounds(ctx, topic)
	if err != nil {
		return time.Time{}, err
	}
	end, ok := ends[id]
	if !ok {
		return time.Time{}, noPartition(topic, id, len(ends))
	}
	if offset < starts[id] || offset > end {
		return time.Time{}, outside(Partition{topic, id}, offset, Extent{starts[id], end})
	}
	b := beginning{from: offset, at: offset}
	if err := k.patient(ctx, func() error { return k.find(ctx, partition{topic, id}, &b, end) }); err != nil {
		return time.Time{}, k.explain(err, topic, Read)
	}
	return b.since, nil
}

// outside is the error of an offset that is not in the log, nil where it is.
func outside(at Partition, offset int64, has Extent) error {
	p := TopicPosition{Topic: at.Topic, Offsets: make([]int64, at.ID+1)}
	l := Log{Topic: at.Topic, Partitions: make([]Extent, at.ID+1)}
	p.Offsets[at.ID], l.Partitions[at.ID] = offset, has
	return p.held(l)
}

// PositionAt is the position in topics at a time: in each partition the first record that was written then or later. A topic that does not exist has no offsets.
func (k *Kafka) PositionAt(ctx context.Context, topics []string, at time.Time) (Position, error) {
	logs, err := k.Logs(ctx, topics)
	if err != nil {
		return nil, err
	}
	out := Ends(logs)
	var there []string
	for _, l := range logs {
		if len(l.Partitions) > 0 {
			there = append(there, l.Topic)
		}
	}
	after := func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
		return k.admin.ListOffsetsAfterMilli(ctx, at.UnixMilli(), topics...)
	}
	var found kadm.ListedOffsets
	if err := k.patient(ctx, func() (err error) {
		found, err = k.offsets(ctx, after, there)
		return err
	}); err != nil {
		return nil, err
	}
	for i, l := range logs {
		for n, has := range l.Partitions {
			if o, ok := found.Lookup(l.Topic, int32(n)); ok && o.Offset >= 0 {
				out[i].Offsets[n] = max(has.Start, min(o.Offset, has.End))
			}
		}
	}
	return out, nil
}
