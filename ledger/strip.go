package ledger

import (
	"cmp"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trickle-verify/trickle/message"
)

// Strip is a table's key space from its first key to its last, cut into cells of about as many ranges each.
type Strip struct {
	Table string
	Cells []Cell
}

// Cell is a stretch of ranges that lie side by side.
type Cell struct {
	Range    message.Range
	Ranges   int
	Verified int       // of them; the others never were, or lie where an older range was cut anew
	Rows     int64     // of those that were verified
	Oldest   time.Time // when the one was that was longest ago; zero where none was
	Newest   time.Time
	Differed int // ranges that differed when they were last read
	Drift    Kinds
	Last     time.Time // when the newest of that drift was proven
	Suspects int
	Reported Kinds // rows that are proven to differ and are left as they are
}

// stretch is a range as the ledger remembers it, or several that it never heard of.
type stretch struct {
	bounds   message.Range
	id       int64
	ranges   int // of a gap; a range counts once
	cycle    int64
	rows     int64
	equal    bool
	verified time.Time // zero: a gap
}

func end(k message.Key, infinite string) string {
	if k == nil {
		return infinite
	}
	return k.ID()
}

func (s stretch) from() string { return end(s.bounds.Lo, "-") }
func (s stretch) to() string   { return end(s.bounds.Hi, "+") }

// chain puts ranges in the order of their keys. Their bounds say which follows which, so no type of key needs to be understood: a range begins where the one
// before it ends. Where a table's ranges were cut anew, old ones overlap new ones; the new ones count. Where none follows, nothing is known up to the next:
// a gap, and there are as many ranges in all gaps together as total says there must be.
func chain(ranges []stretch, total int) []stretch {
	byLo := make(map[string][]int, len(ranges))
	ends := make(map[string]bool, len(ranges))
	for i, r := range ranges {
		byLo[r.from()] = append(byLo[r.from()], i)
		ends[r.to()] = true
	}
	for _, same := range byLo { // the newest first
		slices.SortFunc(same, func(a, b int) int {
			return cmp.Or(cmp.Compare(ranges[b].cycle, ranges[a].cycle), ranges[b].verified.Compare(ranges[a].verified))
		})
	}
	seen := make([]bool, len(ranges))
	w := walker{ranges, byLo, seen}
	var runs [][]stretch
	first := w.walk("-")
	if len(first) > 0 {
		runs = append(runs, first)
	}
	if len(first) == 0 || first[len(first)-1].to() != "+" {
		var heads []int
		for i, r := range ranges {
			if !seen[i] && !ends[r.from()] {
				heads = append(heads, i)
			}
		}
		slices.SortFunc(heads, func(a, b int) int { return compareKeys(ranges[a].bounds.Lo, ranges[b].bounds.Lo) })
		for _, h := range heads {
			if !seen[h] {
				runs = append(runs, w.walk(ranges[h].from()))
			}
		}
	}
	return fill(runs, total)
}

type walker struct {
	ranges []stretch
	byLo   map[string][]int
	seen   []bool
}

// walk follows ranges from a bound on.
func (w walker) walk(from string) (run []stretch) {
	var older []int // ranges that begin where one of the run does, and were read before it
	for {
		next := -1
		for _, i := range w.byLo[from] {
			switch {
			case w.seen[i]:
			case next < 0:
				next = i
			default:
				older = append(older, i)
			}
		}
		var r stretch
		if next >= 0 {
			r = w.ranges[next]
		} else {
			// The pieces of a range that was cut anew are not all known yet, but it is: the rest of it was last verified with it.
			if next = w.rest(older); next < 0 || len(run) == 0 {
				return run
			}
			older = older[:slices.Index(older, next)]
			r = w.ranges[next]
			r.bounds.Lo = run[len(run)-1].bounds.Hi
		}
		w.seen[next] = true
		run = append(run, r)
		if r.to() == "+" {
			return run
		}
		from = r.to()
	}
}

// rest finds the newest of older ranges that leads on; -1: none does.
func (w walker) rest(older []int) int {
	for _, i := range slices.Backward(older) {
		if w.seen[i] {
			continue
		}
		if w.ranges[i].to() == "+" || slices.ContainsFunc(w.byLo[w.ranges[i].to()], func(n int) bool { return !w.seen[n] }) {
			return i
		}
	}
	return -1
}

