package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/heartbeat"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/playforward"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/restore"
	"github.com/trickle-verify/trickle/transport"
)

// player brings what came since: this process's own applier, or the user's sink, which is only watched.
type player struct {
	*restoration

	applier *playforward.Applier // nil: the user's sink does it
	log     *transport.Player
	began   time.Time
}

func (r *restoration) player(ctx context.Context) (*player, error) {
	p := &player{restoration: r, began: time.Now()}
	if err := r.ledger.Migrate(ctx); err != nil {
		return nil, err
	}
	if h := r.policy.Gate.Heartbeat; h.Enabled { // beats come by the log as well, and a sink that lacks their table ends
		if err := heartbeat.New(r.pool, h.Replica, r.policy.Pipeline).Create(ctx); err != nil {
			return nil, err
		}
	}
	if !r.options.PlayForward {
		return p, nil
	}
	group := message.Topics{Pipeline: r.policy.Pipeline}.PlayGroup(r.consumer)
	source, err := r.pinned(ctx)
	if err != nil {
		return nil, err
	}
	_, r.events.Database, _ = strings.Cut(source, "/") // by the system and the database
	p.applier, err = playforward.Open(ctx, r.pool, playforward.Options{
		Pipeline: r.policy.Pipeline, Rules: func() *policy.Policy { return r.policy }, Events: r.events, Log: r.Log,
		Commit: func(ctx context.Context, at transport.Position) error { return r.kafka.CommitFor(ctx, group, at) },
		Progress: func(done playforward.Progress) {
			r.tell(RestoreProgress{Phase: PhasePlay, Play: done})
		},
	})
	return p, err
}

func (p *player) close() {
	var err error
	if p.log != nil {
		err = p.log.Close()
	}
	if p.applier != nil {
		done := p.applier.Done()
		p.report.Played = &Played{Applied: done.Applied, Duplicates: done.Duplicates, Incomplete: done.Incomplete, Outside: done.Outside, Seconds: time.Since(p.began).Seconds()}
		err = errors.Join(err, p.applier.Close())
	}
	if err != nil {
		p.Log.Warn("ending to play the log forward", "err", err)
	}
}

// handOver has whoever plays begin at a position.
func (r *restoration) handOver(ctx context.Context, p *player, from transport.Position) error {
	if p.applier != nil {
		return p.applier.Begin(ctx, from)
	}
	to, err := r.ofSink(ctx, from)
	if err != nil {
		return err
	}
	if err := r.kafka.ResetGroup(ctx, r.options.ResetGroup, to); err != nil {
		return r.tooOld(err)
	}
	r.report.Group = r.options.ResetGroup
	begins := "the set's position"
	if !r.report.Loaded {
		begins = "the replica's read point"
	}
	r.note("consumer group %s begins at %s now, in %d topics: start your sink", r.options.ResetGroup, begins, len(to))
	return nil
}

// catchUp waits until the replica has all that is in the logs now.
func (r *restoration) catchUp(ctx context.Context, p *player) error {
	if p.applier == nil {
		return r.awaitSink(ctx)
	}
	if p.log == nil {
		at := p.applier.Position()
		if len(at) == 0 {
			return errors.New("nothing says how far the log was played into this replica: restore it from a set of the base-line view (--set)")
		}
		at, err := r.withLater(ctx, at)
		if err != nil {
			return err
		}
		if p.log, err = r.kafka.Play(ctx, at); err != nil {
			return r.tooOld(err)
		}
	}
	r.Log.Info("playing the log forward")
	if err := p.applier.Run(ctx, p.log, nil); err != nil {
		return r.tooOld(err)
	}
	done := p.applier.Done()
	r.Log.Info("the replica has caught up", "applied", done.Applied, "incomplete", done.Incomplete)
	return nil
}

// tooOld says what to do where the log has lost what came next.
func (r *restoration) tooOld(err error) error {
	if errors.Is(err, transport.ErrLost) {
		return fmt.Errorf("%w: restore from a newer set (--set, with --replace), or fill the replica by a resync (trickle-consumer resync)", err)
	}
	return err
}

