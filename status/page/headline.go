package page

import "github.com/trickle-verify/trickle/policy"

// Headline is the state in a few words.
func (m model) Headline() string {
	stops, waits, alone := 0, 0, m.alone()
	for _, n := range m.Shown {
		switch n.Level {
		case "stop":
			stops++
		case "wait":
			waits++
		}
	}
	if m.Replica != nil { // those that wait for no more than a look at them
		for _, t := range m.Replica.Tables {
			if t.Reported.All() > 0 {
				waits--
			}
		}
	}
	switch {
	case stops > 0:
		return count(int64(stops), "thing is", "things are") + " stopped"
	case waits > 0:
		return count(int64(waits), "thing waits", "things wait")
	case alone > 0:
		return differ(alone) + ", and " + unit(int64(alone), "is", "are") + " left alone"
	case m.running():
		return "resyncing"
	case m.Replica != nil && len(m.Replica.Tables) == 0:
		return "waiting for the first message"
	case m.reached() != "":
		return "a threshold is reached: " + m.reached()
	case m.drifting() && m.Policy != nil && m.Policy.Detect.Action == policy.ActionReport:
		return "suspects are being looked into"
	case m.drifting():
		return "drift is being corrected"
	case m.Replica == nil && m.Scan != nil: // of how the replicas stand nothing is known here
		return "the source is scanned"
	default:
		return "all is well"
	}
}

// Level is how grave that is.
func (m model) Level() string {
	for _, n := range m.Shown {
		if n.Level != "note" {
			return n.Level // the gravest come first
		}
	}
	if m.running() {
		return "busy"
	}
	if m.reached() != "" {
		return "wait"
	}
	if m.drifting() || m.Replica != nil && len(m.Replica.Tables) == 0 {
		return "busy"
	}
	return "good"
}

// reached is what a threshold leads to that was reached and is not answered yet; empty: none is.
func (m model) reached() string {
	for _, l := range m.Levels {
		if l.Passed {
			return l.Leads
		}
	}
	return ""
}

func (m model) running() bool {
	if m.Replica == nil {
		return false
	}
	for _, r := range m.Replica.Resyncs {
		if r.State == "running" {
			return true
		}
	}
	return false
}

func (m model) drifting() bool {
	if m.Replica == nil {
		return false
	}
	n := m.Replica.Unconfirmed
	for _, t := range m.Replica.Tables {
		n += t.Suspects
	}
	return n > 0
}

// alone counts rows that are proven to differ and are left as they are.
func (m model) alone() (n int) {
	if m.Replica != nil {
		for _, t := range m.Replica.Tables {
			n += t.Reported.All()
		}
	}
	return n
}

func differ(n int) string { return count(int64(n), "row differs", "rows differ") }
