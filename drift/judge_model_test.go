package drift_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/drift"
)

// Judge as a state machine over one key: every interleaving of source commits, of an in-order CDC with any lag, and of two sightings, each made of
// three reads (how far CDC got, the replica, the source). Commit i happens at time 2i.

const (
	mostCommits = 4
	searched    = 3 // commits in the exhaustive search: a fourth finds nothing more and takes ten times as long
)

// look is a sighting under way or made, in comparable form.
type look struct {
	through                         int8
	replica, replicaVersion         int8
	source, sourceVersion, readTime int8
}

func at(t int8) time.Time { return time.Unix(int64(t)+1000, 0) }

func (l look) sighting(settles bool) drift.Sighting {
	return drift.Sighting{
		Through: at(l.through),
		Replica: drift.Observed{Present: l.replica != 0, Version: uint64(l.replicaVersion), Digest: uint64(l.replica)},
		Source: drift.Fetched{
			Present: l.source != 0, Version: uint64(l.sourceVersion), Digest: uint64(l.source), ReadAt: at(l.readTime),
			Settled: settles && l.source != 0 && 2*l.sourceVersion < l.through,
		},
	}
}

// pipe is one state: the source's history, the replica as CDC made it, and the sightings.
type pipe struct {
	source  [mostCommits + 1]int8 // 0: absent
	commits int8
	applied int8
	replica int8
	version int8 // of the replica's row, 0 while absent
	next    int8 // the replica's next version
	lost    int8 // the commit that CDC loses, 0: none

	reads       int8 // 0 to 6: three for each sighting
	first, then look
}

// sourceVersion is the commit that wrote the source's row; its first version is 0.
func (p pipe) sourceVersion() int8 {
	if p.source[p.commits] == 0 {
		return 0
	}
	return p.commits
}

// through is the newest time before which everything is applied, as a heartbeat that went the same way would tell.
func (p pipe) through() int8 { return min(2*(p.applied+1), 2*p.commits+1) }

// order is how a sighting's three reads follow on each other.
type order [3]func(pipe, *look)

func throughFirst(p pipe, l *look) { l.through = p.through() }
func replicaNext(p pipe, l *look)  { l.replica, l.replicaVersion = p.replica, p.version }
func sourceLast(p pipe, l *look) {
	l.source, l.sourceVersion, l.readTime = p.source[p.commits], p.sourceVersion(), 2*p.commits+1
}

func rightOrder() order { return order{throughFirst, replicaNext, sourceLast} }

func (p pipe) commit(v int8) pipe {
	p.commits++
	p.source[p.commits] = v
	return p
}

func (p pipe) deliver() pipe {
	p.applied++
	if p.applied == p.lost {
		return p
	}
	if p.replica = p.source[p.applied]; p.replica == 0 {
		p.version = 0
		return p
	}
	p.next++
	p.version = p.next
	return p
}

func (o order) steps(p pipe) (to []pipe, what []string) {
	if p.commits < searched {
		for v := range int8(3) {
			if v != 0 || p.source[p.commits] != 0 {
				to, what = append(to, p.commit(v)), append(what, fmt.Sprintf("the source becomes %s", row(v)))
			}
		}
	}
	if p.applied < p.commits {
		to, what = append(to, p.deliver()), append(what, fmt.Sprintf("CDC delivers commit %d", p.applied+1))
	}
	if p.reads < 6 {
		n := p
		l := &n.first
		if p.reads >= 3 {
			l = &n.then
		}
		o[p.reads%3](p, l)
		n.reads++
		to, what = append(to, n), append(what, fmt.Sprintf("read %d of 6: %+v", n.reads, *l))
	}
	return to, what
}

// proven finds a way to a verdict of Proven although nothing was lost.
func (o order) proven(settles bool) (trace []string, states int) {
	starts := []pipe{{}, {source: [mostCommits + 1]int8{1}, replica: 1, version: 1, next: 1}}
	return search(starts, o.steps, func(p pipe) bool {
		switch p.reads {
		case 3:
			return drift.Judge(nil, p.first.sighting(settles)) == drift.Proven
		case 6:
			first := p.first.sighting(settles)
			return drift.Judge(&first, p.then.sighting(settles)) == drift.Proven
		}
		return false
	})
}

func TestJudgeNeverProvesLag(t *testing.T) {
	t.Parallel()
	for _, settles := range []bool{true, false} {
		trace, states := rightOrder().proven(settles)
		if trace != nil {
			t.Fatalf("settled %v: lag is taken for drift:\n%s", settles, strings.Join(trace, "\n"))
		}
		if states < 10_000 {
			t.Fatalf("only %d states were looked at: the model is not what it says", states)
		}
	}
}

// The order of a sighting's reads is what the proof rests on: any other is found out.
func TestJudgeNeedsTheOrderOfReads(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]order{
		"source before replica":    {throughFirst, sourceLast, replicaNext},
		"through after replica":    {replicaNext, throughFirst, sourceLast},
		"through after both":       {replicaNext, sourceLast, throughFirst},
		"everything in reverse":    {sourceLast, replicaNext, throughFirst},
		"source, through, replica": {sourceLast, throughFirst, replicaNext},
	} {
		if trace, _ := o.proven(true); trace == nil {
			t.Errorf("%s: no false proof found, so the model does not see the order", name)
		}
	}
}

