package scheduler

import (
	"context"
	"time"

	"github.com/trickle-verify/trickle/cursor"
)

// Cost is what a piece of work on the source took.
type Cost struct {
	Start, End time.Time
	Rows       int           // read
	Bytes      int64         // sent
	Source     time.Duration // for which a query was running on the source
}

// Beside is other work of this publisher on the source, such as building a set of the base-line view. It goes by the scan's windows, ceilings and
// backoff: while it is under way each of the two has half of them, so that together they stay within all. Its methods belong to one goroutine.
type Beside struct {
	s    *Scheduler
	from time.Time // what was done before has used up its share then
	last work      // the zero value before the first piece
}

// halved is the part of the ceilings that the scan and what is done beside it have each.
const halved = 0.5

// Beside begins such work, once Tell has told of it. There is one at a time; Close ends it.
func (s *Scheduler) Beside() *Beside {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beside = &Beside{s: s, from: s.besideUntil}
	if s.shares.Of > 1 {
		s.beside.from = latest(s.besideUntil, time.Now().Add(hearing))
	}
	return s.beside
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Close gives the scan back what it had, once the last piece has used up its share.
func (b *Beside) Close() {
	s := b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.beside == b {
		s.beside, s.besideUntil, s.besideWaits = nil, b.next(time.Now()).at, ""
	}
}

// Spent tells what a piece cost.
func (b *Beside) Spent(c Cost) {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	b.last = work{c.Start, c.End, c.Rows, c.Bytes, c.Source}
}

// Wait returns when the next piece may begin, or the context's error.
func (b *Beside) Wait(ctx context.Context) error {
	for {
		now := time.Now()
		b.s.measure(ctx, now)
		b.s.mu.Lock()
		d := b.next(now)
		b.s.besideWaits = ""
		if d.at.After(now) {
			b.s.besideWaits = d.reason
		}
		b.s.mu.Unlock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !d.at.After(now) {
			return nil
		}
		timer := time.NewTimer(earliest(d.at, now.Add(loadEvery)).Sub(now)) // the policy may change, and the source's load
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// next says when the next piece may begin; the lock is held.
func (b *Beside) next(now time.Time) decision {
	s := b.s
	if !s.windows.Open(now) {
		opens := s.windows.Next(now)
		if opens.IsZero() {
			opens = now.Add(horizon)
		}
		return decision{opens, ByWindow, "window closed until " + opens.Format(time.RFC3339)}
	}
	if b.last.start.IsZero() {
		return decision{b.from, ByCeilings, "the ceilings: the scan gives half of them up"}
	}
	return s.backoff.hold(b.last, ceilings(b.last, s.policy.Rate, halved), halved)
}

// Waiting is what holds the work beside the scan now; empty: nothing, or there is none.
func (s *Scheduler) Waiting() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.besideWaits
}

// Leads tells whether this publisher is the one of all that does what only one does: it owns the first share.
func (s *Scheduler) Leads() bool {
	shares, err := s.store.Shares()
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.held[cursor.BoardShare]
	return err == nil && h != nil && shares.Mine[cursor.BoardShare] == h.term
}

// Tell lets everybody know how the building of a set stands: other publishers leave it its half for as long as they hear of it.
func (s *Scheduler) Tell(ctx context.Context, b cursor.Build) error {
	return s.save(ctx, cursor.BoardShare, cursor.Change{Build: &b})
}

const (
	// TellEvery is how often Tell has to be called while a set is being built.
	TellEvery = 5 * time.Second
	// forgotten is how long another publisher is taken to be building after it was last heard of.
	forgotten = 4 * TellEvery
	// hearing is how long all others take to hear that one begins.
	hearing = 2 * followEvery
)

// parts are what the scan has of the ceilings, and of the time while the source is busy; the lock is held.
func (s *Scheduler) parts(now time.Time) (ofRate, ofTime float64) {
	switch {
	case s.beside != nil || now.Before(s.besideUntil):
		return halved * s.part, halved
	case !s.heard.IsZero() && now.Sub(s.heard) < forgotten:
		return halved * s.part, 1
	default:
		return s.part, 1
	}
}
