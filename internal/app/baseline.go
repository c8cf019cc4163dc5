package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/transport"
)

// view says where a policy has its base-line view.
func (s Settings) view(p *policy.Policy) baseline.Options {
	return baseline.Options{URL: p.Baseline.URL, Pipeline: p.Pipeline, Secret: []byte(s.SigningKey)}
}

// toBuild makes the folder of a view where it is not there.
func toBuild(o baseline.Options) baseline.Options {
	o.Make = true
	return o
}

// viewOpens refuses to start with a base-line view that can't be opened, as with any setting that is wrong. Whether the store can be reached is another matter: it may be later.
func (s Settings) viewOpens(ctx context.Context, p *policy.Policy) error {
	if p.Baseline.URL == "" {
		return nil
	}
	store, err := baseline.Open(ctx, toBuild(s.view(p)))
	if err != nil {
		return fmt.Errorf("baseline.url: %w", err)
	}
	return store.Close()
}

// logReader is a bus that has logs.
type logReader interface {
	Logs(ctx context.Context, topics []string) ([]transport.Log, error)
}

// viewStatus is how the base-line view stands, as far as can be told from here: nil where the policy has none.
func (s Settings) viewStatus(ctx context.Context, p *policy.Policy, logs logReader) (baseline.Age, error) {
	store, err := baseline.Open(ctx, s.view(p))
	if errors.Is(err, fs.ErrNotExist) {
		return baseline.Age{Reason: err.Error()}, nil
	}
	if err != nil {
		return baseline.Age{}, err
	}
	defer func() { _ = store.Close() }()
	m, err := store.Latest(ctx)
	if errors.Is(err, baseline.ErrNoSet) || baseline.Unusable(err) {
		return baseline.Age{Reason: err.Error()}, nil
	}
	if err != nil {
		return baseline.Age{}, err
	}
	now, err := logs.Logs(ctx, slices.Concat(p.Baseline.Topics, m.Topics()))
	if err != nil {
		return baseline.Age{}, err
	}
	return m.Judge(baseline.Seen{At: time.Now(), Logs: now}, baseline.Seen{}, time.Duration(p.Baseline.Refresh)), nil
}