// fill puts gaps between runs, and at either end where the key space has none.
func fill(runs [][]stretch, total int) []stretch {
	known := 0
	for _, r := range runs {
		known += len(r)
	}
	if len(runs) == 0 {
		return []stretch{{ranges: max(1, total)}}
	}
	var gaps int
	opens := runs[0][0].from() != "-"
	last := runs[len(runs)-1]
	closes := last[len(last)-1].to() != "+"
	if gaps = len(runs) - 1; opens {
		gaps++
	}
	if closes {
		gaps++
	}
	left := max(gaps, total-known)
	var out []stretch
	gap := func(lo, hi message.Key) {
		n := max(1, left/gaps)
		left, gaps = left-n, gaps-1
		out = append(out, stretch{bounds: message.Range{Lo: lo, Hi: hi}, ranges: n})
	}
	if opens {
		gap(nil, runs[0][0].bounds.Lo)
	}
	for i, run := range runs {
		if i > 0 {
			before := runs[i-1]
			gap(before[len(before)-1].bounds.Hi, run[0].bounds.Lo)
		}
		out = append(out, run...)
	}
	if closes {
		gap(last[len(last)-1].bounds.Hi, nil)
	}
	return out
}

// compareKeys is for the eye: only runs with a gap between them are put in order by it. Numbers go by their value, all else by its text.
func compareKeys(a, b message.Key) int {
	for i := range min(len(a), len(b)) {
		if a[i] == b[i] {
			continue
		}
		x, okX := new(big.Rat).SetString(a[i])
		y, okY := new(big.Rat).SetString(b[i])
		if okX && okY && !strings.ContainsAny(a[i]+b[i], "/eE") {
			return x.Cmp(y)
		}
		return strings.Compare(a[i], b[i])
	}
	return cmp.Compare(len(a), len(b))
}

// found is drift and suspects of one range.
type found struct {
	drift    Kinds
	last     time.Time
	suspects int
	reported Kinds
}

// cells cuts a chain into at most so many cells. What was found counts in the cell of its range, by its id, or by its bounds where it has been cut anew since.
func cells(chain []stretch, most int, byID map[int64]*found, byBounds map[string]*found) []Cell {
	units := 0
	for i := range chain {
		if !chain[i].verified.IsZero() {
			chain[i].ranges = 1
		}
		units += chain[i].ranges
	}
	n := max(1, min(most, units))
	out := make([]Cell, 0, n)
	at, used := 0, 0 // in which stretch, and how many of its ranges are in cells already
	for i := range n {
		size := (i+1)*units/n - i*units/n
		c := Cell{Ranges: size}
		for first := true; size > 0; first = false {
			s := chain[at]
			take := min(size, s.ranges-used)
			if first {
				c.Range.Lo = s.bounds.Lo
			}
			c.Range.Hi = s.bounds.Hi
			size, used = size-take, used+take
			if !s.verified.IsZero() {
				c.add(s, byID[s.id], byBounds[bounds(s.bounds)])
			}
			if used == s.ranges {
				at, used = at+1, 0
			}
		}
		out = append(out, c)
	}
	return out
}

func bounds(r message.Range) string {
	lo, hi := end(r.Lo, "-"), end(r.Hi, "+")
	return strconv.Itoa(len(lo)) + lo + hi
}

func (c *Cell) add(s stretch, byID, byBounds *found) {
	c.Verified++
	c.Rows += s.rows
	if c.Oldest.IsZero() || s.verified.Before(c.Oldest) {
		c.Oldest = s.verified
	}
	if s.verified.After(c.Newest) {
		c.Newest = s.verified
	}
	if !s.equal {
		c.Differed++
	}
	if byID == byBounds {
		byBounds = nil
	}
	for _, f := range []*found{byID, byBounds} {
		if f == nil {
			continue
		}
		c.Drift.Missing += f.drift.Missing
		c.Drift.Mismatched += f.drift.Mismatched
		c.Drift.Extra += f.drift.Extra
		c.Suspects += f.suspects
		c.Reported.Missing += f.reported.Missing
		c.Reported.Mismatched += f.reported.Mismatched
		c.Reported.Extra += f.reported.Extra
		if f.last.After(c.Last) {
			c.Last = f.last
		}
	}
}