// Whatever event CDC loses, and however the source went on, a difference that remains is proven once CDC has passed: at once where the
// source's row is settled, else at the second sighting.
func TestJudgeProvesALostEvent(t *testing.T) {
	t.Parallel()
	different := 0
	var walk func(p pipe)
	walk = func(p pipe) {
		if p.commits > 0 {
			for lost := int8(1); lost <= p.commits; lost++ {
				q := p
				q.lost = lost
				for q.applied < q.commits {
					q = q.deliver()
				}
				if q.replica == q.source[q.commits] {
					continue
				}
				different++
				prove(t, q)
			}
		}
		if p.commits == mostCommits {
			return
		}
		for v := range int8(3) {
			if v != 0 || p.source[p.commits] != 0 {
				walk(p.commit(v))
			}
		}
	}
	walk(pipe{})
	walk(pipe{source: [mostCommits + 1]int8{1}, replica: 1, version: 1, next: 1})
	if different < 50 {
		t.Fatalf("only %d histories ended different: the model is not what it says", different)
	}
}

func prove(t *testing.T, p pipe) {
	t.Helper()
	sight := func(through int8) look {
		var l look
		for _, read := range rightOrder() {
			read(p, &l)
		}
		l.through = through
		return l
	}
	end := 2*p.commits + 1
	for _, settles := range []bool{true, false} {
		first := sight(end).sighting(settles)
		if got := drift.Judge(nil, first); settles && first.Source.Present && got != drift.Proven {
			t.Errorf("%+v: a settled row at first sight is %s, not proven", p, got)
		}
		if got := drift.Judge(&first, sight(end-2).sighting(false)); got != drift.InFlight {
			t.Errorf("%+v: proven (%s) before CDC has passed the first sighting", p, got)
		}
		if got := drift.Judge(&first, sight(end+1).sighting(settles)); got != drift.Proven {
			t.Errorf("%+v: the second sighting is %s, not proven", p, got)
		}
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	past, later := at(1), at(9)
	row := func(v uint64) drift.Observed { return drift.Observed{Present: true, Version: v, Digest: v} }
	src := func(v uint64) drift.Fetched {
		return drift.Fetched{Present: true, Version: v, Digest: v, ReadAt: at(5)}
	}
	settled := func(f drift.Fetched) drift.Fetched { f.Settled = true; return f }
	gone := drift.Fetched{ReadAt: at(5)}
	for name, c := range map[string]struct {
		first *drift.Sighting
		now   drift.Sighting
		want  drift.Verdict
		kind  drift.Kind
	}{
		"equal":                     {nil, drift.Sighting{Through: later, Replica: row(1), Source: src(1)}, drift.Equal, ""},
		"both lack it":              {nil, drift.Sighting{Through: later, Source: gone}, drift.Equal, ""},
		"unknown lag":               {nil, drift.Sighting{Replica: row(1), Source: settled(src(2))}, drift.InFlight, drift.Mismatched},
		"settled":                   {nil, drift.Sighting{Through: past, Replica: row(1), Source: settled(src(2))}, drift.Proven, drift.Mismatched},
		"settled and missing":       {nil, drift.Sighting{Through: past, Source: settled(src(2))}, drift.Proven, drift.Missing},
		"extra at first sight":      {nil, drift.Sighting{Through: later, Replica: row(1), Source: gone}, drift.InFlight, drift.Extra},
		"extra twice":               {&drift.Sighting{Through: past, Replica: row(1), Source: gone}, drift.Sighting{Through: later, Replica: row(1), Source: gone}, drift.Proven, drift.Extra},
		"extra, not passed yet":     {&drift.Sighting{Through: past, Replica: row(1), Source: gone}, drift.Sighting{Through: at(4), Replica: row(1), Source: gone}, drift.InFlight, drift.Extra},
		"extra, written meantime":   {&drift.Sighting{Through: past, Replica: row(1), Source: gone}, drift.Sighting{Through: later, Replica: row(2), Source: gone}, drift.InFlight, drift.Extra},
		"first read unknown when":   {&drift.Sighting{Through: past, Replica: row(1)}, drift.Sighting{Through: later, Replica: row(1), Source: gone}, drift.InFlight, drift.Extra},
		"it was equal before":       {&drift.Sighting{Through: past, Replica: row(1), Source: src(1)}, drift.Sighting{Through: later, Replica: row(1), Source: src(2)}, drift.InFlight, drift.Mismatched},
		"missing, source rewritten": {&drift.Sighting{Through: past, Source: src(1)}, drift.Sighting{Through: later, Source: src(2)}, drift.InFlight, drift.Missing},
		"missing twice":             {&drift.Sighting{Through: past, Source: src(1)}, drift.Sighting{Through: later, Source: src(1)}, drift.Proven, drift.Missing},
		"appeared meantime":         {&drift.Sighting{Through: past, Source: src(1)}, drift.Sighting{Through: later, Replica: row(3), Source: src(1)}, drift.InFlight, drift.Mismatched},
	} {
		if got := drift.Judge(c.first, c.now); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if c.kind != "" {
			if got := c.now.Kind(); got != c.kind {
				t.Errorf("%s: kind %s, want %s", name, got, c.kind)
			}
			if got := (drift.Change{Replica: c.now.Replica, Source: c.now.Source}).Kind(); got != c.kind {
				t.Errorf("%s: the change is %s, want %s", name, got, c.kind)
			}
		}
	}
}
