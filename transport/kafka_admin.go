package transport

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// transient reports whether the cluster may get over the error: a broker is away, or busy with something.
func transient(err error) bool {
	if errors.Is(err, kgo.ErrClientClosed) {
		return false
	}
	var answer *kerr.Error
	return !errors.As(err, &answer) || answer.Retriable
}

// patient calls do until it succeeds, fails for good, or the context ends.
func (k *Kafka) patient(ctx context.Context, do func() error) error {
	for {
		err := do()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, kgo.ErrClientClosed):
			return ErrClosed
		case !transient(err):
			return err
		}
		k.options.Logger.Debug("waiting for Kafka", "err", err)
		if !pause(ctx) {
			return fmt.Errorf("waiting for Kafka: %w: %w", ctx.Err(), err)
		}
	}
}

// Ensure creates the topics that do not exist, with the broker's own replication factor. A topic counts as compacted on this bus
// (see Send and Replay) when its spec says so.
func (k *Kafka) Ensure(ctx context.Context, topics ...TopicSpec) error {
	k.mu.Lock()
	for _, spec := range topics {
		if spec.Compacted {
			k.compacted[spec.Name] = struct{}{}
		}
	}
	k.mu.Unlock()
	for _, spec := range topics {
		if err := k.ensure(ctx, spec); err != nil {
			return err
		}
	}
	return nil
}

func (k *Kafka) ensure(ctx context.Context, spec TopicSpec) error {
	_, err := k.describe(ctx, spec.Name)
	if !errors.Is(err, kerr.UnknownTopicOrPartition) {
		return explain(err, spec.Name)
	}
	settings := map[string]*string{"cleanup.policy": kadm.StringPtr("delete")}
	if spec.Compacted {
		settings["cleanup.policy"] = kadm.StringPtr("compact")
	} else if spec.Retention > 0 {
		settings["retention.ms"] = kadm.StringPtr(fmt.Sprint(spec.Retention.Milliseconds()))
	}
	partitions := max(spec.Partitions, 1)
	err = k.patient(ctx, func() error {
		answer, err := k.admin.CreateTopic(ctx, partitions, -1, settings, spec.Name)
		if errors.Is(err, kerr.TopicAlreadyExists) {
			return nil
		}
		if err != nil && answer.ErrMessage != "" {
			return fmt.Errorf("%w: %s", err, answer.ErrMessage)
		}
		return err
	})
	if err != nil {
		wanted := fmt.Sprintf("partitions=%d", partitions)
		for _, name := range []string{"cleanup.policy", "retention.ms"} {
			if value := settings[name]; value != nil {
				wanted += fmt.Sprintf(" %s=%s", name, *value)
			}
		}
		if errors.Is(err, kerr.TopicAuthorizationFailed) || errors.Is(err, kerr.ClusterAuthorizationFailed) {
			return fmt.Errorf("topic %s does not exist and this login may not create it: create it with %s, or grant CREATE: %w", spec.Name, wanted, err)
		}
		return fmt.Errorf("creating topic %s with %s: %w", spec.Name, wanted, err)
	}
	return k.existing(ctx, spec.Name)
}

// describe asks for the topic's partitions and leaders.
func (k *Kafka) describe(ctx context.Context, topic string) (detail kadm.TopicDetail, err error) {
	err = k.patient(ctx, func() error {
		meta, err := k.admin.Metadata(ctx, topic)
		if err != nil {
			return err
		}
		detail = meta.Topics[topic]
		if errors.Is(detail.Err, kerr.UnknownTopicOrPartition) {
			return nil // retriable to the protocol, an answer to us
		}
		return detail.Err
	})
	return detail, cmp.Or(err, detail.Err)
}

// existing is describe for a topic that should be there: one that was created a moment ago may be unknown for a while.
func (k *Kafka) existing(ctx context.Context, topic string) error {
	bounded, cancel := context.WithTimeout(ctx, topicAppears)
	defer cancel()
	for {
		_, err := k.describe(ctx, topic)
		if !errors.Is(err, kerr.UnknownTopicOrPartition) || !pause(bounded) {
			return explain(err, topic)
		}
	}
}

// Partitions counts the topic's partitions.
func (k *Kafka) Partitions(ctx context.Context, topic string) (int, error) {
	if err := k.existing(ctx, topic); err != nil {
		return 0, err
	}
	detail, err := k.describe(ctx, topic)
	return len(detail.Partitions), explain(err, topic)
}

// explain says what an error about a topic means.
func explain(err error, topic string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, ErrClosed):
		return err
	case errors.Is(err, kgo.ErrClientClosed):
		return ErrClosed
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		return noTopic(topic)
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return fmt.Errorf("this login has no right to topic %s: grant READ, WRITE and DESCRIBE: %w", topic, err)
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return fmt.Errorf("%w for topic %s: raise its max.message.bytes to at least 1 MiB: %w", ErrTooLarge, topic, err)
	default:
		return fmt.Errorf("topic %s: %w", topic, err)
	}
}
