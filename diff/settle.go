package diff

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

const (
	// mostPending bounds the batches of suspects that wait for their time; behind that the comparison waits with them.
	mostPending = 100
	// rounds is how often a row that keeps changing is looked at again.
	rounds = 3
)

// settler looks at suspects again once CDC has had its time. That time stands in for a measured lag: what was committed at the source more than
// Settle ago has reached the replica. The proof rules are those of package drift.
type settler struct {
	c     *comparison
	queue chan suspects
	// place is held by who reads outside of the snapshots: one at a time, so that a server with one connection left will do.
	place chan struct{}
}

// suspects are keys that differed when they were looked at together.
type suspects struct {
	keys      []message.Key
	sightings []drift.Sighting
	// at is the source's clock before they were looked at, and xmin the oldest transaction that was running then.
	at   time.Time
	xmin uint64
	due  time.Time
}

func newSettler(c *comparison) *settler {
	return &settler{c: c, queue: make(chan suspects, mostPending), place: make(chan struct{}, 1)}
}

// enter waits for the place to read outside of the snapshots, until leave.
func (s *settler) enter(ctx context.Context) error {
	select {
	case s.place <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *settler) leave() { <-s.place }

// close says that no more will come.
func (s *settler) close() { close(s.queue) }

// add takes the first look at keys and queues those that differ; it waits while the queue is full.
func (s *settler) add(ctx context.Context, keys []message.Key) error {
	first, err := s.look(ctx, suspects{keys: keys})
	if err != nil {
		return err
	}
	if first = first.only(func(i int) bool { return !first.sightings[i].Equal() }); len(first.keys) == 0 {
		return nil
	}
	select {
	case s.queue <- first:
		s.c.differ.opts.Progress.wait(len(first.keys))
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run looks at everything that is queued when its time has come, and again at what still moved, until nothing is left.
func (s *settler) run(ctx context.Context) error {
	var moving []suspects
	for batch := range s.queue {
		again, err := s.runOnce(ctx, batch)
		if err != nil {
			return err
		}
		if len(again.keys) > 0 && len(moving) < mostPending {
			moving = append(moving, again)
		} else {
			s.unsettled(len(again.keys))
		}
	}
	for range rounds - 2 {
		var still []suspects
		for _, batch := range moving {
			again, err := s.runOnce(ctx, batch)
			if err != nil {
				return err
			}
			if len(again.keys) > 0 {
				still = append(still, again)
			}
		}
		moving = still
	}
	for _, batch := range moving {
		s.unsettled(len(batch.keys))
	}
	return nil
}

// runOnce waits until a batch is due, reports what is proven, and returns what is not.
func (s *settler) runOnce(ctx context.Context, batch suspects) (suspects, error) {
	timer := time.NewTimer(time.Until(batch.due))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return suspects{}, ctx.Err()
	}
	now, err := s.look(ctx, batch)
	if err != nil {
		return suspects{}, err
	}
	verdicts := make([]drift.Verdict, len(batch.keys))
	var found []Wrong
	for i := range batch.keys {
		now.sightings[i].Through = now.at.Add(-s.c.differ.opts.Settle)
		verdicts[i] = drift.Judge(&batch.sightings[i], now.sightings[i])
		if verdicts[i] == drift.Proven && moved(batch.sightings[i].Replica, now.sightings[i].Replica) {
			verdicts[i] = drift.InFlight
		}
		if verdicts[i] == drift.Proven {
			found = append(found, Wrong{batch.keys[i], now.sightings[i].Kind()})
		}
	}
	if err := s.c.proven(ctx, found); err != nil {
		return suspects{}, err
	}
	again := now.only(func(i int) bool { return verdicts[i] == drift.InFlight })
	s.c.differ.opts.Progress.wait(len(again.keys) - len(batch.keys))
	return again, nil
}

// moved tells that the replica's row was written between two looks. A measured lag would say what that means; here it shows that CDC may be further behind
// than it was given time for.
func moved(before, now drift.Observed) bool {
	return before.Present != now.Present || before.Version != now.Version
}

// look reads the clock, then the replica, then the source. Rows whose writers had ended before the last look count as settled.
func (s *settler) look(ctx context.Context, last suspects) (suspects, error) {
	if err := s.enter(ctx); err != nil {
		return suspects{}, err
	}
	defer s.leave()
	source, replica := s.c.sides[0], s.c.sides[1]
	now := suspects{keys: last.keys, sightings: make([]drift.Sighting, len(last.keys))}
	sample, err := postgres.NewSource(source.pool).Sample(ctx)
	if err != nil {
		return suspects{}, source.on(err)
	}
	now.at, now.xmin = sample.Time, sample.Xmin
	err = replica.borrow(ctx, func(conn *pgconn.PgConn) error {
		rows, err := replica.layout.Rows(ctx, conn, last.keys, postgres.Want{Digest: s.c.kind})
		for i, r := range rows {
			now.sightings[i].Replica = drift.Observed{Key: last.keys[i], Present: r.Present, Version: r.Version, Digest: r.Digest}
		}
		return err
	})
	if err != nil {
		return suspects{}, replica.on(err)
	}
	err = postgres.NewSource(source.pool).Read(ctx, source.layout, func(conn *pgconn.PgConn, at postgres.At) error {
		rows, err := source.layout.Rows(ctx, conn, last.keys, postgres.Want{Digest: s.c.kind, Settled: postgres.Settled{Xmin: last.xmin}})
		for i, r := range rows {
			now.sightings[i].Source = drift.Fetched{Present: r.Present, Version: r.Version, Digest: r.Digest, Settled: r.Settled, ReadAt: at.Time}
		}
		return err
	})
	now.due = time.Now().Add(s.c.differ.opts.Settle)
	return now, source.on(err)
}

// only keeps some of the suspects.
func (b suspects) only(keep func(int) bool) suspects {
	out := suspects{at: b.at, xmin: b.xmin, due: b.due}
	for i, k := range b.keys {
		if keep(i) {
			out.keys = append(out.keys, k)
			out.sightings = append(out.sightings, b.sightings[i])
		}
	}
	return out
}

func (s *settler) unsettled(rows int) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.result.Unsettled += int64(rows)
}
