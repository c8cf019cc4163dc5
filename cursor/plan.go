package cursor

import (
	"cmp"
	"errors"
	"maps"
	"time"

	"github.com/trickle-verify/trickle/message"
)

// Plan is how a table is shared out: spans of its key that follow each other from -infinity to +infinity, each in another share.
type Plan struct {
	Table   string `json:"table"`
	Version uint64 `json:"version"` // only rises; 0 stands for a table in one span that nobody had to plan
	Source  string `json:"source"`
	Shares  int    `json:"shares"` // as many as there were
	Rows    uint64 `json:"rows"`   // as many as there seemed to be
	Cycle   uint64 `json:"cycle"`  // the last cycle that was over then
	Spans   []Span `json:"spans"`
}

// Span is a piece of a table that one publisher scans.
type Span struct {
	Share  int           `json:"share"`
	Bounds message.Range `json:"bounds"`
}

// Whole is the plan of a table where there is one share.
func Whole(table string) Plan { return Plan{Table: table, Shares: 1, Spans: []Span{{}}} }

// Report is what the owner of a span lets the others know of it.
type Report struct {
	Table  string `json:"table"`
	Plan   uint64 `json:"plan"`  // version
	Span   int    `json:"span"`  // number within the plan
	Cycle  uint64 `json:"cycle"` // the last cycle that is over there
	Ranges int    `json:"ranges"`
	Rows   uint64 `json:"rows"`
}

// Board is what all publishers know of each other's work: the plans, and the last report of each span by table and number.
type Board struct {
	Plans   map[string]Plan
	Reports map[string]map[int]Report
	Build   Build
}

// Build is how the building of the base-line view stands, as the owner of the first share, who does it, tells.
type Build struct {
	Set     string    `json:"set,omitempty"` // that is being built; empty: none is
	Begun   time.Time `json:"begun,omitzero"`
	Told    time.Time `json:"told"` // by its owner's clock
	Tables  int       `json:"tables,omitempty"`
	Done    int       `json:"done,omitempty"`    // of these tables
	Rows    uint64    `json:"rows,omitempty"`    // so far
	Total   uint64    `json:"total,omitempty"`   // as many as there seem to be
	Bytes   int64     `json:"bytes,omitempty"`   // that were written to the store so far
	Waiting string    `json:"waiting,omitempty"` // what holds it

	Failures int       `json:"failures,omitempty"` // in a row
	Failure  string    `json:"failure,omitempty"`  // why the last one came to nothing
	Retry    time.Time `json:"retry,omitzero"`
}

// Report returns what is known of a plan's span.
func (b Board) Report(p Plan, span int) (Report, bool) {
	r, ok := b.Reports[p.Table][span]
	return r, ok && r.Plan == p.Version
}

// Take notes reports that were sent.
func (b *Board) Take(reports ...Report) {
	for _, r := range reports {
		b.report(r)
	}
}

// Put takes a plan in.
func (b *Board) Put(p Plan) {
	if b.Plans == nil {
		b.Plans = map[string]Plan{}
	}
	b.Plans[p.Table] = p
}

// report takes a report in. One that comes late, from an owner of earlier, takes nothing back: a cycle that is over stays over.
func (b *Board) report(r Report) {
	if last, ok := b.Reports[r.Table][r.Span]; ok && (last.Plan > r.Plan || last.Plan == r.Plan && last.Cycle > r.Cycle) {
		return
	}
	if b.Reports == nil {
		b.Reports = map[string]map[int]Report{}
	}
	if b.Reports[r.Table] == nil {
		b.Reports[r.Table] = map[int]Report{}
	}
	b.Reports[r.Table][r.Span] = r
}

func (b *Board) clone() Board {
	out := Board{Plans: maps.Clone(b.Plans), Build: b.Build}
	if len(b.Reports) > 0 {
		out.Reports = make(map[string]map[int]Report, len(b.Reports))
	}
	for table, reports := range b.Reports {
		out.Reports[table] = maps.Clone(reports)
	}
	return out
}

// Shares says how the work is divided.
type Shares struct {
	Of int // there are
	// Mine are this publisher's, each with its term: a share whose term has changed was somebody else's in between.
	Mine    map[int]uint64
	Changed <-chan struct{} // closed once that may have changed; nil where it never does
}

// ErrNotMine is returned by Load and Save for a share that is another publisher's.
var ErrNotMine = errors.New("this share of the cursors is another publisher's now")

// gather puts together what the shares hold, share 0 first. Of a table's spans, the one whose cycle began last says which cycle is under way:
// none begins before the one before is over everywhere. What is left of earlier plans is left out.
func gather(shares []State) State {
	out := State{Tables: map[string]Table{}, Ranges: map[string][]Range{}}
	for i, s := range shares {
		if i == BoardShare {
			out.Source, out.Board = s.Source, s.Board
		}
		if len(s.Samples) > len(out.Samples) {
			out.Samples = s.Samples
		}
		for name, t := range s.Tables {
			known, ok := out.Tables[name]
			switch {
			case t.Plan != out.Board.Plans[name].Version:
				continue
			case !ok || t.Cycle > known.Cycle:
				t.Paused = cmp.Or(t.Paused, known.Paused)
				known = t
			case t.Cycle == known.Cycle && t.Started.Before(known.Started):
				known.Started = t.Started
			}
			known.Paused = cmp.Or(known.Paused, t.Paused)
			out.Tables[name] = known
		}
		for name, ranges := range s.Ranges {
			for _, r := range ranges {
				if r.Plan == out.Board.Plans[name].Version {
					out.Ranges[name] = append(out.Ranges[name], r)
				}
			}
		}
	}
	return out
}
