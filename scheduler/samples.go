package scheduler

import (
	"slices"
	"sync"
	"time"

	"github.com/trickle-verify/trickle/cursor"
)

const (
	maxSamples  = 2000
	thinnedTo   = 1000
	freshest    = 200 // never thinned: a short quiet time needs them
	sampleSlack = time.Hour
)

// Samples remembers which transactions were running when, so that a row's writer can be told quiet or not. It is safe for concurrent use; the
// zero value is empty and ready.
type Samples struct {
	mu     sync.Mutex
	oldest []cursor.Sample // oldest first
}

// Before returns the newest sample taken at or before t, false when memory doesn't reach back so far.
func (s *Samples) Before(t time.Time) (cursor.Sample, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, found := s.find(t)
	if !found {
		i--
	}
	if i < 0 {
		return cursor.Sample{}, false
	}
	return s.oldest[i], true
}

func (s *Samples) find(t time.Time) (int, bool) {
	return slices.BinarySearchFunc(s.oldest, t, func(a cursor.Sample, t time.Time) int { return a.At.Compare(t) })
}

// add takes a sample in and forgets what is older than keep. When there are too many, samples are left out evenly: an older sample than
// there could be is cautious, never wrong. A clock that was set back makes what it has passed unusable, so that goes too; and so does all that is of
// another timeline, whose transactions are others; and what has a later transaction than there is now: after a crash a server gives the numbers of those that it
// lost (synchronous_commit = off) to others.
func (s *Samples) add(sample cursor.Sample, keep time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.oldest); n > 0 && sample.Timeline != s.oldest[n-1].Timeline {
		s.oldest = nil
	}
	i, _ := s.find(sample.At)
	for i > 0 && s.oldest[i-1].Xmin > sample.Xmin {
		i--
	}
	s.oldest = append(s.oldest[:i], sample)
	// The last sample that is older than keep stays: it is the one that Before finds for keep ago.
	i, _ = s.find(sample.At.Add(-keep))
	s.oldest = slices.Delete(s.oldest, 0, max(0, i-1))
	if len(s.oldest) > maxSamples {
		s.thin()
	}
}

func (s *Samples) thin() {
	old := s.oldest[:len(s.oldest)-freshest]
	spacing := old[len(old)-1].At.Sub(old[0].At) / (thinnedTo - freshest)
	kept := old[:1:1]
	for _, sample := range old[1:] {
		if sample.At.Sub(kept[len(kept)-1].At) >= spacing {
			kept = append(kept, sample)
		}
	}
	s.oldest = append(kept, s.oldest[len(old):]...)
}

// all returns a copy, oldest first.
func (s *Samples) all() []cursor.Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.oldest)
}

// recall takes in what was stored and reaches further back than memory does. Whose memory it was doesn't matter: all of them watched the same
// source, by its own clock.
func (s *Samples) recall(stored []cursor.Sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	older := slices.SortedFunc(slices.Values(stored), func(a, b cursor.Sample) int { return a.At.Compare(b.At) })
	if len(s.oldest) > 0 {
		n, _ := slices.BinarySearchFunc(older, s.oldest[0].At, func(a cursor.Sample, t time.Time) int { return a.At.Compare(t) })
		older = older[:n]
		for n > 0 && older[n-1].Xmin > s.oldest[0].Xmin {
			n--
		}
		older = older[:n]
	}
	s.oldest = append(older, s.oldest...)
}
