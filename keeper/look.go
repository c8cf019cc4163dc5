package keeper

import (
	"context"
	"time"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/telemetry/pulse"
)

// look finds out whether the newest set is a restore point. What fails is tried again with the next look; what was seen last stays for a while.
func (k *Keeper) look(ctx context.Context, p *policy.Policy) {
	defer pulse.Away(ctx)() // the store may be, and Kafka
	bounded, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	now := time.Now()
	age, err := k.judge(bounded, p)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		k.lookFailed(err, now)
		return
	}
	k.warned = ""
	var was state
	k.change(func(s *state) {
		was = *s
		s.known, s.age, s.trouble, s.since, s.took = true, age, "", time.Time{}, 0
		if k.set != nil {
			s.took = k.set.Completed.Sub(k.set.Begun)
		}
		s.broken = age.Reason != ""
	})
	k.sayWhether(was, age)
}

// sayWhether tells once that there is no restore point any more, and once that there is one again.
func (k *Keeper) sayWhether(was state, age baseline.Age) {
	switch {
	case age.Reason != "" && !was.broken:
		k.Log.Error("there is no valid restore point: a lost replica can't be restored from the base-line view", "set", age.Set, "reason", age.Reason)
	case age.Reason == "" && was.broken:
		k.Log.Info("there is a valid restore point again", "set", age.Set, "taken", age.Taken)
	}
}

// lookFailed keeps what was known for a while: the store, or Kafka, may be back in a moment.
func (k *Keeper) lookFailed(err error, now time.Time) {
	if k.warned != reason(err) {
		k.warned = reason(err)
		k.Log.Warn("whether the base-line view is a restore point can't be told now", "err", err)
	}
	var was state
	var age baseline.Age
	k.change(func(s *state) {
		was = *s
		s.trouble = reason(err)
		if s.since.IsZero() {
			s.since = now
		}
		if now.Sub(s.since) < patience && s.known {
			age = s.age
			return
		}
		s.known = true
		s.age.Reason = "it can't be judged: " + reason(err)
		s.broken, age = true, s.age
	})
	k.sayWhether(was, age)
}

// judge loads the newest set, if it has not yet, and holds it against the logs.
func (k *Keeper) judge(ctx context.Context, p *policy.Policy) (baseline.Age, error) {
	if k.store == nil {
		store, err := k.Open(ctx, p)
		if err != nil {
			return baseline.Age{}, err
		}
		k.store = store
	}
	set, err := k.store.Newest(ctx)
	if err != nil {
		return baseline.Age{}, err
	}
	if set == "" {
		k.set = nil
		if _, err := k.Logs(ctx, p, new(baseline.Manifest)); err != nil { // it would be no use to begin
			return baseline.Age{}, err
		}
		return baseline.Age{Reason: "there is no complete set yet"}, nil
	}
	if k.set == nil || k.set.Set != set {
		k.set = nil
		m, err := k.store.Load(ctx, set)
		if baseline.Unusable(err) {
			return baseline.Age{Set: set, Reason: err.Error()}, nil
		}
		if err != nil {
			return baseline.Age{}, err
		}
		k.set, k.checked = m, time.Time{}
	}
	if k.set.Source != k.Source {
		return baseline.Age{Set: set, Reason: "it is of source " + k.set.Source + ", and this publisher reads " + k.Source}, nil
	}
	if err := k.check(ctx); err != nil {
		return baseline.Age{}, err
	}
	if k.faulty != "" {
		return baseline.Age{Set: set, Reason: k.faulty}, nil
	}
	logs, err := k.Logs(ctx, p, k.set)
	if err != nil {
		return baseline.Age{}, err
	}
	now := baseline.Seen{At: time.Now(), Logs: logs}
	k.history.add(now)
	return k.set.Judge(now, k.history.first(), time.Duration(p.Baseline.Refresh)), nil
}

// check makes sure, now and then, that the set's objects are there: somebody else may remove them, such as a rule of the bucket.
func (k *Keeper) check(ctx context.Context) error {
	if !k.checked.IsZero() && time.Since(k.checked) < checkEvery {
		return nil
	}
	err := k.store.Check(ctx, k.set)
	if err != nil && !baseline.Unusable(err) {
		return err
	}
	k.checked, k.faulty = time.Now(), ""
	if err != nil {
		k.faulty = err.Error()
	}
	return nil
}

// history is what the logs were earlier, so that it shows how fast they lose their beginnings.
type history struct{ seen []baseline.Seen }

const (
	noteEvery = 5 * time.Minute
	notedFor  = 6 * time.Hour
)

func (h *history) add(s baseline.Seen) {
	if n := len(h.seen); n > 0 && s.At.Sub(h.seen[n-1].At) < noteEvery {
		return
	}
	h.seen = append(h.seen, s)
	for len(h.seen) > 1 && s.At.Sub(h.seen[0].At) > notedFor {
		h.seen = h.seen[1:]
	}
}

func (h *history) first() baseline.Seen {
	if len(h.seen) == 0 {
		return baseline.Seen{}
	}
	return h.seen[0]
}
