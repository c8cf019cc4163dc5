// Package page is the live page: how things stand, at a glance, in a browser.
//
// It decides how a state looks and how it gets to whoever watches. What always holds: one state is read at a time, at most one a second and for at most a tenth of
// the time, however many watch, and none while nobody does; what is sent is bounded, however large the tables are; keys and values look as the policy's privacy says;
// the page needs nothing from elsewhere, runs no script but its own, and shows the same without any. When a state can't be read, the page says so, and shows what is known
// of it all the same and of the rest what was known last; who reads too slowly is dropped, and comes back by itself; when the process ends, so do the streams.
package page

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/policy"
)

// State is what is shown: of a replica, of a source, or of both.
type State struct {
	Pipeline string
	At       time.Time
	Policy   *policy.Policy
	InForce  policy.State
	Replica  *ledger.View // nil: it is another process's
	Scan     *Scan        // nil: likewise
	// Unread: the replica's half can't be read, and never was.
	Unread bool
	// Flags are what the commands shown need besides, such as " --policy FILE".
	Flags string
}

// Scan is how far the publisher is.
type Scan struct {
	Source        string
	Standby       bool
	Waiting       string // why nothing is being scanned; empty while something is
	Until         time.Time
	RowsPerSecond float64
	Speed         float64 // below 1 while the source is busy
	Shares        int
	Mine          int
	Tables        []ScanTable
	Baseline      *Baseline // nil: the policy has none, or another publisher keeps it
}

// ScanTable is one table of it.
type ScanTable struct {
	Table   string
	Cycle   uint64
	Started time.Time
	Done    int
	Ranges  int
	Paused  string
	Retry   time.Time
	Strip   []ledger.Cell // of what is this publisher's
}

// Baseline is how the base-line view stands.
type Baseline struct {
	Set    string
	Valid  bool
	Reason string
}

// Notice is something that waits or is held, with what mends it.
type Notice struct {
	Level   string // stop, wait or note
	What    string
	Why     string
	Since   *time.Time
	Command string // empty: it ends by itself
}

// Notices are what does not go on by itself, the gravest first.
func (s State) Notices() []Notice {
	var stops, waits, notes []Notice
	if s.InForce.Refused != "" {
		waits = append(waits, Notice{"wait", "An edit of the policy is refused; the one of " + utc(s.InForce.Since) + " stays in force", s.InForce.Refused, s.InForce.RefusedAt, "trickle policy validate " + s.file()})
	}
	if r := s.Replica; r != nil {
		if r.Brake.On {
			stops = append(stops, Notice{"stop", "The brake is on: nothing is corrected until a person releases it", r.Brake.Reason, nil, s.command("trickle-consumer brake --release")})
		}
		if n := s.restore(); n != nil {
			stops = append(stops, *n)
		}
		if !r.Gate.Open {
			waits = append(waits, Notice{"wait", "The gate is closed: drift is noted, and nothing is corrected", r.Gate.Reason, nil, s.command("trickle-consumer check")})
		}
		for _, y := range r.Resyncs {
			if y.State == "waiting" {
				waits = append(waits, Notice{"wait", fmt.Sprintf("A %s resync of %s waits for approval", y.Scope, y.Table), y.Why, &y.Requested, s.command("trickle-consumer resync --approve " + y.ID)})
			}
		}
		for _, t := range r.Tables {
			if t.Paused != "" {
				stops = append(stops, Notice{"stop", t.Table + " is paused: nothing is done about it", t.Paused, nil, s.mends(t.Paused)})
			}
			if t.Unscanned != nil && !s.scanTells(t.Table) {
				stops = append(stops, Notice{"stop", t.Table + " is not verified: the publisher does not scan it", t.Unscanned.Reason, &t.Unscanned.Since, s.looks(t.Unscanned.Reason)})
			}
			if t.Reported.All() > 0 {
				waits = append(waits, s.leftAlone(t))
			}
			if t.Failed > 0 {
				notes = append(notes, Notice{"note", fmt.Sprintf("%s of %s could not be corrected and were given up", rows(t.Failed), t.Table), t.LastFailure, nil, s.command("trickle-consumer resync --table " + t.Table)})
			}
		}
		if r.Refused > 0 {
			notes = append(notes, Notice{"note", fmt.Sprintf("%s refused: unreadable, or not signed by the publisher", count(int64(r.Refused), "message was", "messages were")), r.RefusedReason, nil, s.command("trickle tap")})
		}
		if s.Policy != nil && s.Policy.Detect.Action == policy.ActionReport {
			notes = append(notes, Notice{"note", "Drift is only reported", "detect.action is report in the policy", nil, ""})
		}
	}
	if c := s.Scan; c != nil {
		for _, t := range c.Tables {
			if t.Paused != "" {
				stops = append(stops, Notice{"stop", t.Table + " is paused: it is not scanned", t.Paused, nil, s.looks(t.Paused)})
			}
		}
		if b := c.Baseline; b != nil && !b.Valid {
			stops = append(stops, Notice{"stop", "There is no restore point", cmp.Or(b.Reason, "no set of the base-line view is complete yet"), nil, s.command("trickle status")})
		}
	}
	return append(append(stops, waits...), notes...)
}

// scanTells tells whether the publisher shows here itself that it does not scan a table.
func (s State) scanTells(table string) bool {
	return s.Scan != nil && slices.ContainsFunc(s.Scan.Tables, func(t ScanTable) bool { return t.Table == table && t.Paused != "" })
}

// leftAlone is of rows that are proven to differ.
func (s State) leftAlone(t ledger.TableReport) Notice {
	n := Notice{"wait", differ(t.Reported.All()) + " in " + t.Table + ", and " + unit(int64(t.Reported.All()), "is", "are") + " left alone",
		inWords(t.Reported, 0), nil, s.command("trickle-consumer drift --table " + t.Table)}
	if s.Policy == nil || s.Policy.Detect.Action == policy.ActionReport {
		n.Why += "; detect.action: correct in the policy has them corrected"
	} else {
		n.Why += "; found while drift was only reported, they are corrected when their ranges are verified again"
	}
	return n
}

func (s State) restore() *Notice {
	r := s.Replica.Restore
	if r == nil || r.State == "done" || r.State == "abandoned" {
		return nil
	}
	n := Notice{"stop", "A restore is under way: nothing is corrected until it is proven", fmt.Sprintf("set %s: %s, %d of %d ranges", r.Set, r.State, r.RangesDone, r.Ranges), &r.Started, ""}
	if r.Failure != "" {
		n.What, n.Why, n.Command = "A restore has stopped", cmp.Or(r.Stopped, r.State)+": "+r.Failure, s.command("trickle-consumer restore --play-forward")
	}
	return &n
}

// looks is the command for a table that can't be scanned; empty where the reason has what mends it.
func (s State) looks(reason string) string {
	if strings.Contains(reason, "ALTER TABLE ") {
		return ""
	}
	return s.command("trickle check")
}

// mends finds the command in a reason that names one.
func (s State) mends(reason string) string {
	if _, after, ok := strings.Cut(reason, "trickle-consumer pin --source "); ok {
		source, _, _ := strings.Cut(after, " ")
		return s.command("trickle-consumer pin --source " + strings.TrimRight(source, ".,;)"))
	}
	return s.command("trickle-consumer check")
}

func (s State) command(c string) string { return c + s.Flags }

func (s State) file() string { return cmp.Or(strings.TrimPrefix(s.Flags, " --policy "), "FILE") }
