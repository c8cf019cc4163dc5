package transport

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
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

// Lacking returns what this login misses of the rights, as far as the cluster tells: nothing of topics that begin with a prefix, or of
// what does not exist yet.
func (k *Kafka) Lacking(ctx context.Context, rights ...Right) ([]Right, error) {
	var topics, groups []string
	for _, r := range rights {
		switch {
		case r.Prefix:
		case r.Resource == Topic:
			topics = append(topics, r.Name)
		case r.Resource == Group:
			groups = append(groups, r.Name)
		}
	}
	allowed := map[Resource]map[string][]Operation{Topic: {}, Group: {}}
	specs := make([]TopicSpec, len(topics))
	for i, t := range topics {
		specs[i].Name = t
	}
	states, err := k.Inspect(ctx, specs...)
	if err != nil {
		return nil, err
	}
	for _, s := range states {
		switch {
		case s.Denied:
			allowed[Topic][s.Spec.Name] = []Operation{}
		case s.Allowed != nil:
			allowed[Topic][s.Spec.Name] = s.Allowed
		}
	}
	if err := k.allowedGroups(ctx, groups, allowed[Group]); err != nil {
		return nil, err
	}
	var lacking []Right
	for _, r := range rights {
		can, told := allowed[r.Resource][r.Name]
		if r.Prefix || !told {
			continue
		}
		if missing, ok := r.lacking(can); ok {
			lacking = append(lacking, missing)
		}
	}
	return lacking, nil
}

func (k *Kafka) allowedGroups(ctx context.Context, groups []string, allowed map[string][]Operation) error {
	for _, name := range groups {
		var found kadm.DescribedGroups
		err := k.patient(ctx, func() (err error) {
			found, err = k.admin.DescribeGroups(ctx, name)
			return cmp.Or(err, passing(found[name].Err))
		})
		var denied *kadm.AuthError
		switch g := found[name]; {
		case errors.As(err, &denied), errors.Is(err, kerr.GroupAuthorizationFailed), errors.Is(g.Err, kerr.GroupAuthorizationFailed):
			allowed[name] = []Operation{}
		case err != nil:
			return fmt.Errorf("asking Kafka for the consumer group %s: %w", name, err)
		case g.AuthorizedOperations != nil:
			allowed[name] = []Operation{}
			for _, o := range g.AuthorizedOperations {
				allowed[name] = append(allowed[name], operation(o))
			}
		}
	}
	return nil
}

// passing is an error that waiting may cure, nil for others.
func passing(err error) error {
	if err != nil && transient(err) {
		return err
	}
	return nil
}

// Require fails with a *RightsError when this login lacks one of the rights.
func (k *Kafka) Require(ctx context.Context, rights ...Right) error {
	lacking, err := k.Lacking(ctx, rights...)
	if err != nil || len(lacking) == 0 {
		return err
	}
	return k.denied(nil, lacking...)
}

func (k *Kafka) denied(err error, rights ...Right) *RightsError {
	return &RightsError{Rights: rights, Brokers: k.options.Brokers, Principal: k.options.Security.Principal(), Err: err}
}

// operations decodes those that trickle knows; nil where the cluster told none.
func operations(bits int32) []Operation {
	var out []Operation
	for _, o := range kadm.DecodeACLOperations(bits) {
		if known := operation(o); known != "" {
			out = append(out, known)
		}
	}
	return out
}

func operation(o kmsg.ACLOperation) Operation {
	switch o {
	case kmsg.ACLOperationRead:
		return Read
	case kmsg.ACLOperationWrite:
		return Write
	case kmsg.ACLOperationCreate:
		return Create
	case kmsg.ACLOperationDescribe:
		return Describe
	case kmsg.ACLOperationDescribeConfigs:
		return DescribeConfigs
	default:
		return ""
	}
}
