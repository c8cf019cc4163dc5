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

// Require fails with a *RightsError when this login lacks one of the rights.
func (k *Kafka) Require(ctx context.Context, rights ...Right) error {
	lacking, err := k.Lacking(ctx, rights...)
	if err != nil || len(lacking) == 0 {
		return err
	}
	return k.denied(nil, lacking...)
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

func (k *Kafka) denied(err error, rights ...Right) *RightsError {
	return &RightsError{Rights: rights, Brokers: k.options.Brokers, Principal: k.options.Security.Principal(), Err: err}
}

func (k *Kafka) noGroup(group string, err error) error {
	return k.denied(err, Right{Resource: Group, Name: group, Operations: []Operation{Read}})
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
