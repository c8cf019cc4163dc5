// Package keeper keeps the base-line view fresh while the publisher runs.
//
// It decides when the next set is built, and whether the newest one is a restore point: whether the CDC's logs still hold all that came after it. What
// always holds: one publisher builds, the owner of the first share of the cursors, and another goes on from what is stored when that one is gone; a
// build goes by the same windows, ceilings and backoff as the scan, and never faster, not even where a view expires meanwhile: that is told instead; old sets go
// only after a newer one is complete and is a restore point. Whatever fails, the store, the logs or a table, is told with its reason and tried again, and
// verification goes on.
package keeper

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/scheduler"
	"github.com/trickle-verify/trickle/telemetry/pulse"
	"github.com/trickle-verify/trickle/transport"
)

// Store is where sets are kept.
type Store interface {
	// Newest names the newest complete set; none is no error, and an empty name.
	Newest(ctx context.Context) (string, error)
	Load(ctx context.Context, set string) (*baseline.Manifest, error)
	// Check makes sure that every object of a set is there.
	Check(ctx context.Context, m *baseline.Manifest) error
	// Prune leaves the newest sets, and of everything else what a build under way needs.
	Prune(ctx context.Context, keep int) error
	Close() error
}

// Pace is what a build goes by; see scheduler.Beside.
type Pace interface {
	Wait(ctx context.Context) error
	Spent(c scheduler.Cost)
	Close()
}

// Desk is the publisher's scheduler.
type Desk interface {
	// Leads tells whether this publisher is the one that builds.
	Leads() bool
	// Beside begins work beside the scan.
	Beside() Pace
	// Tell lets the other publishers know, and whoever asks for the status.
	Tell(ctx context.Context, b cursor.Build) error
	// Waiting is what holds the work beside the scan; empty: nothing.
	Waiting() string
}

// Job is one build.
type Job struct {
	Policy *policy.Policy
	Store  Store
	Pace   Pace
	// Report is called now and then.
	Report func(Progress)
}

// Progress is how far a build is.
type Progress struct {
	Set          string
	Tables, Done int
	Rows, Total  uint64 // so far, and as many as there seem to be
	Bytes        int64  // written to the store
}

// Parts are what a keeper works with.
type Parts struct {
	Desk Desk
	// Source is the publisher's source: a set of another one is no restore point.
	Source string
	// Open opens the store that a policy names.
	Open func(ctx context.Context, p *policy.Policy) (Store, error)
	// Logs are the CDC's under a policy and, in case that has changed, those of a set, as they are now.
	Logs func(ctx context.Context, p *policy.Policy, of *baseline.Manifest) ([]transport.Log, error)
	// Build builds a set and returns its manifest once it is complete.
	Build func(ctx context.Context, j Job) (*baseline.Manifest, error)
	// Announce tells replicas of a set.
	Announce func(ctx context.Context, m *baseline.Manifest) error
	Log      *slog.Logger
}

const (
	stepEvery  = time.Second
	lookEvery  = 30 * time.Second
	lookWithin = 2 * time.Minute
	// checkEvery is how often it is made sure that the set's objects are there: that lists them all.
	checkEvery = time.Hour
	// patience is for how long a look may fail before what was seen last counts no more.
	patience   = 5 * time.Minute
	firstRetry = 30 * time.Second
	lastRetry  = 30 * time.Minute
)

// Keeper keeps one view. Run is called once; the other methods may be called from any goroutine.
type Keeper struct {
	Parts

	changed chan struct{} // the policy has

	// Only Run's goroutine uses these.
	applied   *policy.Policy
	store     Store
	at        string // URL of the store
	set       *baseline.Manifest
	checked   time.Time // that its objects are there
	faulty    string    // what was wrong with these
	looked    time.Time
	history   history
	announced string // a set
	warned    string // of a look that failed
	tried     time.Time
	spoke     time.Time // told last
	build     *build    // nil: none is under way

	mu     sync.Mutex
	policy *policy.Policy
	state  state
}

// state is what is shown.
type state struct {
	leads    bool
	known    bool // whether there is a restore point
	age      baseline.Age
	took     time.Duration // the newest set's building
	trouble  string        // why nothing newer is known
	since    time.Time     // of the trouble
	late     string        // why it is not refreshed in time
	building *cursor.Build
	outdated bool   // the policy asks for other tables or topics than when the newest set was begun
	failures int    // in a row
	failed   uint64 // in all
	failure  string
	retry    time.Time
	broken   bool // it was told that it is no restore point
}

// New keeps the view that a policy names, if it does.
func New(p *policy.Policy, parts Parts) *Keeper {
	if parts.Log == nil {
		parts.Log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{Parts: parts, policy: p, changed: make(chan struct{}, 1)}
}

// SetPolicy takes effect at once. Where other tables, or other topics, are asked for, the next set is due: a build under way is begun anew, and uses what it has.
func (k *Keeper) SetPolicy(p *policy.Policy) {
	k.mu.Lock()
	k.policy = p
	k.mu.Unlock()
	select {
	case k.changed <- struct{}{}:
	default: // it will be seen
	}
}

// Run works until the context ends.
func (k *Keeper) Run(ctx context.Context) error {
	defer k.end()
	ctx, end := pulse.Loop(ctx, "keeping the base-line view")
	defer end()
	for ctx.Err() == nil {
		k.runOnce(ctx)
		if k.at == "" { // the policy has no base-line view
			pulse.Idle(ctx)
		} else {
			pulse.Beat(ctx)
		}
		timer := time.NewTimer(stepEvery)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-k.changed:
			k.looked = time.Time{}
		}
		timer.Stop()
	}
	return context.Cause(ctx)
}

