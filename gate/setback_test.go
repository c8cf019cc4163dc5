package gate_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/gate"
)

// Once the source's clock was set back, what slot and group proved of times to come says nothing of them any more, whoever finds it out first: the gate, from what the
// publisher says of the slot, or the detector, from any other answer.
func TestASourceClockThatIsSetBackBesideSlotAndGroup(t *testing.T) {
	t.Parallel()
	const back = 10 * time.Minute
	for name, turn := range map[string]func(p *pipeline, through time.Time){
		"the publisher tells of the slot": func(p *pipeline, _ time.Time) { p.change(func() { p.ahead -= back }) },
		"another answer tells": func(p *pipeline, through time.Time) {
			p.change(func() { p.silent = true })
			now := time.Now().Add(p.ahead - back)
			p.g.Turned(through, now)
			p.g.Heard(now, p.timeline)
		},
		"while the group is read": func(p *pipeline, _ time.Time) {
			p.change(func() {
				p.reading = func() {
					p.change(func() { p.ahead -= back })
					time.Sleep(3 * second)
				}
			})
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := start(t, slotAndGroup(), nil, nil)
			time.Sleep(20*second + second/2)
			before := p.g.Check(t.Context())
			if !before.Open {
				t.Fatalf("%s, before: %+v", name, before)
			}
			turn(p, before.Through)
			for range 20 {
				time.Sleep(second)
				if s := p.g.Check(t.Context()); s.Source.Before(before.Through) && s.Through.After(s.Source) {
					t.Errorf("%s: at %s taken for applied until %s, %+v", name, s.Source, s.Through, s)
				}
			}
			p.change(func() { p.silent = false })
			time.Sleep(65 * second) // a question that hangs is given up in time
			if s := p.g.Check(t.Context()); !s.Open || s.Through.After(s.Source) {
				t.Errorf("%s, at last: %+v", name, s)
			}
		})
	}
}

// Of a sink without members nobody knows which topics it reads, so what it has committed proves nothing.
func TestNothingIsProvenWhileTheSinkHasNoMembers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, slotAndGroup(), nil, nil)
		time.Sleep(20*second + second/2) // between two readings
		before := p.g.Check(t.Context())
		p.change(func() { p.members = 0 })
		time.Sleep(20 * second)
		if s := p.g.Check(t.Context()); s.Open || s.By != gate.ByGroup || !s.Through.Equal(before.Through) {
			t.Errorf("through %s before, and now %+v", before.Through, s)
		}
	})
}
