package scheduler

import (
	"cmp"
	"slices"
	"time"

	"github.com/trickle-verify/trickle/message"
)

// Stretch is a part of a table's key space: ranges that lie side by side.
type Stretch struct {
	Bounds   message.Range
	Ranges   int
	Verified int // of them, ever
	Rows     uint64
	Oldest   time.Time // when the one was verified that was longest ago; zero where none was
	Newest   time.Time
}

// Stretches cuts what is ours of each table into at most so many stretches, in key order.
func (s *Scheduler) Stretches(most int) map[string][]Stretch {
	s.mu.Lock()
	defer s.mu.Unlock()
	spans := map[string][]*span{}
	for _, sp := range s.spans {
		spans[sp.table.name] = append(spans[sp.table.name], sp)
	}
	out := make(map[string][]Stretch, len(spans))
	for table, mine := range spans {
		slices.SortFunc(mine, func(a, b *span) int { return cmp.Compare(a.number, b.number) })
		total := 0
		for _, sp := range mine {
			total += len(sp.chain)
		}
		n := max(1, min(most, total))
		at := 0
		for _, sp := range mine {
			for i, r := range sp.chain {
				last := len(out[table]) - 1
				// A stretch ends where its share of the ranges does, and where somebody else's begin.
				if last < 0 || i == 0 || at*n/total != (at-1)*n/total {
					out[table] = append(out[table], Stretch{Bounds: message.Range{Lo: r.Bounds.Lo}})
					last++
				}
				st := &out[table][last]
				st.Bounds.Hi = r.Bounds.Hi
				st.Ranges++
				if !r.VerifiedAt.IsZero() {
					st.Verified++
					st.Rows += r.Rows
					if st.Oldest.IsZero() || r.VerifiedAt.Before(st.Oldest) {
						st.Oldest = r.VerifiedAt
					}
					if r.VerifiedAt.After(st.Newest) {
						st.Newest = r.VerifiedAt
					}
				}
				at++
			}
		}
	}
	return out
}
