package transport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/trickle-verify/trickle/telemetry/pulse"
)

// transient reports whether the cluster may get over the error: a broker is away, or busy with something.
func transient(err error) bool {
	if errors.Is(err, kgo.ErrClientClosed) || errors.Is(err, ErrLost) || errors.Is(err, ErrNoTopic) {
		return false
	}
	var answer *kerr.Error
	return !errors.As(err, &answer) || answer.Retriable
}

// passing is an error that waiting may cure, nil for others.
func passing(err error) error {
	if err != nil && transient(err) {
		return err
	}
	return nil
}

// patient calls do until it succeeds, fails for good, or the context ends. What it waits for is told once it has waited long.
func (k *Kafka) patient(ctx context.Context, do func() error) error {
	defer pulse.Away(ctx)()
	told := time.Now()
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
		if time.Since(told) >= tellAfter {
			told = time.Now()
			k.options.Logger.Warn("waiting for Kafka", "err", err)
		}
		if !pause(ctx) {
			return fmt.Errorf("waiting for Kafka: %w: %w", ctx.Err(), err)
		}
	}
}

// Ensure creates the topics that do not exist, with the broker's own replication factor; where this login may not, all that are missing
// are named in one *NotCreatedError. Topics that exist are left as they are; what is wrong with them is logged. A topic counts as compacted
// on this bus (see Send and Replay) when its spec says so.
func (k *Kafka) Ensure(ctx context.Context, topics ...TopicSpec) error {
	k.mu.Lock()
	for _, spec := range topics {
		if spec.Compacted {
			k.compacted[spec.Name] = struct{}{}
		}
	}
	k.mu.Unlock()
	states, err := k.Inspect(ctx, topics...)
	if err != nil {
		return err
	}
	var (
		denied []TopicSpec
		reason error
	)
	for _, state := range states {
		for _, f := range k.untold(state.Faults) {
			k.options.Logger.Warn("a topic is not as it should be", "fault", f.What, "fix", f.Fix)
		}
		if state.Exists {
			continue
		}
		err := k.create(ctx, state.Spec)
		switch {
		case mayNotCreate(err):
			denied, reason = append(denied, state.Spec), err
		case err != nil:
			return fmt.Errorf("creating topic %s: %w; or make it yourself: %s", state.Spec.Name, err, state.Spec.CreateCommand(k.options.Brokers))
		}
	}
	if len(denied) > 0 {
		return k.notCreated(reason, denied...)
	}
	return nil
}

// untold leaves out what was logged before: a topic may be ensured by several parts.
func (k *Kafka) untold(faults []TopicFault) []TopicFault {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.DeleteFunc(faults, func(f TopicFault) bool {
		_, told := k.told[f]
		k.told[f] = struct{}{}
		return told
	})
}

// create makes a topic; one that somebody made meanwhile is fine.
func (k *Kafka) create(ctx context.Context, spec TopicSpec) error {
	err := k.createWith(ctx, spec, slices.Concat(spec.Config(), spec.Tuning()))
	if errors.Is(err, kerr.InvalidConfig) || errors.Is(err, kerr.PolicyViolation) {
		// Hosted clusters let their users set a part of all settings only.
		k.options.Logger.Debug("the cluster refuses a topic's settings; trying with fewer", "topic", spec.Name, "err", err)
		err = k.createWith(ctx, spec, spec.Config())
	}
	if err != nil {
		return err
	}
	return k.appears(ctx, spec.Name, createdAppears)
}

// CanCreate asks whether Ensure would be let make a topic, without making it. A right that is missing is a *NotCreatedError.
func (k *Kafka) CanCreate(ctx context.Context, spec TopicSpec) error {
	answers, err := k.admin.ValidateCreateTopics(ctx, spec.partitions(), -1, forKadm(spec.Config()), spec.Name)
	if err != nil {
		return fmt.Errorf("asking Kafka whether topic %s may be made: %w", spec.Name, err)
	}
	answer := answers[spec.Name]
	switch {
	case answer.Err == nil, errors.Is(answer.Err, kerr.TopicAlreadyExists):
		return nil
	case mayNotCreate(answer.Err):
		return k.notCreated(answer.Err, spec)
	default:
		return fmt.Errorf("the brokers would not make topic %s: %w: %s", spec.Name, answer.Err, answer.ErrMessage)
	}
}

func mayNotCreate(err error) bool {
	return errors.Is(err, kerr.TopicAuthorizationFailed) || errors.Is(err, kerr.ClusterAuthorizationFailed)
}

func (k *Kafka) notCreated(err error, topics ...TopicSpec) *NotCreatedError {
	return &NotCreatedError{Topics: topics, Brokers: k.options.Brokers, Principal: k.options.Security.Principal(), Err: err}
}

func forKadm(settings []Setting) map[string]*string {
	config := map[string]*string{}
	for _, s := range settings {
		config[s.Name] = &s.Value
	}
	return config
}

func (k *Kafka) createWith(ctx context.Context, spec TopicSpec, settings []Setting) error {
	return k.patient(ctx, func() error {
		answer, err := k.admin.CreateTopic(ctx, spec.partitions(), -1, forKadm(settings), spec.Name)
		if errors.Is(err, kerr.TopicAlreadyExists) {
			return nil
		}
		if err != nil && answer.ErrMessage != "" {
			return fmt.Errorf("%w: %s", err, answer.ErrMessage)
		}
		return err
	})
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

// existing makes sure of a topic that should be there.
func (k *Kafka) existing(ctx context.Context, topic string) error {
	return k.appears(ctx, topic, topicAppears)
}

// appears waits for a topic: one that was created a moment ago may be unknown to the broker that is asked, for a while.
func (k *Kafka) appears(ctx context.Context, topic string, within time.Duration) error {
	bounded, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		_, err := k.describe(ctx, topic)
		if !errors.Is(err, kerr.UnknownTopicOrPartition) || !pause(bounded) {
			return k.explain(err, topic, Describe)
		}
	}
}

// Partitions counts the topic's partitions.
func (k *Kafka) Partitions(ctx context.Context, topic string) (int, error) {
	if err := k.existing(ctx, topic); err != nil {
		return 0, err
	}
	detail, err := k.describe(ctx, topic)
	return len(detail.Partitions), k.explain(err, topic, Describe)
}

// explain says what an error about a topic means to whoever tried to do this with it.
func (k *Kafka) explain(err error, topic string, tried Operation) error {
	right := Right{Resource: Topic, Name: topic, Operations: []Operation{tried}}
	switch {
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return k.denied(err, right)
	case errors.Is(err, kerr.ClusterAuthorizationFailed) && tried == Write:
		return k.denied(err, right, Right{Resource: Cluster, Operations: []Operation{IdempotentWrite}, Why: "before Kafka 2.8 only"})
	}
	return explain(err, topic)
}

func explain(err error, topic string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, ErrClosed), errors.Is(err, ErrLost):
		return err
	case errors.Is(err, kgo.ErrClientClosed):
		return ErrClosed
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		return noTopic(topic)
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		return fmt.Errorf("%w for topic %s: raise its max.message.bytes to at least 1 MiB: %w", ErrTooLarge, topic, err)
	default:
		return fmt.Errorf("topic %s: %w", topic, err)
	}
}
