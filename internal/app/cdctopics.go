package app

import (
	"errors"
	"slices"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
)

// errNoTopics is why no set is built, and none checked against the logs.
var errNoTopics = errors.New("which topics hold the CDC's log is not known: name them in baseline.topics, or the connector's prefix in resync.debezium.topic_prefix")

// cdcTopics are the topics that hold the CDC's log under a policy: those that it names, as patterns; else those that a connector has for the tables, as the source calls
// them, that the policy covers and for the heartbeat. Tables that it does not cover are left out.
func cdcTopics(p *policy.Policy, tables []postgres.Name) ([]string, error) {
	if len(p.Baseline.Topics) > 0 {
		return slices.Clone(p.Baseline.Topics), nil
	}
	prefix := p.Resync.Debezium.TopicPrefix
	if prefix == "" {
		return nil, errNoTopics
	}
	var topics []string
	if p.Gate.Heartbeat.Enabled {
		topics = append(topics, debezium.Topic(prefix, postgres.ParseName(p.Gate.Heartbeat.Table)))
	}
	for _, t := range tables {
		if _, covered := p.For(t.Schema, t.Table); covered {
			topics = append(topics, debezium.Topic(prefix, t))
		}
	}
	slices.Sort(topics)
	return slices.Compact(topics), nil
}
