package policy

import (
	"encoding/hex"
	"time"
)

// State is which policy a process works by, and whether the file holds another.
type State struct {
	Since     time.Time  `json:"since"`      // when it came into force
	Version   string     `json:"version"`    // names its text: who shows the same one works by the same text
	Refused   string     `json:"refused"`    // why what the file holds now is not in force; empty: it is
	RefusedAt *time.Time `json:"refused_at"` // null: it is not refused
}

// InForce is the state from now on.
func (p *Policy) InForce(now time.Time) State { return State{Since: now.UTC(), Version: p.Version()} }

// Refuse is the state once an edit was refused.
func (s State) Refuse(why error, now time.Time) State {
	now = now.UTC()
	s.Refused, s.RefusedAt = why.Error(), &now
	return s
}

// Version names the text that the policy was parsed from.
func (p *Policy) Version() string { return hex.EncodeToString(p.source[:6]) }
