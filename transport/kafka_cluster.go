package transport

import (
	"context"
	"fmt"
	"maps"
	"slices"
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
