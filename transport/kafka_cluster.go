package transport

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
)

// ClusterState is what the brokers say about themselves.
type ClusterState struct {
	Brokers int
	Version string // a guess from what they speak, "v4.1"
}

// Cluster asks who answers.
func (k *Kafka) Cluster(ctx context.Context) (ClusterState, error) {
	meta, err := k.admin.BrokerMetadata(ctx)
	if err != nil {
		return ClusterState{}, fmt.Errorf("asking Kafka for its brokers: %w", err)
	}
	versions, err := k.admin.ApiVersions(ctx)
	if err != nil {
		return ClusterState{}, fmt.Errorf("asking Kafka what it speaks: %w", err)
	}
	c := ClusterState{Brokers: len(meta.Brokers)}
	for _, id := range slices.Sorted(maps.Keys(versions)) {
		v := versions[id]
		if v.Err != nil {
			return c, fmt.Errorf("broker %d does not answer: %w", id, v.Err)
		}
		c.Version = v.VersionGuess()
	}
	return c, nil
}

// CanCreate asks whether Ensure would be let make a topic, without making it. A right that is missing is a *NotCreatedError.
func (k *Kafka) CanCreate(ctx context.Context, spec TopicSpec) error {
	config := map[string]*string{}
	for _, s := range spec.Config() {
		config[s.Name] = &s.Value
	}
	answers, err := k.admin.ValidateCreateTopics(ctx, spec.partitions(), -1, config, spec.Name)
	if err != nil {
		return fmt.Errorf("asking Kafka whether topic %s may be made: %w", spec.Name, err)
	}
	answer := answers[spec.Name]
	switch {
	case answer.Err == nil, errors.Is(answer.Err, kerr.TopicAlreadyExists):
		return nil
	case errors.Is(answer.Err, kerr.TopicAuthorizationFailed), errors.Is(answer.Err, kerr.ClusterAuthorizationFailed):
		return &NotCreatedError{Topics: []TopicSpec{spec}, Brokers: k.options.Brokers, Principal: k.options.Security.Principal(), Err: answer.Err}
	default:
		return fmt.Errorf("the brokers would not make topic %s: %w: %s", spec.Name, answer.Err, answer.ErrMessage)
	}
}
