package drift_test

import (
	"fmt"
	"strings"
	"testing"
)

// A range that is copied whole, as one of its keys sees it: observed absent, read, written unless it is there by now, and confirmed together with the
// rest of the range. A confirm that does not agree may be some other key's fault; then all of them are looked at, and what differs goes the way of single keys.
const (
	copyObserving phase = iota + 100
	copyReading
	copyWriting
	copyConfirming
	lookingHere
	lookingThere
)

// copying is how a range is copied; without its confirm step it is wrong.
type copying struct{ confirm bool }

func (c copying) steps(w world) []step {
	out := replication(w)
	n := w
	switch w.phase {
	case copyObserving:
		if w.replica != 0 {
			break // the range is not empty: it is not copied
		}
		n.observed, n.phase = 0, copyReading
		out = append(out, step{n, "the range is observed empty"})
	case copyReading:
		n.fetched, n.phase = w.now(), copyWriting
		out = append(out, step{n, fmt.Sprintf("the stream has %s", row(n.fetched))})
	case copyWriting:
		switch {
		case w.fetched != 0 && w.replica != 0:
			n.phase = lookingHere
			out = append(out, step{n, "the copy meets a row and is not written"})
			return out
		case w.fetched != 0:
			n.replica, n.touched = w.fetched, false
		}
		n.phase = copyConfirming
		if !c.confirm {
			n.phase = closed
		}
		out = append(out, step{n, fmt.Sprintf("the copy is written with %s", row(w.fetched))})
	case copyConfirming:
		if w.now() == w.fetched {
			n.phase = closed
			out = append(out, step{n, fmt.Sprintf("the range agrees with %s", row(w.now()))})
		}
		// Another key differs, or whoever wrote the copy died and somebody else looks.
		n.phase = lookingHere
		out = append(out, step{n, "the range does not agree"})
	case lookingHere:
		n.observed, n.phase = w.replica, lookingThere
		out = append(out, step{n, fmt.Sprintf("the replica is listed with %s", row(w.replica))})
	case lookingThere:
		n.phase = observing
		if w.now() == w.observed {
			n.phase = closed
		}
		out = append(out, step{n, fmt.Sprintf("the source is listed with %s", row(w.now()))})
	default:
		return protocol{confirm: true}.steps(w) // a suspect that was proven
	}
	return out
}

func (c copying) different() (trace []string, states int) {
	var starts []world
	for source := range int8(2) {
		starts = append(starts, world{source: [mostWrites + 1]int8{source}, rewinds: 2, phase: copyObserving})
	}
	return search(starts, func(w world) (to []world, what []string) {
		for _, s := range c.steps(w) {
			to, what = append(to, s.to), append(what, s.what)
		}
		return to, what
	}, func(w world) bool {
		return w.phase == closed && w.applied == w.writes && w.replica != w.now()
	})
}

func TestCopyNeverEndsDifferent(t *testing.T) {
	t.Parallel()
	trace, states := copying{confirm: true}.different()
	if trace != nil {
		t.Fatalf("ends different:\n%s", strings.Join(trace, "\n"))
	}
	if states < 10_000 {
		t.Fatalf("only %d states were looked at: the model is not what it says", states)
	}
	t.Logf("%d states", states)
}

// The resurrection again.
func TestCopyNeedsItsConfirmStep(t *testing.T) {
	t.Parallel()
	trace, _ := copying{}.different()
	if trace == nil {
		t.Fatal("found no way to end different without the confirm step: the model sees nothing")
	}
	t.Logf("without the confirm step:\n%s", strings.Join(trace, "\n"))
}
