package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/trickle-verify/trickle/transport"
)

const (
	lookAtSink = time.Second
	tellOfSink = 15 * time.Second
)

// awaitSink waits until the user's sink has read all that is in the logs now.
func (r *restoration) awaitSink(ctx context.Context) error {
	var until transport.Position
	follower, watch := r.kafka.Follow(), sinkWatch{restoration: r, read: map[transport.Partition]int64{}}
	if err := watch.choose(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(lookAtSink)
	defer tick.Stop()
	told := time.Time{}
	for {
		progress, err := follower.Progress(ctx, r.options.ResetGroup)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, transport.ErrGroupDenied), errors.Is(err, transport.ErrGroupTopicsDenied):
			return fmt.Errorf("consumer group %s: %w", r.options.ResetGroup, err)
		case err == nil && until == nil:
			until = endsOf(progress)
		}
		if err == nil {
			if lost := watch.look(progress); lost != nil {
				return fmt.Errorf("consumer group %s: %w", r.options.ResetGroup, r.tooOld(lost))
			}
		}
		left := unread(progress, until)
		if err == nil && left == 0 {
			return nil
		}
		r.tell(RestoreProgress{Phase: PhasePlay, Left: left})
		if time.Since(told) >= tellOfSink {
			told = time.Now()
			attrs := []any{"group", r.options.ResetGroup, "members", progress.Members, "left", left}
			if err != nil {
				attrs = append(attrs, "err", err)
			}
			r.Log.Info("waiting for the sink to catch up", attrs...)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// endsOf is where the logs of a group's topics end.
func endsOf(p transport.Progress) transport.Position {
	var out transport.Position
	for _, at := range p.Partitions {
		i := slices.IndexFunc(out, func(t transport.TopicPosition) bool { return t.Topic == at.Topic })
		if i < 0 {
			i = len(out)
			out = append(out, transport.TopicPosition{Topic: at.Topic})
		}
		for int(at.Partition) >= len(out[i].Offsets) {
			out[i].Offsets = append(out[i].Offsets, 0)
		}
		out[i].Offsets[at.Partition] = at.End
	}
	slices.SortFunc(out, func(a, b transport.TopicPosition) int { return strings.Compare(a.Topic, b.Topic) })
	return out
}

// unread counts what a group has yet to read before a position.
func unread(p transport.Progress, until transport.Position) (left int64) {
	for _, at := range p.Partitions {
		if t, ok := until.Of(at.Topic); ok && int(at.Partition) < len(t.Offsets) {
			left += max(0, t.Offsets[at.Partition]-at.Done)
		}
	}
	return left
}

// sinkWatch looks out for records that expired before the user's sink has read them.
type sinkWatch struct {
	*restoration

	topics []string                      // that hold the CDC's log; nil: whatever the group reads
	read   map[transport.Partition]int64 // nothing before it is left to be read
}

func (w *sinkWatch) choose(ctx context.Context) error {
	patterns, err := cdcTopics(w.policy, w.sourceNames())
	if err != nil {
		return nil //nolint:nilerr // then it is not known which they are
	}
	logs, err := w.kafka.Logs(ctx, patterns)
	for _, l := range logs {
		w.topics = append(w.topics, l.Topic)
	}
	return err
}

// look returns a *transport.LostError where the sink can't go on. A commit may lie before the oldest record that is left and nothing be lost: what was between them was none that a sink
// reads, such as the mark of a transaction, as an earlier look has shown.
func (w *sinkWatch) look(p transport.Progress) error {
	for _, now := range p.Partitions {
		at := transport.Partition{Topic: now.Topic, ID: now.Partition}
		if w.topics != nil && !slices.Contains(w.topics, now.Topic) || w.beats(now.Topic) || now.Committed < 0 {
			continue
		}
		read, seen := w.read[at]
		if now.Start > max(now.Committed, read) {
			return &transport.LostError{Partition: at, Offset: max(now.Committed, read), Reason: fmt.Sprintf("what was there has expired before the sink has read it, the oldest that is left is %d", now.Start)}
		}
		if seen && now.Start > read {
			w.note("%s has expired up to offset %d, and consumer group %s had read it up to %d a moment before: it may have missed what was between them. A full pass tells: the proof at the end of this restore, or trickle-consumer resync --table T",
				at, now.Start, w.options.ResetGroup, read)
		}
		w.read[at] = now.Done
	}
	return nil
}
