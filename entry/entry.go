// Package entry is what stands in a replica's ledger, as plain records: ranges that were compared, discrepancies, corrections, copies, resyncs with their
// snapshots, and the gate.
//
// It decides nothing and does no I/O, so nothing here can fail. It lies apart from package ledger, which keeps these records in Postgres, so that the detector
// can be embedded over a replica of another kind without bringing a database along.
package entry

import (
	"time"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/message"
)

// Gate is whether corrections may be made, and why not.
type Gate struct {
	Open   bool
	Lag    time.Duration // negative: unknown
	Reason string
	// Sources are the ways by which the lag is known, each with its own.
	Sources []GateSource
}

// GateSource is one of them.
type GateSource struct {
	Name   string        // heartbeat, slot, group or assumed
	Lag    time.Duration // negative: unknown
	Reason string        // why it closes the gate; empty: it does not
}

// Verified is a range that was compared.
type Verified struct {
	Table   string
	Range   message.Range
	RangeID uint64
	Cycle   uint64
	Ranges  uint64 // how many the table has
	Rows    uint64
	Digest  digest.Kind
	Equal   bool
	ReadAt  time.Time // the source's clock when the publisher read it
}

// Unscanned is a table that the publisher does not scan, as it says.
type Unscanned struct {
	Table   string
	Replica string    // what it is called here
	Reason  string    // empty: it is scanned
	At      time.Time // the source's clock when it was found so
}

// Discrepancy is a proven difference.
type Discrepancy struct {
	Key     message.Key
	Kind    drift.Kind
	Range   message.Range
	RangeID uint64
}

// Tally is a table's sliding window.
type Tally struct {
	Discrepancies int
	Rows          int // verified within the window
	// Worst is the neighbourhood (a range and the ranges that touch it) with the most discrepancies.
	Worst      message.Range
	WorstCount int
	WorstRows  int
}

// Settled is how a batch of suspects came out.
type Settled struct {
	Done     []message.Key // taken off the list
	Resolved int           // of these: found equal
	Failed   int           // of these: given up
	Failure  string        // why the last one was
	// Left are those of Done that are proven to differ and stay as they are, since the policy only wants reports.
	Left []Discrepancy
	// FailedOf counts the given up ones that a resync had found, by its id.
	FailedOf map[string]int
	Again    []drift.Suspect
	Due      time.Duration // when Again is looked at again
}

// Outcomes of a correction.
const (
	Confirmed  = "confirmed"  // a source read that began after the write agreed
	Superseded = "superseded" // the replica moved on by itself, or a later correction rewrote it
)

// OpenCorrection is one that was written and not yet confirmed.
type OpenCorrection struct {
	Entry    int64
	Key      message.Key
	Kind     drift.Kind
	Version  uint64
	ResyncID string
	At       time.Time // that it was written
	TraceID  string
	Trace    string // what is remembered for it; see package tracing
}

// Ended is what came of a resync.
type Ended struct {
	Now             bool   // it ended now, and not before
	State           string // done or failed
	Requested       time.Time
	Rows, Corrected int64
}

// Scopes of a resync.
const (
	Partial = "partial"
	Full    = "full"
)

// Resync is one resync of a table or of a part of it.
type Resync struct {
	ID      string
	Scope   string
	Table   string
	Range   message.Range
	State   string // waiting, running, done, failed
	Reason  string
	Planned bool
	// Snapshot: Debezium makes one for it, and the resync itself only removes what is extra.
	Snapshot bool
	Rows     int64
}

// Wish is a resync that a threshold or a person asks for.
type Wish struct {
	ID       string
	Scope    string
	Table    string
	Range    message.Range
	Reason   string
	Waiting  bool          // for an approval
	Cooldown time.Duration // refuse when one of the same scope and table was asked for within this time; 0: a person asks
	// Since has all others of the table give way that were asked for before, wait for an approval, or are a connector's: what they have looked at was looked at before then. Zero: none does.
	Since time.Time
}

// Piece is one range of a resync.
type Piece struct {
	N     int
	Range message.Range
	// Copies of it that were written before it was taken, and never confirmed.
	Copies []int64
	// Differing are the rows of it that were not the same on both sides when they were looked at, whatever became of them.
	Differing int
}

// Pass is what a full resync of a table has come to.
type Pass struct {
	ID, Table, State string
	Planned          bool
	Ranges, Done     int
	Agreed           int   // ranges in which no row differed when it was looked at
	Rows             int64 // looked at
	Corrected        int64
	Refused          int64 // rows that the replica would not take
	Suspects         int64 // rows that differ, as far as is known, and have yet to be settled
	Failure          string
}

// Over tells whether nothing more becomes of it.
func (p Pass) Over() bool { return p.State != "waiting" && p.State != "running" }

// Proven tells whether every row of the table was the source's when it was last looked at.
func (p Pass) Proven() bool { return p.State == "done" && p.Refused == 0 }

// OpenCopy is a range that was copied whole and not yet confirmed.
type OpenCopy struct {
	ID       int64
	Table    string
	Range    message.Range
	ResyncID string
}

// States of a snapshot that a resync has Debezium make.
const (
	SnapshotDue       = "due"       // to be signalled, or signalled again
	SnapshotSignalled = "signalled" // the signal was sent and not yet answered
	SnapshotStarted   = "started"   // Debezium reads the table
	SnapshotPaused    = "paused"    // somebody told Debezium to pause
	SnapshotApplying  = "applying"  // the table was read, and the replica has yet to apply what was
	SnapshotSweeping  = "sweeping"  // the replica has applied it; rows that only the replica has are being removed
	SnapshotRefused   = "refused"   // Debezium can't read the table until somebody changes something
)

// Snapshot is how far Debezium has got with the snapshot of a resync.
type Snapshot struct {
	ResyncID string
	Table    string
	State    string
	// Signal is the id of the newest signal, Attempts how many were sent.
	Signal   string
	Attempts int
	// Idle is how long ago it last got on, by the ledger's clock.
	Idle time.Duration
	// Scan is how Debezium says that the scan of the table ended, empty until it does; Rows how many rows it says that it read.
	Scan string
	Rows int64
	// Through, once read, is a time of the source's clock: a replica that has applied everything up to it has applied the snapshot.
	Through time.Time
	// Remaining counts rows that differed for certain although the snapshot was applied.
	Remaining int64
	// Failure is why the last attempt did not succeed.
	Failure string
	// Version grows with every change that is stored.
	Version int64
}