// during applies what comes while something else is done, and where that was asked for beyond it, until the context ends.
func (p *player) during(ctx context.Context, do func(context.Context) error) error {
	if p.applier == nil {
		return do(ctx)
	}
	parts, inner := errgroup.WithContext(ctx)
	following, stop := context.WithCancel(inner)
	defer stop()
	parts.Go(func() error {
		err := p.applier.Follow(following, p.log)
		if following.Err() != nil && errors.Is(err, context.Canceled) {
			return nil
		}
		return p.tooOld(err)
	})
	done := false
	parts.Go(func() error {
		if err := do(inner); err != nil {
			return err
		}
		done = true
		if !p.options.Follow {
			stop()
			return nil
		}
		p.Log.Info("following the log; an interrupt ends it")
		p.tell(RestoreProgress{Phase: PhaseFollow})
		return nil
	})
	err := parts.Wait()
	if done && p.options.Follow && ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil // that is how it ends
	}
	return err
}

// withLater adds topics to a position that hold the CDC's log now and were not known there: they are read from their beginning.
func (r *restoration) withLater(ctx context.Context, at transport.Position) (transport.Position, error) {
	patterns, err := cdcTopics(r.policy, r.sourceNames())
	if err != nil {
		return at, nil //nolint:nilerr // then those that are known are all there are
	}
	logs, err := r.kafka.Logs(ctx, patterns)
	if err != nil {
		return nil, err
	}
	out := slices.Clone(at)
	for _, l := range logs {
		if _, known := at.Of(l.Topic); !known {
			out = append(out, transport.TopicPosition{Topic: l.Topic})
		}
	}
	slices.SortFunc(out, func(a, b transport.TopicPosition) int { return strings.Compare(a.Topic, b.Topic) })
	return out, nil
}

func (r *restoration) sourceNames() []postgres.Name {
	names := make([]postgres.Name, len(r.tables))
	for i, t := range r.tables {
		names[i] = postgres.ParseName(t)
	}
	return names
}

// start is where a set is to be played on from.
func (r *restoration) start(ctx context.Context, m *baseline.Manifest) (transport.Position, error) {
	from, err := m.Start()
	if err != nil {
		return nil, err
	}
	return r.withLater(ctx, from.Position)
}

// ofSink is the part of a position that a sink reads: the heartbeat's topics are left out, unless the group has committed there, since a sink that does not read them would
// seem to lag behind for ever.
func (r *restoration) ofSink(ctx context.Context, at transport.Position) (transport.Position, error) {
	committed, err := r.kafka.Committed(ctx, r.options.ResetGroup, at.Topics())
	if err != nil {
		return nil, err
	}
	var out transport.Position
	for _, t := range at {
		has, _ := committed.Of(t.Topic)
		reads := slices.ContainsFunc(has.Offsets, func(offset int64) bool { return offset >= 0 })
		if reads || !r.beats(t.Topic) {
			out = append(out, t)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no topic of a table is among %s: check baseline.topics", strings.Join(at.Topics(), ", "))
	}
	return out, nil
}

// beats tells whether a topic carries heartbeats and nothing else.
func (r *restoration) beats(topic string) bool {
	h := r.policy.Gate.Heartbeat.Table
	return strings.HasPrefix(topic, "__debezium-heartbeat") || h != "" && strings.HasSuffix(topic, debezium.Topic("", postgres.ParseName(h)))
}

// finish makes what holds only once CDC has caught up. The log's end may lie within a transaction that wrote several tables, and then that does not hold there, but a little later.
func (r *restoration) finish(ctx context.Context, m *baseline.Manifest, restorer *restore.Restorer, p *player) (restore.Finished, error) {
	const tries, apart = 5, 500 * time.Millisecond
	var made []string
	for try := 1; ; try++ {
		if err := r.catchUp(ctx, p); err != nil {
			return restore.Finished{}, err
		}
		f, err := restorer.Finish(ctx, m)
		made = append(made, f.Made...)
		f.Made = made
		if err != nil || try == tries || !slices.ContainsFunc(f.Failed, func(f restore.Failure) bool { return f.Violated() }) {
			return f, err
		}
		r.Log.Info("what does not hold yet is tried again once more has come", "name", f.Failed[0].Name, "table", f.Failed[0].Table)
		select {
		case <-ctx.Done():
			return f, ctx.Err()
		case <-time.After(apart):
		}
	}
}

// proveOnly proves a replica whose set can't be read any more: an index or a constraint that could not be made before it was stopped is not tried again.
func (r *restoration) proveOnly(ctx context.Context, open entry.Restore, why error) error {
	r.note("whether every index and constraint of set %s could be made is not known: %v", open.Set, why)
	return r.proven(ctx, open.ID, nil)
}
