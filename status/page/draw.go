package page

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
)

// ages are the classes of a strip, from the freshest on: up to which part of a cycle, and how tall the cell stands, so that age shows in grey too.
func ages() []struct {
	upTo float64
	top  int
} {
	return []struct {
		upTo float64
		top  int
	}{{0.25, 0}, {0.5, 2}, {1, 4}, {2, 6}, {1e18, 8}}
}

const tall = 12 // a strip's height in its own units

// strip is a table's line of the page.
type strip struct {
	ledger.TableReport
	Cells  int
	Paths  []area
	Marks  []mark
	Parts  []part // the table behind it
	Known  bool   // of a replica, with all that it knows
	Oldest time.Time
	Label  string
	Cycle  uint64
	Done   int
	Ranges int
}

// area is everything of one class.
type area struct{ Class, D string }

// mark is drift where it was found.
type mark struct {
	X     string
	Shape string
	Title string
}

// part is a stretch of the strip in words.
type part struct {
	Lo, Hi   message.Key
	Ranges   int
	Verified int
	Rows     int64
	Oldest   time.Time
	Newest   time.Time
	Drift    ledger.Kinds
	Suspects int
	Alone    int // rows that differ and are left as they are
}

// parts is how many lines the table behind a strip has.
const parts = 8

func strips(s State) (out []strip) {
	if r := s.Replica; r != nil {
		for i, t := range r.Tables {
			st := strip{TableReport: t, Known: true}
			if t.OldestVerification != nil {
				st.Oldest = *t.OldestVerification
			}
			if i < len(r.Strips) {
				st.draw(r.Strips[i].Cells, s.At, r.Cycle)
			}
			out = append(out, st)
		}
		return out
	}
	if c := s.Scan; c != nil {
		cycle := 24 * time.Hour
		if s.Policy != nil {
			cycle = time.Duration(s.Policy.Schedule.Cycle)
		}
		for _, t := range c.Tables {
			st := strip{TableReport: ledger.TableReport{Table: t.Table, Paused: t.Paused}, Cycle: t.Cycle, Done: t.Done, Ranges: t.Ranges}
			if t.Ranges > 0 {
				st.Coverage = share(float64(t.Done), float64(t.Ranges))
			}
			st.draw(t.Strip, s.At, cycle)
			out = append(out, st)
		}
	}
	return out
}

func (s *strip) draw(cells []ledger.Cell, now time.Time, cycle time.Duration) {
	s.Cells = len(cells)
	classes := make([]strings.Builder, len(ages())+1)
	var drifted strings.Builder
	verified, ranges := 0, 0
	for i := 0; i < len(cells); {
		class := ageClass(cells[i], now, cycle)
		end := i + 1
		for end < len(cells) && ageClass(cells[end], now, cycle) == class {
			end++
		}
		top := tall - 2 // never: a line at the foot
		if class < len(ages()) {
			top = ages()[class].top
		}
		fmt.Fprintf(&classes[class], "M%d %dh%dv%dh-%dz", i, top, end-i, tall-top, end-i)
		i = end
	}
	for i, c := range cells {
		verified, ranges = verified+c.Verified, ranges+c.Ranges
		if s.Oldest.IsZero() || !c.Oldest.IsZero() && c.Oldest.Before(s.Oldest) {
			s.Oldest = c.Oldest
		}
		if m, ok := markOf(c); ok {
			fmt.Fprintf(&drifted, "M%d %d.6h1v1.4h-1z", i, tall)
			m.X = strconv.FormatFloat(100*(float64(i)+0.5)/float64(len(cells)), 'f', 2, 64) + "%"
			s.Marks = append(s.Marks, m)
		}
	}
	for class := range classes {
		if d := classes[class].String(); d != "" {
			s.Paths = append(s.Paths, area{"a" + strconv.Itoa(class), d})
		}
	}
	if drifted.Len() > 0 {
		s.Paths = append(s.Paths, area{"found", drifted.String()})
	}
	s.Parts = inParts(cells)
	s.Label = fmt.Sprintf("Key space of %s: %d of %d ranges verified", s.Table, verified, ranges)
	if len(s.Marks) > 0 {
		s.Label += fmt.Sprintf(", drift found in %d of %d places", len(s.Marks), len(cells))
	}
	s.Label += ". The table below has the same in numbers."
}

