package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// shortLog is how long a log may end before what it once held: a new leader has yet to learn how much of it is durable.
const shortLog = 30 * time.Second

// look fetches one partition's batches, one after the other. Nothing is skipped: an answer that is short of its offset is no answer.
type look struct {
	kafka  *Kafka
	at     Partition
	id     string // the topic's; empty where the cluster gives none
	most   int32
	offset int64

	from    lead
	known   bool      // whom to ask
	missing time.Time // since when the topic has not been there
}

func (l *look) once(ctx context.Context) batch {
	var b batch
	err := l.kafka.patient(ctx, func() error {
		held, next, err := l.fetch(ctx)
		if err != nil {
			l.known = false
			return err
		}
		b = batch{records: held.Records, next: next, stable: next, end: held.HighWatermark, empty: next <= l.offset}
		if b.empty {
			b.stable = max(next, held.LastStableOffset)
		}
		return nil
	})
	if err != nil {
		return batch{err: l.kafka.explain(err, l.at.Topic, Read)}
	}
	l.offset = b.next
	return b
}

func (l *look) fetch(ctx context.Context) (kgo.FetchPartition, int64, error) {
	at := partition{l.at.Topic, l.at.ID}
	if !l.known {
		if err := l.find(ctx, at); err != nil {
			return kgo.FetchPartition{}, 0, err
		}
	}
	held, next, err := l.kafka.fetchFrom(ctx, l.from, at, fetch{offset: l.offset, most: l.most, committed: true})
	if errors.Is(err, kerr.OffsetOutOfRange) {
		return held, 0, l.lost(ctx)
	}
	return held, next, err
}

// find asks who leads the partition, and whether it is still the same topic's.
func (l *look) find(ctx context.Context, at partition) error {
	from, err := l.kafka.lead(ctx, at)
	switch id := topicID(from.topic); {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		if l.missing.IsZero() {
			l.missing = time.Now()
		}
		if time.Since(l.missing) > topicAppears {
			return &LostError{l.at, l.offset, goneTopic}
		}
		return err
	case err != nil:
		return err
	case l.id != "" && id != "" && id != l.id:
		return &LostError{l.at, l.offset, newTopic}
	}
	l.from, l.known, l.missing = from, true, time.Time{}
	return nil
}

// lost says what became of an offset that the leader does not have.
func (l *look) lost(ctx context.Context) error {
	starts, ends, err := l.kafka.bounds(ctx, l.at.Topic)
	switch {
	case errors.Is(err, ErrNoTopic):
		return &LostError{l.at, l.offset, goneTopic}
	case err != nil:
		return err
	}
	if err := outside(l.at, l.offset, Extent{starts[l.at.ID], ends[l.at.ID]}); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w, though it should be there", l.at, errors.New(kerr.OffsetOutOfRange.Message)) // it may be on its way
}

// waiting is for records that are said to be there and do not come.
type waiting struct {
	log   *slog.Logger
	at    Partition
	end   int64
	since time.Time
	told  bool
	none  int // looks that found nothing, the first of which may be an old one
}

// more waits before the next look, and fails once there is no use.
func (w *waiting) more(ctx context.Context, b batch) error {
	if !b.empty {
		return nil
	}
	waited := time.Since(w.since)
	if b.end < w.end && waited > shortLog {
		return &LostError{w.at, b.stable, fmt.Sprintf("the log ends at %d, before %d: a broker lost records", b.end, w.end)}
	}
	if waited > tellAfter && !w.told {
		w.told = true
		w.log.Warn("waiting for a transaction to end", "topic", w.at.Topic, "partition", w.at.ID, "offset", b.stable, "end", w.end)
	}
	if w.none++; w.none > 1 && !pause(ctx) {
		return ctx.Err()
	}
	return nil
}
