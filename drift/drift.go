// Package drift is what is wrong with one row, and when that is proven.
//
// It decides, from what was seen of a key on both sides, whether the replica is right, whether a change may still be on its way, or whether the
// replica has drifted. What always holds, given that CDC applies the changes of a row in their order and that Through tells the truth: a row is
// called drifted only if the replica must already have applied the source's version of it and shows another; so with nothing wrong,
// nothing is corrected, however hard the source is written and however far the replica lags. It does no I/O and can't fail; where the
// proof is not there it says so, and the key stays a suspect.
package drift

import (
	"time"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
)

// Kind is what is wrong with a row of the replica.
type Kind string

const (
	// Missing: the source has the row, the replica has not.
	Missing Kind = "missing"
	// Mismatched: both have it, with different values.
	Mismatched Kind = "mismatched"
	// Extra: only the replica has it.
	Extra Kind = "extra"
)

// Observed is the replica's row of a key, or its absence.
type Observed struct {
	Key     message.Key
	Present bool
	Version uint64 // changes with every write of the row (Postgres: xmin)
	Digest  uint64
}

// Fetched is the source's row of a key, or its absence, read after the replica's was observed.
type Fetched struct {
	Present bool
	Version uint64
	Digest  uint64
	// Settled: every transaction that wrote this version had ended before the time Through that the request carried.
	Settled bool
	// ReadAt is the source's clock after the snapshot, LSN the position of its log then.
	ReadAt time.Time
	LSN    uint64
	// Values in the order of the schema's columns, in text form, nil for NULL; empty where only the digest was asked for.
	Values [][]byte
}

// Sighting is one look at a key: first how far the replica had got, then its row, then the source's.
type Sighting struct {
	// Through: the replica had applied every source transaction that committed before this time. Zero: unknown.
	Through time.Time
	Replica Observed
	Source  Fetched
}

// Verdict is what a sighting amounts to.
type Verdict int

const (
	// Equal: the replica has what the source has; also when both lack the row.
	Equal Verdict = iota
	// InFlight: they differ, and CDC may still bring the change.
	InFlight
	// Proven: they differ although CDC has passed.
	Proven
)

func (v Verdict) String() string {
	switch v {
	case Equal:
		return "equal"
	case InFlight:
		return "in flight"
	case Proven:
		return "proven"
	default:
		return "unknown"
	}
}

// Equal reports whether both sides agree in this sighting.
func (s Sighting) Equal() bool {
	if !s.Source.Present || !s.Replica.Present {
		return s.Source.Present == s.Replica.Present
	}
	return s.Source.Digest == s.Replica.Digest
}

// Kind names the difference of a sighting that is not Equal.
func (s Sighting) Kind() Kind {
	switch {
	case !s.Replica.Present:
		return Missing
	case !s.Source.Present:
		return Extra
	default:
		return Mismatched
	}
}

// Judge decides a key from its latest sighting and the one before (nil: none yet).
//
// One sighting proves drift where the source's row is settled: it was committed before Through, so the replica had applied it when
// its row was observed; nothing newer existed at the source, which was read later; yet the replica shows something else.
//
// Two sightings prove it where the replica's row has not been written in between and Through has passed the first one's read of the
// source: then everything the first read saw was applied without touching the replica's row, although it differed from what was read.
// An absent row has no version that would tell a write, so there the source's row must not have been written in between either.
func Judge(first *Sighting, now Sighting) Verdict {
	if now.Equal() {
		return Equal
	}
	if now.Through.IsZero() {
		return InFlight
	}
	if now.Source.Present && now.Source.Settled {
		return Proven
	}
	if first == nil || first.Equal() || first.Source.ReadAt.IsZero() || now.Through.Before(first.Source.ReadAt) {
		return InFlight
	}
	if first.Replica.Present != now.Replica.Present || first.Replica.Version != now.Replica.Version {
		return InFlight
	}
	if !now.Replica.Present && first.Source.Version != now.Source.Version {
		return InFlight
	}
	// Nothing is deleted on the strength of one look at the source.
	if !now.Source.Present && first.Source.Present {
		return InFlight
	}
	return Proven
}

// Suspect is a key that differed when it was last looked at.
type Suspect struct {
	Key      message.Key
	Range    message.Range // the range it was found in
	RangeID  uint64
	ResyncID string // the resync that found it, if one did
	Attempts int    // rounds of correction it has had
	Trace    string // what is remembered for its trace; see package tracing
	Last     *Sighting
}

// Change is what to make of a replica's row.
type Change struct {
	// Replica is the row as observed; it is written only while it still is that version.
	Replica Observed
	// Source is what it shall be: a row, or absent.
	Source Fetched
	// Rewrites is the journal entry of an earlier correction that this one replaces; 0 for none.
	Rewrites int64
	ResyncID string
	TraceID  string
	Trace    string // what is remembered for it until the correction is closed; empty: nothing
}

// Kind is the kind of correction that the change is.
func (c Change) Kind() Kind { return Sighting{Replica: c.Replica, Source: c.Source}.Kind() }

// Result of trying a change.
type Result int

const (
	// Written: the row and its journal entry are committed.
	Written Result = iota
	// Moved: the replica's row was no longer the observed version; nothing was written.
	Moved
	// Held: the brake is on, or the gate has closed; nothing was written.
	Held
	// Failed: the replica refused this row; nothing was written.
	Failed
)

// Outcome is what became of a change.
type Outcome struct {
	Result  Result
	Entry   int64    // the journal entry, when Written
	Replica Observed // what the replica holds now, when Written
	Columns []string // that differed, when Written in the place of another row; nil also where they are not known
	Err     error    // when Failed
}

// Copy is a range of the source, whole, for a replica that has none of its rows.
type Copy struct {
	// Range is what was observed empty, and then read.
	Range message.Range
	// Columns by the source's names, in the order in which they stand in Data; Binary tells which of COPY's formats that is in.
	Columns []string
	Binary  bool
	Data    []byte
	// Print is the thumbprint of the rows in Data, all of them settled.
	Print digest.Thumbprint
	// ResyncID and Piece name the part of a resync that it belongs to.
	ResyncID string
	Piece    int
}