// ageClass is by what was verified longest ago; a cell of which a part never was counts as never.
func ageClass(c ledger.Cell, now time.Time, cycle time.Duration) int {
	if c.Verified < c.Ranges {
		return len(ages())
	}
	age := now.Sub(c.Oldest).Seconds() / max(1, cycle.Seconds())
	return slices.IndexFunc(ages(), func(a struct {
		upTo float64
		top  int
	}) bool {
		return age <= a.upTo
	})
}

func markOf(c ledger.Cell) (mark, bool) {
	d := c.Drift
	if d.All() == 0 {
		d = c.Reported
	}
	var shape string
	switch n := d.All(); {
	case n == 0 && c.Suspects == 0: // a range that differed while changes were on their way is as it should be
		return mark{}, false
	case n == 0:
		shape = "suspect"
	case d.Missing == n:
		shape = "missing"
	case d.Extra == n:
		shape = "extra"
	default:
		shape = "mismatched"
	}
	return mark{Shape: shape, Title: inWords(d, c.Suspects)}, true
}

func inWords(d ledger.Kinds, suspects int) string {
	var words []string
	for _, w := range []struct {
		n    int
		what string
	}{{d.Missing, "missing"}, {d.Mismatched, "mismatched"}, {d.Extra, "extra"}} {
		if w.n > 0 {
			words = append(words, fmt.Sprintf("%d %s", w.n, w.what))
		}
	}
	if suspects > 0 {
		words = append(words, count(int64(suspects), "suspect", "suspects"))
	}
	return strings.Join(words, ", ")
}

func inParts(cells []ledger.Cell) []part {
	n := min(parts, len(cells))
	out := make([]part, 0, n)
	for i := range n {
		from, to := i*len(cells)/n, (i+1)*len(cells)/n
		p := part{Lo: cells[from].Range.Lo, Hi: cells[to-1].Range.Hi}
		for _, c := range cells[from:to] {
			p.Ranges, p.Verified, p.Rows = p.Ranges+c.Ranges, p.Verified+c.Verified, p.Rows+c.Rows
			if p.Oldest.IsZero() || !c.Oldest.IsZero() && c.Oldest.Before(p.Oldest) {
				p.Oldest = c.Oldest
			}
			if c.Newest.After(p.Newest) {
				p.Newest = c.Newest
			}
			p.Drift.Missing, p.Drift.Mismatched, p.Drift.Extra = p.Drift.Missing+c.Drift.Missing, p.Drift.Mismatched+c.Drift.Mismatched, p.Drift.Extra+c.Drift.Extra
			p.Suspects += c.Suspects
			p.Alone += c.Reported.All()
		}
		out = append(out, p)
	}
	return out
}

// Words is what was found in a part.
func (p part) Words() string {
	w := inWords(p.Drift, p.Suspects)
	if p.Alone > 0 {
		w = strings.TrimPrefix(w+", "+number(int64(p.Alone))+" left alone", ", ")
	}
	return cmp.Or(w, "none")
}

// chart is corrections over time.
type chart struct {
	Steps  int
	Paths  []area
	Top    int // of the scale
	Total  ledger.Kinds
	Span   string
	Step   string
	From   time.Time
	Lines  []line // the table behind it: steps in which something was corrected, the newest first
	Height int
}

type line struct {
	At time.Time
	ledger.Kinds
}

const chartTall = 100

