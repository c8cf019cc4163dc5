package debezium

import (
	"fmt"
	"strings"

	"github.com/trickle-verify/trickle/entry"
)

// Follow is where a snapshot of the table stands once a notification of its connector has come. One that says nothing about it leaves it as it is.
func Follow(s entry.Snapshot, collection string, n Notification) entry.Snapshot {
	mine := n.ID == s.Signal
	switch {
	case !mine && strings.HasPrefix(n.ID, ours(s.ResyncID)):
		return s // of an earlier attempt, told again: the connector goes by the newer id
	case s.State == entry.SnapshotSignalled && mine:
		s.State, s.Scan, s.Rows, s.Failure = entry.SnapshotStarted, "", 0, ""
	case s.State == entry.SnapshotStarted || s.State == entry.SnapshotPaused:
	default:
		return s
	}
	s.Idle = 0
	about := func(name string) bool { return name == collection || name == pattern(collection) } // a table that it does not know goes by the pattern
	switch n.Type {
	case Started:
		if mine && !n.lists(collection) && !n.lists(pattern(collection)) {
			return refuse(s, "the connector took the signal and starts a snapshot without the table, whose name it can't read")
		}
	case Paused:
		s.State = entry.SnapshotPaused
	case Resumed:
		s.State = entry.SnapshotStarted
	case Aborted:
		if n.lists(collection) || mine && n.Collections == "" {
			return Again(s, "the snapshot was stopped at the connector")
		}
	case TableScanCompleted:
		s.State = entry.SnapshotStarted
		if about(n.Scanned) {
			s.Scan, s.Rows = n.Status, n.Rows
		}
	case Completed:
		return completed(s, collection)
	default:
		s.State = entry.SnapshotStarted // it reads, so it is paused no longer
	}
	return s
}

// completed tells what it means that the connector's queue is empty.
func completed(s entry.Snapshot, collection string) entry.Snapshot {
	switch s.Scan {
	case scanSucceeded, scanEmpty:
		s.State = entry.SnapshotApplying
		return s
	case scanNoKey:
		return refuse(s, fmt.Sprintf("Debezium finds no primary key in %s: give it one, name columns under the connector's message.key.columns, or use resync.via: side-channel", collection))
	case scanUnknownTable:
		return refuse(s, fmt.Sprintf("the connector does not capture %s: add it to its table.include.list, or use resync.via: side-channel", collection))
	case scanSQL:
		return Again(s, fmt.Sprintf("Debezium's query of %s failed; the connector's log has the reason", collection))
	case "":
		return s // another's, told in the moment in which the signal was taken
	default:
		return Again(s, fmt.Sprintf("Debezium says of the scan of %s: %s", collection, s.Scan))
	}
}

func refuse(s entry.Snapshot, why string) entry.Snapshot {
	s.State, s.Failure = entry.SnapshotRefused, why
	return s
}

// Again lets a snapshot be signalled once more, and keeps why.
func Again(s entry.Snapshot, why string) entry.Snapshot {
	s.State, s.Failure, s.Idle = entry.SnapshotDue, why, 0
	return s
}
