package notebook

import (
	"context"
	"slices"
	"time"

	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/message"
)

// Pin takes the first source for the right one and returns the one that was taken.
func (n *Notebook) Pin(_ context.Context, source string) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.source == "" {
		n.source = source
	}
	return n.source, nil
}

// Refused counts a message that could not be read or believed.
func (n *Notebook) Refused(_ context.Context, reason string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refused++
	n.refusal = reason
	return nil
}

// Table notes that a table is verified.
func (n *Notebook) Table(_ context.Context, name, replica string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.table(name).Replica = replica
	return nil
}

// Pause notes why nothing is done about a table.
func (n *Notebook) Pause(_ context.Context, name, reason string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.table(name).Paused = reason
	return nil
}

// Unscanned notes what the publisher says of a table.
func (n *Notebook) Unscanned(_ context.Context, u entry.Unscanned) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := n.table(u.Table)
	if t.Replica == "" {
		t.Replica = u.Replica
	}
	if !u.At.Before(t.told) && (u.Reason == "" || !u.At.Before(t.read)) {
		t.Unscanned, t.told = u.Reason, u.At
	}
	return nil
}

// Record notes that a range was compared, and the keys of it that are suspect. A key that is suspect already stays as it was found.
func (n *Notebook) Record(_ context.Context, v entry.Verified, suspects []drift.Suspect, due time.Duration) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := n.table(v.Table)
	t.Paused = ""
	if v.ReadAt.After(t.read) {
		t.read = v.ReadAt
	}
	if t.read.After(t.told) {
		t.Unscanned = ""
	}
	if v.Equal {
		t.Ranges++
		t.Rows += v.Rows
	} else {
		t.Differed++
	}
	t.ranges[v.RangeID] = verified{v, n.now()}
	for _, s := range suspects {
		if id := s.Key.ID(); t.suspects[id] == nil {
			t.suspects[id] = &suspect{s, n.now().Add(due)}
		}
	}
	return nil
}

// Due takes suspects of one table that are to be looked at now; nobody else gets them before the lease is over.
func (n *Notebook) Due(_ context.Context, limit int, lease time.Duration) (string, []drift.Suspect, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.now()
	for name, t := range n.tables {
		var out []drift.Suspect
		for _, s := range t.suspects {
			if len(out) < limit && !s.due.After(now) {
				s.due = now.Add(lease)
				out = append(out, s.Suspect)
			}
		}
		if len(out) > 0 {
			return name, out, nil
		}
	}
	return "", nil, nil
}

// Settle notes how suspects came out.
func (n *Notebook) Settle(_ context.Context, name string, s entry.Settled) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := n.table(name)
	for _, k := range s.Done {
		delete(t.suspects, k.ID())
	}
	for _, again := range s.Again {
		t.suspects[again.Key.ID()] = &suspect{again, n.now().Add(s.Due)}
	}
	t.Resolved += s.Resolved
	t.Failed += s.Failed
	if s.Failure != "" {
		t.Failure = s.Failure
	}
	return nil
}

// Suspects counts them, or those that a resync found.
func (n *Notebook) Suspects(_ context.Context, resyncID string) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := 0
	for _, t := range n.tables {
		for _, s := range t.suspects {
			if resyncID == "" || s.ResyncID == resyncID {
				count++
			}
		}
	}
	return count, nil
}

// Count puts proven differences into the window, once a key.
func (n *Notebook) Count(_ context.Context, name string, discrepancies []entry.Discrepancy) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := n.table(name)
	for _, d := range discrepancies {
		if !slices.ContainsFunc(t.found, func(f found) bool { return f.Key.Equal(d.Key) }) {
			t.found = append(t.found, found{d, n.now()})
		}
	}
	return nil
}

