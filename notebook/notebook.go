// Package notebook is a ledger in memory, for a detector that is embedded over a replica which is no Postgres and has no place of its own for one.
//
// It decides what is kept for how long: suspects until they are settled, corrections until Forget, what a table came to for as long as the process lives.
// What always holds: it answers what the ledger in Postgres would, for one pipeline and one instance; once the brake is on nothing more is entered until a
// person releases it. Nothing here can fail, and nothing outlives the process: after a restart the suspects are found again in the next cycle, the source is
// pinned anew by the first message, and a correction that was written and not confirmed is verified like any row. Where that is too little, implement
// detector.Ledger over what the replica itself is kept in.
package notebook

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
)

// Notebook implements detector.Ledger. It is safe for concurrent use.
type Notebook struct {
	now func() time.Time

	mu          sync.Mutex
	rules       policy.Detect
	source      string
	refused     int
	refusal     string
	gate        entry.Gate
	brake       string
	released    time.Time
	tables      map[string]*table
	corrections []Correction
	wishes      []wish
	baseline    entry.Baseline
}

type table struct {
	Table
	suspects map[string]*suspect
	ranges   map[uint64]verified
	found    []found
	told     time.Time // the source's clock when what the publisher says was so
	read     time.Time // the same of the newest range that was recorded
}

type suspect struct {
	drift.Suspect
	due time.Time
}

type verified struct {
	entry.Verified
	at time.Time
}

type found struct {
	entry.Discrepancy
	at time.Time
}

type wish struct {
	entry.Wish
	at   time.Time
	over bool
}

// Table is what a table has come to.
type Table struct {
	Name, Replica    string
	Paused           string // why nothing is done about it; empty: it is verified
	Unscanned        string // why the publisher does not scan it, as it says; empty: it does
	Ranges, Rows     uint64 // verified, and found equal
	Differed         uint64 // ranges in which something differed
	Suspects         int
	Resolved, Failed int
	Failure          string // why the last one was given up
}

// Correction is a row of the journal.
type Correction struct {
	ID            int64
	At            time.Time
	Table         string
	Key           message.Key
	Kind          drift.Kind
	Before, After string // in whatever form the replica keeps rows; for people
	Version       uint64 // of the row that was written
	ResyncID      string
	TraceID       string
	Trace         string // what its trace is made of; see drift.Change
	Outcome       string // entry.Confirmed or entry.Superseded; empty: not confirmed yet
}

// New makes an empty one; the policy's detect says what the brake allows.
func New(rules policy.Detect) *Notebook {
	return &Notebook{now: time.Now, rules: rules, tables: make(map[string]*table)}
}

// Apply replaces the policy.
func (n *Notebook) Apply(rules policy.Detect) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rules = rules
}

func (n *Notebook) table(name string) *table {
	t, ok := n.tables[name]
	if !ok {
		t = &table{Table: Table{Name: name}, suspects: make(map[string]*suspect), ranges: make(map[uint64]verified)}
		n.tables[name] = t
	}
	return t
}

// Enter journals a correction that the replica is about to make or has just made, under the same lock, and returns its id. It is refused, and false
// returned, while the brake is on or where the correction would be one more than the policy allows: then the replica must not make it.
func (n *Notebook) Enter(c Correction, rewrites int64) (int64, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.brake != "" || n.brakes(c) {
		return 0, false
	}
	n.outcome(entry.Superseded, []int64{rewrites})
	c.ID, c.At = 1, n.now()
	if len(n.corrections) > 0 {
		c.ID = n.corrections[len(n.corrections)-1].ID + 1
	}
	n.corrections = append(n.corrections, c)
	return c.ID, true
}

// brakes puts the brake on where a correction would be too many.
func (n *Notebook) brakes(c Correction) bool {
	since := n.now().Add(-time.Duration(n.rules.Window))
	deletes, all := 0, 0
	for _, was := range n.corrections {
		if was.At.Before(since) || was.At.Before(n.released) {
			continue
		}
		if was.Kind == drift.Extra {
			deletes++
		}
		if was.ResyncID == "" {
			all++
		}
	}
	switch {
	case c.Kind == drift.Extra && deletes >= n.rules.Brake.Deletes:
		n.brake = fmt.Sprintf("%d rows were deleted within %s (detect.brake.deletes)", deletes, time.Duration(n.rules.Window))
	case c.ResyncID == "" && all >= n.rules.Brake.Corrections:
		n.brake = fmt.Sprintf("%d rows were corrected within %s (detect.brake.corrections)", all, time.Duration(n.rules.Window))
	}
	return n.brake != ""
}

// Release takes the brake off; what was counted so far counts no more.
func (n *Notebook) Release() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.brake, n.released = "", n.now()
}

// Corrections are the journal, oldest first.
func (n *Notebook) Corrections() []Correction {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.corrections)
}

// Tables are what each table has come to, by name.
func (n *Notebook) Tables() []Table {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]Table, 0, len(n.tables))
	for _, t := range n.tables {
		t.Suspects = len(t.suspects)
		out = append(out, t.Table)
	}
	slices.SortFunc(out, func(a, b Table) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Wishes are the resyncs that the detector asked for and that are not over. Whoever embeds it fills the range anew from wherever rows come from, and says
// so with Fulfil.
func (n *Notebook) Wishes() []entry.Wish {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []entry.Wish
	for _, w := range n.wishes {
		if !w.over {
			out = append(out, w.Wish)
		}
	}
	return out
}

// Fulfil notes that a resync is over.
func (n *Notebook) Fulfil(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.wishes {
		n.wishes[i].over = n.wishes[i].over || n.wishes[i].ID == id
	}
}

// State is what concerns no table.
type State struct {
	Source  string // that the replica is pinned to
	Gate    entry.Gate
	Brake   string // why it is on; empty: it is off
	Refused int    // messages that could not be read or believed
	Refusal string // the last one's reason
}

// State tells how things are.
func (n *Notebook) State() State {
	n.mu.Lock()
	defer n.mu.Unlock()
	return State{Source: n.source, Gate: n.gate, Brake: n.brake, Refused: n.refused, Refusal: n.refusal}
}

// Forget drops what no window needs: closed corrections, discrepancies and verdicts older than that.
func (n *Notebook) Forget(_ context.Context, window time.Duration) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	since := n.now().Add(-window)
	for _, t := range n.tables {
		t.found = slices.DeleteFunc(t.found, func(f found) bool { return f.at.Before(since) })
		maps.DeleteFunc(t.ranges, func(_ uint64, v verified) bool { return v.at.Before(since) })
	}
	n.corrections = slices.DeleteFunc(n.corrections, func(c Correction) bool { return c.Outcome != "" && c.At.Before(since) })
	n.wishes = slices.DeleteFunc(n.wishes, func(w wish) bool { return w.over && w.at.Add(w.Cooldown).Before(since) })
	return nil
}
