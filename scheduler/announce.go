package scheduler

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/telemetry/pulse"
)

const (
	// lasting is a delay between tries that a failure has got to once it is no passing one.
	lasting = 8 * firstRetry
	// rarest is how seldom replicas are told again of a table that stays paused, however long a cycle is: one that is new has not heard of it.
	rarest = time.Hour
)

// told is what replicas were told of a table last.
type told struct {
	reason string // empty: nothing, or that it is scanned
	at     time.Time
}

// announce tells replicas which tables are not scanned: when that begins, changes or ends, and about once a cycle. It runs before note, as whoever takes a table up
// goes by what is stored of it: that was told. That it fails holds no scan up.
func (s *Scheduler) announce(ctx context.Context, now time.Time) error {
	s.mu.Lock()
	if s.telling.retry.After(now) {
		s.mu.Unlock()
		return nil
	}
	news := s.news(now)
	s.mu.Unlock()
	if len(news) == 0 {
		return nil
	}
	back := pulse.Away(ctx)
	err := s.scanner.Announce(ctx, news)
	back()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.telling.failed(err, now)
		s.log.Warn("replicas are not told yet that a table is paused, or is no longer", "table", news[0].Name, "err", err, "retry_in", s.telling.delay)
		return nil
	}
	s.telling = trial{}
	for _, t := range news {
		s.told[t.Name] = told{t.Paused, now}
		if s.tables[t.Name] == nil {
			delete(s.told, t.Name)
		}
	}
	return nil
}

// news is what is to be told now; the lock is held.
func (s *Scheduler) news(now time.Time) (news []TableStatus) {
	again := min(max(time.Duration(s.policy.Schedule.Cycle), discoverEvery), rarest)
	for name, t := range s.tables {
		h, sp, ours := s.speaker(name)
		if !ours {
			delete(s.told, name) // whoever scans it now tells
			continue
		}
		last, known := s.told[name]
		switch {
		case known:
		case sp != nil:
			last.reason = sp.state.Paused
		default:
			last.reason = h.stored.Tables[name].Paused
		}
		reason, since := s.trouble(t), now.Sub(last.at)
		if (reason == "") != (last.reason == "") || reason != "" && (since >= again || reason != last.reason && since >= discoverEvery) {
			news = append(news, TableStatus{Name: name, Paused: reason})
		}
	}
	for name, last := range s.told {
		if s.tables[name] == nil && last.reason != "" { // the policy names it no longer
			news = append(news, TableStatus{Name: name})
		}
	}
	slices.SortFunc(news, func(a, b TableStatus) int { return strings.Compare(a.Name, b.Name) })
	return news
}

// speaker tells whether it is this publisher that tells of a table: of all, the one that scans the beginning of it or, where it is not shared out yet, has the first share.
// What is stored of it is in that share, and in the span where there is one. The lock is held.
func (s *Scheduler) speaker(name string) (h *share, sp *span, ours bool) {
	n := cursor.BoardShare
	if p, planned := s.planOf(name); planned {
		n = p.Spans[0].Share
		sp = s.spans[spanID{n, name}]
	}
	h = s.held[n]
	return h, sp, h != nil
}

// trouble is why a table is not scanned: as discovered, or because whatever was tried of it failed again and again. The lock is held.
func (s *Scheduler) trouble(t *table) string {
	if t.paused != "" {
		return t.paused
	}
	if t.failure != "" {
		if t.delay >= lasting {
			return t.failure
		}
		return ""
	}
	p, _ := s.planOf(t.name)
	why := ""
	for _, piece := range p.Spans {
		switch sp := s.spans[spanID{piece.Share, t.name}]; {
		case sp == nil:
		case sp.failure == "" || sp.delay < lasting:
			return ""
		case why == "":
			why = sp.failure
		}
	}
	return why
}