// Tally counts what the window holds for a table.
func (n *Notebook) Tally(_ context.Context, name string, window time.Duration) (entry.Tally, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	t, since := n.table(name), n.now().Add(-window)
	var out entry.Tally
	for _, v := range t.ranges {
		if v.at.After(since) {
			out.Rows += int(v.Rows)
		}
	}
	asked := n.lastAsked(name)
	for _, middle := range t.found {
		if !middle.at.After(since) {
			continue
		}
		out.Discrepancies++
		near := 0
		for _, f := range t.found {
			if f.at.After(since) && f.at.After(asked) && touches(f.Range, middle.Range) {
				near++
			}
		}
		if near > out.WorstCount {
			out.Worst, out.WorstCount = middle.Range, near
		}
	}
	for _, v := range t.ranges {
		if out.WorstCount > 0 && v.at.After(since) && touches(v.Range, out.Worst) {
			out.WorstRows += int(v.Rows)
		}
	}
	return out, nil
}

// lastAsked is when a resync of the table was last asked for: what led to that one does not lead to the next around a neighbour.
func (n *Notebook) lastAsked(name string) time.Time {
	var at time.Time
	for _, w := range n.wishes {
		if w.Table == name && w.at.After(at) {
			at = w.at
		}
	}
	return at
}

// touches tells ranges that are the same or neighbours.
func touches(a, b message.Range) bool {
	same := a.Lo.Equal(b.Lo) && a.Hi.Equal(b.Hi)
	return same || a.Hi != nil && a.Hi.Equal(b.Lo) || a.Lo != nil && a.Lo.Equal(b.Hi)
}

// Covers tells whether the whole table is being filled anew.
func (n *Notebook) Covers(_ context.Context, name string) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.wishes, func(w wish) bool {
		return w.Table == name && w.Scope == entry.Full && !w.Waiting && !w.over
	}), nil
}

// Request asks for a resync, unless one that covers it is under way or was asked for within the cooldown.
func (n *Notebook) Request(_ context.Context, w entry.Wish) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.now()
	for _, was := range n.wishes {
		sameRange := was.Range.Lo.Equal(w.Range.Lo) && was.Range.Hi.Equal(w.Range.Hi)
		covers := was.Table == w.Table && (was.Scope == entry.Full || was.Scope == w.Scope && sameRange)
		if covers && (!was.over || w.Cooldown > 0 && was.at.After(now.Add(-w.Cooldown))) {
			return false, nil
		}
	}
	n.wishes = append(n.wishes, wish{Wish: w, at: now})
	return true, nil
}

// Open gives corrections of one table that were written at least so long ago and never confirmed.
func (n *Notebook) Open(_ context.Context, age time.Duration, limit int) (string, []entry.OpenCorrection, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	name, before := "", n.now().Add(-age)
	var out []entry.OpenCorrection
	for _, c := range n.corrections {
		if c.Outcome != "" || c.At.After(before) || name != "" && c.Table != name || len(out) == limit {
			continue
		}
		name = c.Table
		out = append(out, entry.OpenCorrection{Entry: c.ID, Key: c.Key, Kind: c.Kind, Version: c.Version, ResyncID: c.ResyncID, At: c.At, TraceID: c.TraceID, Trace: c.Trace})
	}
	return name, out, nil
}

// Close notes the outcome of corrections, and returns those that had none.
func (n *Notebook) Close(_ context.Context, outcome string, ids []int64) ([]int64, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.outcome(outcome, ids), nil
}

func (n *Notebook) outcome(outcome string, ids []int64) (closed []int64) {
	for i := range n.corrections {
		if c := &n.corrections[i]; c.Outcome == "" && slices.Contains(ids, c.ID) {
			c.Outcome = outcome
			closed = append(closed, c.ID)
		}
	}
	return closed
}

// Braked says why nothing may be corrected; empty: it may.
func (n *Notebook) Braked(context.Context) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.brake, nil
}

// SaveGate notes the gate's verdict.
func (n *Notebook) SaveGate(_ context.Context, g entry.Gate, _ time.Duration, _ time.Time) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gate = g
	return nil
}

// Baseline remembers the newest set of the base-line view.
func (n *Notebook) Baseline(_ context.Context, b entry.Baseline) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if b.Taken.After(n.baseline.Taken) {
		n.baseline = b
	}
	return nil
}
