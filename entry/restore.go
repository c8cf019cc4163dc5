package entry

import "time"

// States of a restore.
const (
	RestoreLoading   = "loading"   // ranges are being copied in, and what holds for any rows made
	RestoreLoaded    = "loaded"    // all of that is there
	RestorePlaying   = "playing"   // CDC brings what came since
	RestoreFinishing = "finishing" // what holds only among rows of one moment is being made
	RestoreProving   = "proving"   // a full pass against the source is under way
	RestoreDone      = "done"
	RestoreFailed    = "failed"    // it stopped with an error, and may be taken up again
	RestoreAbandoned = "abandoned" // somebody gave it up
)

// Restore is one restore of a replica from a set of the base-line view.
type Restore struct {
	ID        string
	Set       string
	Source    string // that the set is of
	State     string
	Stopped   string // of a failed one: the state in which it failed
	Failure   string
	Arguments map[string]string // that it was begun with, for people
	Started   time.Time
	Ended     time.Time // zero: it has not
	Tables    []RestoredTable
	NotMade   []NotMade

	Ranges, Done int
	Rows, Bytes  int64 // of the ranges that are done; bytes as they are stored
}

// Open tells whether it has yet to come to an end.
func (r Restore) Open() bool { return r.State != RestoreDone && r.State != RestoreAbandoned }

// NotMade is an index or a constraint that a restore could not make.
type NotMade struct {
	Table string `json:"table"`
	Name  string `json:"name"`
	SQL   string `json:"sql"` // makes it, once the reason is gone
	Error string `json:"error"`
}

// RestoredTable is a table of one.
type RestoredTable struct {
	Table   string // as the source calls it
	Replica string // as the replica does
	Created bool   // the restore made it
	Indexed bool   // all that holds for any rows has been made
}

// RestoredRange is an object of the set, and whether it has been copied in.
type RestoredRange struct {
	N      int
	Table  string
	Object string
	Rows   int64
	Bytes  int64
	Done   bool
}
