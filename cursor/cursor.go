// Package cursor is where every scan stands, durably: how tables are cut into spans and ranges, when each range was last verified and what it
// summed up to.
//
// The memory is kept in shares, and so is the work: a share has one owner at a time, who alone writes it, and whoever comes after him goes on from
// it. It decides how that memory is stored and who owns what of it, never what to scan. What always holds: Load returns what was saved last, as
// far as it had become durable; saving the same change twice is harmless; new ranges are stored before old ones are removed, so that a kill in
// between leaves ranges that overlap and no hole; once a share was loaded, whatever an earlier owner still writes into it counts for nothing.
// When a store loses its last moments, or all of it, nothing is wrong: ranges are verified again.
package cursor

import (
	"maps"
	"slices"
	"time"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
)

// Range is a piece of a table and what its last reading said. ID is unique within the table.
type Range struct {
	ID         uint64        `json:"id"`
	Table      string        `json:"table"`
	Bounds     message.Range `json:"bounds"`
	Cycle      uint64        `json:"cycle"` // the last cycle it was verified in; 0: never
	Rows       uint64        `json:"rows"`
	Sum        uint64        `json:"sum"`
	Xmin       uint64        `json:"xmin"`     // snapshot xmin of that reading
	Timeline   uint32        `json:"timeline"` // of the server that was read; 0: unknown
	Schema     uint64        `json:"schema"`
	Digest     digest.Kind   `json:"digest"`
	VerifiedAt time.Time     `json:"verified_at"`
	CompleteAt time.Time     `json:"complete_at"`    // the last reading that left no row out
	Plan       uint64        `json:"plan,omitempty"` // version of the plan that its span is of
}

// Table is how far the scan of a table, or of its span in this share, has come.
type Table struct {
	Name    string      `json:"name"`
	Cycle   uint64      `json:"cycle"`
	Started time.Time   `json:"started"` // when the cycle began
	Digest  digest.Kind `json:"digest"`
	Paused  string      `json:"paused,omitempty"` // why it is not scanned; empty when it is
	Plan    uint64      `json:"plan,omitempty"`   // version of the plan that its span is of
}

// Sample pairs a wall time with the oldest transaction that was running at the source then.
type Sample struct {
	At       time.Time `json:"at"`
	Xmin     uint64    `json:"xmin"`
	Timeline uint32    `json:"timeline"` // whose transactions these are; 0: unknown
}

// State is everything that is remembered in a share.
type State struct {
	Source  string             `json:"source"` // the source it is about, "<system identifier>/<database>"
	Tables  map[string]Table   `json:"tables"`
	Ranges  map[string][]Range `json:"ranges"` // by table, in any order
	Samples []Sample           `json:"samples"`
	Board   Board              `json:"-"` // of share 0 where there are several
}

// Change is what Save adds to the state. What is empty stays as it is.
type Change struct {
	Source        string
	Tables        []Table
	Ranges        []Range // new or replaced, by table and id
	Removed       []Range // by table and id
	DroppedTables []string
	Samples       []Sample // replaces all samples unless nil
	Plans         []Plan   // share 0 only; new or replaced, by table
	DroppedPlans  []string // with their reports
	Build         *Build   // share 0 only
}

// book is a state that changes are applied to. Its zero value is empty.
type book struct {
	source  string
	tables  map[string]Table
	ranges  map[string]map[uint64]Range
	samples []Sample
	board   Board
}

func (b *book) apply(c Change) {
	if c.Source != "" {
		b.source = c.Source
	}
	for _, name := range c.DroppedTables {
		delete(b.tables, name)
		delete(b.ranges, name)
	}
	for _, t := range c.Tables {
		if b.tables == nil {
			b.tables = map[string]Table{}
		}
		b.tables[t.Name] = t
	}
	for _, r := range c.Ranges {
		if b.ranges == nil {
			b.ranges = map[string]map[uint64]Range{}
		}
		if b.ranges[r.Table] == nil {
			b.ranges[r.Table] = map[uint64]Range{}
		}
		b.ranges[r.Table][r.ID] = r
	}
	for _, r := range c.Removed {
		delete(b.ranges[r.Table], r.ID)
	}
	if c.Samples != nil {
		b.samples = slices.Clone(c.Samples)
	}
	for _, table := range c.DroppedPlans {
		delete(b.board.Plans, table)
		delete(b.board.Reports, table)
	}
	for _, p := range c.Plans {
		b.board.Put(p)
	}
	if c.Build != nil {
		b.board.Build = *c.Build
	}
}

// state returns a copy; ranges come by id, so that the same book always gives the same state.
func (b *book) state() State {
	s := State{
		Source:  b.source,
		Tables:  make(map[string]Table, len(b.tables)),
		Ranges:  make(map[string][]Range, len(b.ranges)),
		Samples: slices.Clone(b.samples),
		Board:   b.board.clone(),
	}
	maps.Copy(s.Tables, b.tables)
	for table, byID := range b.ranges {
		if len(byID) == 0 {
			continue
		}
		ranges := make([]Range, 0, len(byID))
		for _, id := range slices.Sorted(maps.Keys(byID)) {
			ranges = append(ranges, byID[id])
		}
		s.Ranges[table] = ranges
	}
	return s
}

// bookOf is the inverse of state.
func bookOf(s State) *book {
	b := new(book)
	c := Change{Source: s.Source, Samples: s.Samples}
	for _, t := range s.Tables {
		c.Tables = append(c.Tables, t)
	}
	for _, ranges := range s.Ranges {
		c.Ranges = append(c.Ranges, ranges...)
	}
	b.apply(c)
	return b
}
