package keeper

import (
	"context"
	"fmt"
	"time"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/scheduler"
	"github.com/trickle-verify/trickle/telemetry/pulse"
)

// build is a set that is being built.
type build struct {
	cancel context.CancelCauseFunc
	ended  chan struct{}

	// Once it has ended.
	set *baseline.Manifest
	err error
}

// stop ends it and waits for that.
func (b *build) stop(why error) {
	b.cancel(why)
	<-b.ended
}

// beginning is what a set is called that has no name yet.
const beginning = "beginning"

// begin starts a build in a goroutine that collect, or leave, waits for.
func (k *Keeper) begin(ctx context.Context, p *policy.Policy) {
	ctx, cancel := context.WithCancelCause(pulse.Apart(ctx)) // what it waits for is nothing that the keeper's loop waits for
	b := &build{cancel: cancel, ended: make(chan struct{})}
	k.build = b
	k.change(func(s *state) { s.building = &cursor.Build{Set: beginning, Begun: time.Now()} })
	k.spoke = time.Time{}
	k.tell(ctx, time.Now()) // the other publishers have to hear of it before the first range is read
	k.Log.Info("a set of the base-line view is being built", "reason", k.why())
	store := k.store
	go func() {
		defer close(b.ended)
		pace := k.Desk.Beside()
		defer pace.Close()
		// A closed window is waited for before the set's position is read, which ages from then on.
		if b.err = pace.Wait(ctx); b.err != nil {
			return
		}
		b.set, b.err = k.Build(ctx, Job{Policy: p, Store: store, Pace: pace, Report: k.progress})
	}()
}

// why says what the next set is for.
func (k *Keeper) why() string {
	switch s := k.shown(); {
	case s.age.Reason != "":
		return s.age.Reason
	case s.outdated:
		return errPolicy.Error()
	}
	return "a refresh is due"
}

func (k *Keeper) progress(p Progress) {
	k.change(func(s *state) {
		if b := s.building; b != nil {
			next := *b
			next.Set, next.Tables, next.Done, next.Rows, next.Total, next.Bytes = p.Set, p.Tables, p.Done, p.Rows, p.Total, p.Bytes
			s.building = &next
		}
	})
}

// collect takes up what came of a build that has ended.
func (k *Keeper) collect(ctx context.Context, p *policy.Policy) {
	waiting := k.Desk.Waiting()
	k.change(func(s *state) {
		if b := s.building; b != nil {
			next := *b
			next.Waiting = waiting
			s.building = &next
		}
	})
	b := k.build
	select {
	case <-b.ended:
	default:
		return
	}
	b.cancel(nil)
	k.build = nil
	k.change(func(s *state) { s.building, s.late = nil, "" })
	k.spoke, k.looked = time.Time{}, time.Now()
	if b.err != nil {
		if ctx.Err() == nil {
			k.fail(b.err)
		}
		return
	}
	k.look(ctx, p)
	s := k.shown()
	took := b.set.Completed.Sub(b.set.Begun).Round(time.Second)
	if s.trouble == "" && s.age.Reason != "" && s.age.Set == b.set.Set {
		k.fail(fmt.Errorf("set %s took %s and is no restore point now that it is complete: %s; let the CDC's topics keep more, or raise the ceilings (rate)", b.set.Set, took, s.age.Reason))
		return
	}
	k.change(func(s *state) { s.failures, s.failure, s.retry, s.outdated = 0, "", time.Time{}, false })
	k.Log.Info("a set of the base-line view is complete", "set", b.set.Set, "took", took)
	if s.trouble != "" {
		return
	}
	defer pulse.Away(ctx)() // it removes object after object
	if err := k.store.Prune(ctx, p.Baseline.Keep); err != nil && ctx.Err() == nil {
		k.Log.Warn("old sets of the base-line view are not removed yet", "err", err)
	}
}

// judgePace tells loudly, and once, that the view is going to expire before the next set is ready. The ceilings stay what they are.
func (k *Keeper) judgePace(p *policy.Policy, now time.Time) {
	s := k.shown()
	late := ""
	windows, err := scheduler.NewWindows(p.Schedule.Windows)
	if ready := s.ready(windows, now); err == nil && !ready.IsZero() && s.age.Reason == "" && !s.age.Expires.IsZero() && ready.After(s.age.Expires) {
		late = fmt.Sprintf("the restore point may be lost from %s on, and the next set is ready at about %s: rate, backoff and schedule.windows let it be no sooner; raise them, or let the CDC's topics keep more",
			s.age.Expires.UTC().Format(time.RFC3339), ready.UTC().Format(time.RFC3339))
	}
	k.change(func(s *state) { s.late = late })
	if late != "" && s.late == "" {
		k.Log.Error("the base-line view expires before it can be refreshed", "set", s.age.Set, "reason", late)
	}
}

// fewest is the part of a build after which it shows how long all of it takes.
const fewest = 0.02

// ready is when the next set is likely to be complete; zero where that can't be told.
func (s state) ready(windows scheduler.Windows, now time.Time) time.Time {
	if b := s.building; b != nil {
		if done := float64(b.Rows) / float64(max(b.Total, 1)); b.Rows > 0 && done >= fewest {
			return b.Begun.Add(time.Duration(float64(now.Sub(b.Begun)) / min(done, 1)))
		}
	}
	if s.took <= 0 {
		return time.Time{}
	}
	start := now
	if b := s.building; b != nil && b.Rows > 0 {
		start = b.Begun
	} else if b == nil {
		for _, t := range []time.Time{s.age.RefreshDue, s.retry} {
			if t.After(start) {
				start = t
			}
		}
	}
	if !windows.Open(start) {
		if start = windows.Next(start); start.IsZero() {
			return time.Time{}
		}
	}
	return start.Add(s.took)
}
