package app

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/trickle-verify/trickle/measure"
	"github.com/trickle-verify/trickle/policy"
)

// reload keeps a process's policy what the file says: an edit is put in force, or refused, and then the old one stays and the reason is kept for whoever looks.
type reload struct {
	changed chan struct{} // holds one when the state is not told yet

	mu       sync.Mutex
	current  *policy.Policy
	state    policy.State
	applied  int64
	refusals int64
}

func newReload(p *policy.Policy) *reload {
	r := &reload{changed: make(chan struct{}, 1), current: p, state: p.InForce(time.Now())}
	r.changed <- struct{}{}
	return r
}

// State is as things stand.
func (r *reload) State() policy.State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// watch applies edits of the policy file until the context ends.
func (r *reload) watch(ctx context.Context, s Settings, apply func(*policy.Policy) error) error {
	if !s.Watch {
		return nil
	}
	return policy.Watch(ctx, s.PolicyFile, r.current, func(next *policy.Policy, warnings []policy.Warning, err error) {
		r.edited(s, edit{next, warnings, err}, apply)
	})
}

// edit is what was found in the file.
type edit struct {
	policy   *policy.Policy
	warnings []policy.Warning
	err      error
}

func (r *reload) edited(s Settings, e edit, apply func(*policy.Policy) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() {
		select {
		case r.changed <- struct{}{}:
		default:
		}
	}()
	log := s.Log.With("file", s.PolicyFile)
	if e.err == nil && e.policy.Version() == r.current.Version() {
		r.state.Refused, r.state.RefusedAt = "", nil
		log.Info("the policy file is again what is in force", "version", r.state.Version)
		return
	}
	if e.err == nil && e.policy.Pipeline != r.current.Pipeline {
		e.err = fmt.Errorf("pipeline is %q and can't become %q while it runs: restart", r.current.Pipeline, e.policy.Pipeline)
	}
	if e.err == nil {
		e.err = apply(e.policy)
	}
	if e.err != nil {
		r.refusals++
		r.state = r.state.Refuse(e.err, time.Now())
		log.Error("the edited policy is refused; the old one stays in force", "err", e.err, "version", r.state.Version, "since", r.state.Since)
		return
	}
	for _, w := range e.warnings {
		log.Warn("policy", "warning", w.String())
	}
	if e.policy.Gate.Heartbeat != r.current.Gate.Heartbeat {
		log.Warn("what was edited under gate.heartbeat takes effect when this process is started again")
	}
	r.applied++
	r.current, r.state = e.policy, e.policy.InForce(time.Now())
	log.Info("the edited policy is in force", "version", r.state.Version)
}

// tell hands the state to save whenever it has changed, until the context ends; what could not be saved is tried again.
func (r *reload) tell(ctx context.Context, save func(context.Context, policy.State) error, log *slog.Logger) error {
	const again = 10 * time.Second
	retry := time.NewTimer(again)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.changed:
		case <-retry.C:
		}
		retry.Stop()
		if err := save(ctx, r.State()); err != nil && ctx.Err() == nil {
			log.Debug("which policy is in force could not be recorded; it is tried again", "err", err)
			retry.Reset(again)
		}
	}
}

// Observe registers the state with a meter.
func (r *reload) Observe(meter metric.Meter) error {
	set := measure.On(meter)
	refused := set.Gauge("trickle.policy.refused", "", "1 while what the policy file holds is refused and an older policy stays in force, else 0.")
	since := set.Gauge("trickle.policy.since.timestamp", "s", "When the policy in force came into force, in seconds since 1970.")
	reloads := set.Total("trickle.policy.reloads", "", "Edits of the policy file, by what became of them: `applied` or `refused`.", "result")
	return set.Observe(func(_ context.Context, tell measure.Tell) {
		r.mu.Lock()
		defer r.mu.Unlock()
		tell(refused, measure.Is(r.state.Refused))
		tell(since, float64(r.state.Since.UnixMilli())/1000)
		tell(reloads, float64(r.applied), "applied")
		tell(reloads, float64(r.refusals), "refused")
	})
}