func chartOf(t ledger.Timeline) chart {
	c := chart{Steps: len(t.Steps), From: t.From, Step: duration(t.Step), Span: duration(time.Duration(len(t.Steps)) * t.Step), Height: chartTall}
	most := 0
	for i, k := range t.Steps {
		c.Total.Missing, c.Total.Mismatched, c.Total.Extra = c.Total.Missing+k.Missing, c.Total.Mismatched+k.Mismatched, c.Total.Extra+k.Extra
		most = max(most, all(k))
		if all(k) > 0 {
			c.Lines = append(c.Lines, line{t.From.Add(time.Duration(i) * t.Step), k})
		}
	}
	slices.Reverse(c.Lines)
	c.Top = scale(most)
	var kinds [3]strings.Builder
	for i, k := range t.Steps {
		foot := float64(chartTall)
		for n, v := range []int{k.Missing, k.Mismatched, k.Extra} {
			if v == 0 {
				continue
			}
			tall := chartTall * float64(v) / float64(c.Top)
			foot -= tall
			fmt.Fprintf(&kinds[n], "M%.2f %.2fh.8v%.2fh-.8z", float64(i)+0.1, foot, tall)
		}
	}
	for n, class := range []string{"missing", "mismatched", "extra"} {
		if d := kinds[n].String(); d != "" {
			c.Paths = append(c.Paths, area{class, d})
		}
	}
	return c
}

func all(k ledger.Kinds) int { return k.Missing + k.Mismatched + k.Extra }

// scale is a round number that is not less.
func scale(n int) int {
	for unit := 1; ; unit *= 10 {
		for _, f := range []int{1, 2, 5} {
			if f*unit >= n {
				return f * unit
			}
		}
	}
}

// level is what was counted within the window against what it may come to.
type level struct {
	What   string
	Where  string
	Count  string
	Limit  string
	Width  string
	Leads  string
	Passed bool
}

func levels(s State) []level {
	r, p := s.Replica, s.Policy
	if p == nil {
		return nil
	}
	full := level{What: "in one table", Leads: "full resync"}
	near := level{What: "in one neighbourhood", Leads: "partial resync"}
	var most, worst int
	for _, t := range r.Tables {
		tally := r.Tallies[t.Table]
		if tally.Discrepancies > most {
			most, full.Where = tally.Discrepancies, t.Table
		}
		if tally.WorstCount > worst {
			worst, near.Where = tally.WorstCount, t.Table
		}
	}
	d := p.Detect.Brake
	partial, wholly := p.Resync.Partial, p.Resync.Full
	fill := func(l level, n, limit int) level {
		l.Count, l.Limit, l.Width, l.Passed = number(int64(n)), number(int64(limit)), width(n, max(limit, 1)), n >= limit && n > 0
		return l
	}
	return []level{
		s.answered(fill(near, worst, partial.Discrepancies), "partial"), s.answered(fill(full, most, wholly.Discrepancies), "full"),
		fill(level{What: "rows deleted", Leads: "brake"}, r.Braking.Deletes, d.Deletes), fill(level{What: "rows corrected", Where: "outside of resyncs", Leads: "brake"}, r.Braking.Corrections, d.Corrections),
	}
}

// answered is a level that nobody has to mind any more, where it has been reached and a resync has dealt with that: of this scope, or of the whole table. What is
// counted from then on leads to no other one before the cooldown is over.
func (s State) answered(l level, scope string) level {
	if !l.Passed {
		return l
	}
	held := max(time.Duration(s.Policy.Resync.Cooldown), time.Duration(s.Replica.Window.Seconds*float64(time.Second)))
	for _, r := range s.Replica.Resyncs { // the newest first
		if r.Table != l.Where || r.Scope != scope && r.Scope != "full" || s.At.Sub(r.Requested) > held {
			continue
		}
		if r.State == "running" || r.State == "done" {
			l.Passed, l.Leads = false, r.Scope+" resync "+r.State
			return l
		}
	}
	return l
}
