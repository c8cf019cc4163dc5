package debezium

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/transport"
)

// Bus is what a Line needs of Kafka.
type Bus interface {
	Ensure(ctx context.Context, topics ...transport.TopicSpec) error
	SendTo(ctx context.Context, partition int32, records ...transport.Record) error
	Group(ctx context.Context, group string, topics ...string) (transport.Reader, error)
	// Unread counts what another program's group has yet to read; known is false where that can't be told.
	Unread(ctx context.Context, group, topic string) (records int64, known bool, err error)
}

// signalRetention bounds how long a signal can wait for its connector: one that is set up anew reads all that the topic holds.
const signalRetention = 24 * time.Hour

// SignalTopic is where a connector reads its signals.
func SignalTopic(to policy.Debezium) transport.TopicSpec {
	return transport.TopicSpec{Name: to.SignalTopic, Partitions: 1, Retention: signalRetention}
}

// NotificationTopic is where a connector says what became of them. It makes the topic itself if nobody else did.
func NotificationTopic(to policy.Debezium) transport.TopicSpec {
	return transport.TopicSpec{Name: to.NotificationTopic, Partitions: 1}
}

// Line is the way to connectors and back.
type Line struct {
	Bus Bus
	// Group is the consumer group in which the instances of one consumer share the notifications.
	Group string
	Log   *slog.Logger
}

// Prepare sees to it that signals have a topic.
func (l *Line) Prepare(ctx context.Context, to policy.Debezium) error {
	if err := l.Bus.Ensure(ctx, SignalTopic(to)); err != nil {
		return fmt.Errorf("the topic of Debezium's signals: %w", err)
	}
	return nil
}

// Send signals a connector. Once it has returned nil, the signal is in the topic; an error leaves that open.
func (l *Line) Send(ctx context.Context, to policy.Debezium, s Signal) error {
	value, err := s.Encode()
	if err != nil {
		return err
	}
	// A connector reads the first partition and no other.
	if err := l.Bus.SendTo(ctx, 0, transport.Record{Topic: to.SignalTopic, Key: []byte(to.TopicPrefix), Value: value}); err != nil {
		return fmt.Errorf("signalling Debezium: %w", err)
	}
	return nil
}

// Unread tells that signals wait in the topic which the connector has not read. false also stands for not known.
func (l *Line) Unread(ctx context.Context, to policy.Debezium) (bool, error) {
	n, known, err := l.Bus.Unread(ctx, to.SignalGroup, to.SignalTopic)
	return known && n > 0, err
}

// Listen opens the notifications of a connector: those that were not committed yet, and all that come.
func (l *Line) Listen(ctx context.Context, to policy.Debezium) (*Listener, error) {
	if err := l.Bus.Ensure(ctx, NotificationTopic(to)); err != nil {
		return nil, fmt.Errorf("the topic of Debezium's notifications: %w", err)
	}
	reader, err := l.Bus.Group(ctx, l.Group, to.NotificationTopic)
	if err != nil {
		return nil, fmt.Errorf("listening to Debezium's notifications: %w", err)
	}
	return &Listener{reader: reader, connector: to.TopicPrefix, log: l.Log}, nil
}

// Listener gives notifications.
type Listener struct {
	reader    transport.Reader
	connector string
	log       *slog.Logger
	warned    bool
}

// Next waits for records and returns the notifications among them that are about incremental snapshots of the connector: maybe none. What can't be read is logged, once, and skipped;
// refused says how much that was.
func (l *Listener) Next(ctx context.Context) (notes []Notification, refused int, err error) {
	records, err := l.reader.Fetch(ctx)
	if err != nil {
		return nil, 0, err
	}
	for _, r := range records {
		if len(r.Value) == 0 {
			continue
		}
		n, ok, err := Parse(r.Value)
		switch {
		case errors.Is(err, ErrMalformed):
			refused++
			if !l.warned {
				l.warned = true
				l.log.Warn("a notification of Debezium's can't be read: is the connector's value.converter JsonConverter?", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "err", err)
			}
		case ok && (n.Connector == "" || n.Connector == l.connector):
			notes = append(notes, n)
		}
	}
	return notes, refused, nil
}

// Commit says that what Next returned is dealt with.
func (l *Listener) Commit(ctx context.Context) error { return l.reader.Commit(ctx) }

// Close ends listening.
func (l *Listener) Close() error { return l.reader.Close() }
