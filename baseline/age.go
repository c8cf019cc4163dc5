package baseline

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/trickle-verify/trickle/transport"
)

// Start is the position to play forward from: in each partition the least offset that any object of the set needs, and when the oldest of these positions was read. A
// topic that did not exist at one of them has no offsets: it has to be read from its beginning.
func (m *Manifest) Start() (Point, error) {
	var from Point
	for n, p := range m.Positions {
		if !m.needs(n) {
			continue
		}
		if from.Taken.IsZero() || p.Taken.Before(from.Taken) {
			from.Taken = p.Taken
		}
		if from.Position == nil {
			from.Position = slices.Clone(p.Position)
			continue
		}
		var err error
		if from.Position, err = least(from.Position, p.Position); err != nil {
			return Point{}, &ExpiredError{m.Set, err.Error()}
		}
	}
	if from.Taken.IsZero() {
		return Point{}, fmt.Errorf("set %s names no position in the CDC's logs: build another with trickle baseline build", m.Set)
	}
	return from, nil
}

// Topics are those that its positions are in.
func (m *Manifest) Topics() []string {
	var topics []string
	for _, p := range m.Positions {
		for _, t := range p.Position {
			topics = append(topics, t.Topic)
		}
	}
	slices.Sort(topics)
	return slices.Compact(topics)
}

// Unusable tells a set that is not what it should be, now and later, from a store that can't be read just now.
func Unusable(err error) bool {
	var named interface{ Unusable() bool }
	return errors.As(err, &named) && named.Unusable()
}

// needs tells whether any object names a point; of a set without objects it is each.
func (m *Manifest) needs(point int) bool {
	objects := false
	for _, t := range m.Tables {
		for _, o := range t.Objects {
			if objects = true; o.Point == point {
				return true
			}
		}
	}
	return !objects
}

// least is what two positions have in common to begin at. One that does not know a topic was read before it existed.
func least(a, b transport.Position) (transport.Position, error) {
	var out transport.Position
	for _, t := range slices.Concat(a, b) {
		if _, done := out.Of(t.Topic); done {
			continue
		}
		x, _ := a.Of(t.Topic)
		y, _ := b.Of(t.Topic)
		if x.ID != "" && y.ID != "" && x.ID != y.ID {
			return nil, fmt.Errorf("topic %s was made anew while the set was being built", t.Topic)
		}
		both := transport.TopicPosition{Topic: t.Topic, ID: x.ID}
		if both.ID == "" {
			both.ID = y.ID
		}
		if len(x.Offsets) > 0 && len(y.Offsets) > 0 { // else one of them begins before all there is
			both.Offsets = make([]int64, min(len(x.Offsets), len(y.Offsets))) // partitions that came later are read from their beginning
			for n := range both.Offsets {
				both.Offsets[n] = min(x.Offsets[n], y.Offsets[n])
			}
		}
		at, _ := slices.BinarySearchFunc(out, t.Topic, func(p transport.TopicPosition, topic string) int { return strings.Compare(p.Topic, topic) })
		out = slices.Insert(out, at, both)
	}
	return out, nil
}

// Seen is what the CDC's logs were at some time.
type Seen struct {
	At   time.Time
	Logs []transport.Log
}

// Age is how a set stands to the logs: whether they still hold all that came after it, and for how long yet.
type Age struct {
	Set    string
	Reason string        // why it is no restore point; empty: it is one
	Taken  time.Time     // when its oldest position was read
	Age    time.Duration // since then
	Events int64         // records that a replay would read now

	// Expires is from when on its beginning may be gone: until then it is not removed by age, and not by size if the log grows as it did. Zero: never, or
	// not known. Unknown is what about that can't be told, and why.
	Expires time.Time
	Unknown string
	// RefreshDue is when the next set should be begun: after the policy's baseline.refresh, or half-way to Expires, whichever is first.
	RefreshDue time.Time
}

// Err is an *ExpiredError if the set is no restore point.
func (a Age) Err() error {
	if a.Reason == "" {
		return nil
	}
	return &ExpiredError{a.Set, a.Reason}
}

// ExpiredError is about a set after which something is missing in the logs, so that nothing may be restored from it.
type ExpiredError struct{ Set, Reason string }

func (e *ExpiredError) Error() string {
	return fmt.Sprintf("set %s is no restore point: %s; fill the replica by a resync instead (trickle-consumer resync), or build another set (trickle baseline build)", e.Set, e.Reason)
}

