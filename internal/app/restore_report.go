package app

import (
	"time"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/playforward"
	"github.com/trickle-verify/trickle/restore"
)

// Phases of a restore, for whoever watches.
const (
	PhaseLoad   = "load"
	PhasePlay   = "play"
	PhaseFinish = "finish"
	PhaseProve  = "prove"
	PhaseFollow = "follow"
)

// RestoreProgress is how far a restore is: of its phases, the one that is under way is told of.
type RestoreProgress struct {
	Phase string
	Load  restore.Progress
	Play  playforward.Progress
	Left  int64 // records that the user's own sink has yet to read
	Proof Proof
}

// RestoreReport is what a restore did.
type RestoreReport struct {
	Pipeline string `json:"pipeline"`
	// Loaded is false where the replica needed nothing but what came since; Reason says why it was or was not.
	Loaded bool   `json:"loaded"`
	Reason string `json:"reason"`
	// Resumed: it went on with a restore that had stopped.
	Resumed bool        `json:"resumed"`
	Set     *RestoreSet `json:"set"`
	Played  *Played     `json:"played"` // null: the log was not played forward by this process
	Group   string      `json:"group"`  // whose offsets were set
	Made    []string    `json:"made"`   // what could be made only now
	Failed  []NotMade   `json:"failed"` // what could not
	LeftOut []string    `json:"left_out"`
	Proof   *Proof      `json:"proof"` // null: it was not asked for
	Notes   []string    `json:"notes"`
	Seconds float64     `json:"seconds"`
}

// RestoreSet is the set that was loaded.
type RestoreSet struct {
	Set       string    `json:"set"`
	Taken     time.Time `json:"taken"` // when its position in the CDC's logs was read
	Tables    int       `json:"tables"`
	Ranges    int       `json:"ranges"`
	Rows      int64     `json:"rows"`
	Bytes     int64     `json:"bytes"` // of its objects
	Travelled string    `json:"travelled"`
	Seconds   float64   `json:"seconds"` // of loading
}

// Played is what was played forward.
type Played struct {
	Applied    uint64  `json:"applied"`
	Duplicates uint64  `json:"duplicates"`
	Incomplete uint64  `json:"incomplete"`
	Outside    uint64  `json:"outside"`
	Seconds    float64 `json:"seconds"`
}

// NotMade is an index or a constraint that the replica lacks.
type NotMade = entry.NotMade

// Sound tells whether nothing is left to be done.
func (r RestoreReport) Sound() bool { return len(r.Failed) == 0 && (r.Proof == nil || r.Proof.Proven) }
