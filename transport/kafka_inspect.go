package transport

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Inspect looks what the cluster has for each spec, in their order, and changes nothing.
func (k *Kafka) Inspect(ctx context.Context, specs ...TopicSpec) ([]TopicState, error) {
	names := make([]string, len(specs))
	for i, s := range specs {
		names[i] = s.Name
	}
	if len(names) == 0 {
		return nil, nil // no name would mean all topics
	}
	found, err := k.metadata(ctx, names)
	if err != nil {
		return nil, fmt.Errorf("asking Kafka for topics: %w", err)
	}
	states := make([]TopicState, len(specs))
	var there []string
	for i, s := range specs {
		t := found[s.Name]
		states[i] = TopicState{Spec: s, Allowed: operations(t.AuthorizedOperations), Partitions: len(t.Partitions)}
		switch err := kerr.ErrorForCode(t.ErrorCode); {
		case errors.Is(err, kerr.TopicAuthorizationFailed):
			states[i].Denied = true
		case errors.Is(err, kerr.UnknownTopicOrPartition):
		case err != nil:
			return nil, explain(err, s.Name)
		default:
			states[i].Exists = true
			for _, p := range t.Partitions {
				states[i].Replicas = max(states[i].Replicas, len(p.Replicas))
			}
			there = append(there, s.Name)
		}
	}
	settings, err := k.settings(ctx, there)
	if err != nil {
		return nil, err
	}
	for i := range states {
		if states[i].Exists {
			states[i].Settings = settings[states[i].Spec.Name]
			states[i].judge(k.options.Brokers)
		}
	}
	return states, nil
}

// metadata waits out whatever passes; what is wrong with one topic is left to the caller, where kadm would hide the others behind it.
func (k *Kafka) metadata(ctx context.Context, names []string) (map[string]kmsg.MetadataResponseTopic, error) {
	ask := kmsg.NewPtrMetadataRequest()
	ask.IncludeTopicAuthorizedOperations = true
	for _, name := range names {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = &name
		ask.Topics = append(ask.Topics, t)
	}
	found := map[string]kmsg.MetadataResponseTopic{}
	err := k.patient(ctx, func() error {
		answer, err := ask.RequestWith(ctx, k.client)
		if err != nil {
			return err
		}
		for _, t := range answer.Topics {
			if err := kerr.ErrorForCode(t.ErrorCode); !errors.Is(err, kerr.UnknownTopicOrPartition) && passing(err) != nil {
				return err
			}
			if t.Topic != nil {
				found[*t.Topic] = t
			}
		}
		return nil
	})
	return found, err
}

// settings reads topics' settings. Those that this login may not read are left out.
func (k *Kafka) settings(ctx context.Context, topics []string) (map[string]map[string]string, error) {
	out := map[string]map[string]string{}
	if len(topics) == 0 {
		return out, nil
	}
	ask := kmsg.NewPtrDescribeConfigsRequest()
	for _, name := range topics {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, name
		ask.Resources = append(ask.Resources, r)
	}
	var answer *kmsg.DescribeConfigsResponse
	if err := k.patient(ctx, func() (err error) {
		answer, err = ask.RequestWith(ctx, k.client)
		return err
	}); err != nil {
		return nil, fmt.Errorf("asking Kafka for the settings of topics: %w", err)
	}
	for _, r := range answer.Resources {
		if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
			k.options.Logger.Debug("a topic's settings can't be read", "topic", r.ResourceName, "err", err)
			continue
		}
		out[r.ResourceName] = map[string]string{}
		for _, c := range r.Configs {
			if c.Value != nil {
				out[r.ResourceName][c.Name] = *c.Value
			}
		}
	}
	return out, nil
}