// Judge holds a set against the logs as they are now. Logs that were seen before tell how fast a topic that is limited by size loses its beginning; a zero
// value for them is fine. Of the policy, refresh is baseline.refresh, 0 for none.
func (m *Manifest) Judge(now, before Seen, refresh time.Duration) Age {
	a := Age{Set: m.Set}
	from, err := m.Start()
	a.Taken = from.Taken
	expired := new(ExpiredError)
	switch {
	case m.Completed.IsZero():
		a.Reason = "it is not complete"
	case errors.As(err, &expired):
		a.Reason = expired.Reason
	case err != nil:
		a.Reason = err.Error()
	}
	if a.Reason != "" {
		a.RefreshDue = now.At
		return a
	}
	a.Age = max(0, now.At.Sub(from.Taken))
	logs := map[string]transport.Log{}
	for _, l := range now.Logs {
		if len(l.Partitions) > 0 { // else there is no such topic
			logs[l.Topic] = l
		}
	}
	for _, p := range from.Position {
		if _, there := logs[p.Topic]; !there && len(p.Offsets) > 0 {
			a.fail("topic %s is gone", p.Topic)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(logs)) {
		l := logs[name]
		p, _ := from.Position.Of(name)
		a.hold(p, l)
		a.keep(p, l, rate{l, now.At, before})
	}
	a.due(now.At, refresh)
	return a
}

// fail keeps the first reason.
func (a *Age) fail(format string, args ...any) {
	if a.Reason == "" {
		a.Reason = fmt.Sprintf(format, args...)
	}
}

// hold tells whether a topic holds all from a position on, and counts what that is.
func (a *Age) hold(p transport.TopicPosition, l transport.Log) {
	if p.ID != "" && l.ID != "" && p.ID != l.ID {
		a.fail("topic %s was made anew: its id is %s and was %s", l.Topic, l.ID, p.ID)
		return
	}
	if len(p.Offsets) > len(l.Partitions) {
		a.fail("topic %s was made anew: it has %d partitions and had %d", l.Topic, len(l.Partitions), len(p.Offsets))
		return
	}
	after := false
	for n, have := range l.Partitions {
		var need int64 // of a partition that did not exist: all
		if n < len(p.Offsets) {
			need = p.Offsets[n]
		}
		switch {
		case have.Start > need && len(p.Offsets) == 0:
			a.fail("topic %s did not exist when the position was read, and its beginning has expired: partition %d starts at offset %d", l.Topic, n, have.Start)
		case have.Start > need && n >= len(p.Offsets):
			a.fail("partition %d of topic %s did not exist when the position was read, and its beginning has expired: it starts at offset %d", n, l.Topic, have.Start)
		case have.Start > need:
			a.fail("the log has expired: partition %d of topic %s starts at offset %d, and the set needs it from %d on", n, l.Topic, have.Start, need)
		case have.End < need:
			a.fail("partition %d of topic %s ends at offset %d, before the set's position %d: the log was cut, or made anew", n, l.Topic, have.End, need)
		default:
			a.Events += have.End - need
			after = after || have.End > need
		}
	}
	if r := l.Retention; !r.Unknown && r.Compacted && after && a.Age > r.Tombstones {
		a.fail("topic %s is compacted and keeps deletions for %s (delete.retention.ms), and the position is %s old: what was deleted since may be missing", l.Topic, r.Tombstones, a.Age.Round(time.Second))
	}
}

// keep reckons until when a topic keeps all from a position on.
func (a *Age) keep(p transport.TopicPosition, l transport.Log, moved rate) {
	r := l.Retention
	if r.Unknown {
		a.unsure("how long topic %s keeps its records is not known: this login may not read its settings (DESCRIBE_CONFIGS on the topic)", l.Topic)
		return
	}
	if r.Time > 0 {
		a.until(a.Taken.Add(r.Time))
	}
	if r.Compacted {
		a.until(a.Taken.Add(r.Tombstones))
	}
	if r.Bytes <= 0 {
		return
	}
	known := false
	for n, have := range l.Partitions {
		if n >= len(p.Offsets) {
			continue
		}
		if perSecond := moved.of(n); perSecond > 0 {
			known = true
			left := min(float64(p.Offsets[n]-have.Start)/perSecond, farAhead.Seconds())
			a.until(moved.at.Add(time.Duration(left * float64(time.Second))))
		}
	}
	if !known {
		a.unsure("topic %s is limited by size (retention.bytes) as well, and its beginning was not seen to move yet: when it reaches the set's position can't be told", l.Topic)
	}
}

// farAhead bounds what a division may come to.
const farAhead = 10 * 365 * 24 * time.Hour

func (a *Age) until(t time.Time) {
	if a.Expires.IsZero() || t.Before(a.Expires) {
		a.Expires = t
	}
}

func (a *Age) unsure(format string, args ...any) {
	if a.Unknown == "" {
		a.Unknown = fmt.Sprintf(format, args...)
	}
}

// due reckons when the next set should be begun.
func (a *Age) due(now time.Time, refresh time.Duration) {
	if a.Reason != "" {
		a.RefreshDue = now
		return
	}
	if refresh > 0 {
		a.RefreshDue = a.Taken.Add(refresh)
	}
	if a.Expires.IsZero() {
		return
	}
	if half := a.Taken.Add(a.Expires.Sub(a.Taken) / 2); a.RefreshDue.IsZero() || half.Before(a.RefreshDue) {
		a.RefreshDue = half
	}
}

// rate is how fast a topic loses its beginning.
type rate struct {
	log    transport.Log
	at     time.Time
	before Seen
}

// of is a partition's, in records a second; 0 where nothing was seen to go.
func (r rate) of(partition int) float64 {
	passed := r.at.Sub(r.before.At).Seconds()
	if passed <= 0 {
		return 0
	}
	for _, l := range r.before.Logs {
		if l.Topic == r.log.Topic && l.ID == r.log.ID && partition < len(l.Partitions) {
			return float64(max(0, r.log.Partitions[partition].Start-l.Partitions[partition].Start)) / passed
		}
	}
	return 0
}