var (
	errPolicy  = errors.New("the policy asks for other tables or topics")
	errMoved   = errors.New("the policy names another store, or none")
	errNotMine = errors.New("another publisher builds now")
	errEnded   = errors.New("the publisher ends")
)

// runOnce takes one step.
func (k *Keeper) runOnce(ctx context.Context) {
	k.mu.Lock()
	p := k.policy
	k.mu.Unlock()
	if k.at != p.Baseline.URL {
		k.leaving(ctx, errMoved)
		k.at = p.Baseline.URL
		k.change(func(s *state) { *s = state{failed: s.failed} })
	}
	k.adopt(ctx, p)
	leads := k.at != "" && k.Desk.Leads()
	if !leads {
		k.leaving(ctx, errNotMine)
		k.change(func(s *state) { *s = state{failed: s.failed} })
		return
	}
	k.change(func(s *state) { s.leads = true })
	now := time.Now()
	if k.build != nil {
		k.collect(ctx, p)
	}
	if k.looked.IsZero() || now.Sub(k.looked) >= lookEvery {
		k.looked = now
		k.look(ctx, p)
	}
	k.announce(ctx)
	if k.build == nil && k.due(now) {
		k.begin(ctx, p)
	}
	k.judgePace(p, now)
	k.tell(ctx, now)
}

// adopt takes note of what another policy means for the sets.
func (k *Keeper) adopt(ctx context.Context, p *policy.Policy) {
	was := k.applied
	k.applied = p
	if was == nil || was == p || reflect.DeepEqual(was.Tables, p.Tables) && reflect.DeepEqual(was.Baseline, p.Baseline) && was.Resync.Debezium.TopicPrefix == p.Resync.Debezium.TopicPrefix {
		return
	}
	if k.build != nil {
		back := pulse.Away(ctx) // the build may be with the store, or a database
		k.build.stop(errPolicy)
		back()
		k.build = nil
		k.change(func(s *state) { s.building = nil })
	}
	k.change(func(s *state) { s.outdated = true })
}

// change changes what is shown.
func (k *Keeper) change(fn func(*state)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fn(&k.state)
}

func (k *Keeper) shown() state {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state
}

// leave ends the build and lets go of the store.
func (k *Keeper) leave(why error) {
	if k.build != nil {
		k.build.stop(why)
		k.build = nil
		k.Log.Info("building a set of the base-line view was left; the next one goes on from it", "reason", why)
	}
	if k.store != nil {
		if err := k.store.Close(); err != nil {
			k.Log.Debug("closing the store of the base-line view", "err", err)
		}
	}
	k.store, k.set, k.looked, k.history, k.announced, k.warned, k.spoke = nil, nil, time.Time{}, history{}, "", "", time.Time{}
}

// leaving does so while the loop is watched: the build may be with the store, or a database.
func (k *Keeper) leaving(ctx context.Context, why error) {
	defer pulse.Away(ctx)()
	k.leave(why)
}

func (k *Keeper) end() { k.leave(errEnded) }

// due tells whether the next set is to be begun.
func (k *Keeper) due(now time.Time) bool {
	s := k.shown()
	if !s.known || s.trouble != "" || now.Before(s.retry) {
		return false
	}
	return s.age.Reason != "" || s.outdated || !now.Before(s.age.RefreshDue)
}

// fail notes that building came to nothing.
func (k *Keeper) fail(err error) {
	var failures int
	var retry time.Time
	k.change(func(s *state) {
		s.failures++
		s.failed++
		wait := min(firstRetry<<min(s.failures-1, 10), lastRetry)
		s.failure, s.retry = err.Error(), time.Now().Add(wait)
		failures, retry = s.failures, s.retry
	})
	k.Log.Error("building a set of the base-line view failed and is tried again", "err", err, "failures", failures, "retry_at", retry)
}

// announce tells replicas of the newest set, once.
func (k *Keeper) announce(ctx context.Context) {
	if s := k.shown(); k.set == nil || !s.known || s.age.Reason != "" || k.announced == k.set.Set {
		return
	}
	if time.Since(k.tried) < firstRetry {
		return
	}
	if err := k.Announce(ctx, k.set); err != nil {
		k.tried = time.Now()
		k.Log.Warn("replicas are not told of the newest set of the base-line view yet", "set", k.set.Set, "err", err)
		return
	}
	k.announced = k.set.Set
}

// tell lets others know how the build stands: regularly while there is one, and when that changes.
func (k *Keeper) tell(ctx context.Context, now time.Time) {
	s := k.shown()
	b := cursor.Build{Failures: s.failures, Failure: s.failure, Retry: s.retry}
	if s.building != nil {
		b = *s.building
		b.Failures, b.Failure = s.failures, s.failure
	}
	every := scheduler.TellEvery
	if s.building == nil {
		every = lookEvery // so that nobody takes what an owner of earlier told last for the truth
	}
	if now.Sub(k.spoke) < every {
		return
	}
	k.spoke = now
	b.Told = now
	if err := k.Desk.Tell(ctx, b); err != nil && ctx.Err() == nil && !errors.Is(err, cursor.ErrNotMine) {
		k.Log.Warn("telling how the base-line view is being built", "err", err)
	}
}

// reason is why a look failed, in few words.
func reason(err error) string { return cmp.Or(err.Error(), "unknown") }
