package page

// Headline is the state in a few words.
func (m model) Headline() string {
	stops, waits := 0, 0
	for _, n := range m.Shown {
		switch n.Level {
		case "stop":
			stops++
		case "wait":
			waits++
		}
	}
	switch {
	case stops > 0:
		return count(int64(stops), "thing is", "things are") + " stopped"
	case waits > 0:
		return count(int64(waits), "thing waits", "things wait")
	case m.running():
		return "resyncing"
	case m.Replica != nil && len(m.Replica.Tables) == 0:
		return "waiting for the first message"
	case m.reached() != "":
		return "a threshold is reached: " + m.reached()
	case m.drifting():
		return "drift is being corrected"
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
	if m.drifting() {
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
