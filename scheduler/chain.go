package scheduler

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/message"
)

// RangeID names a range within its table. Equal bounds have equal names, so a range that is planned again keeps its own.
func RangeID(r message.Range) uint64 {
	var b []byte
	for _, k := range []message.Key{r.Lo, r.Hi} {
		if k == nil {
			b = append(b, 0)
			continue
		}
		b = append(b, 1)
		b = binary.AppendUvarint(b, uint64(len(k)))
		b = append(b, k.ID()...)
	}
	h := fnv.New64a()
	h.Write(b)
	return h.Sum64()
}

// errBroken is wrapped by the errors of verifyChain.
var errBroken = errors.New("the ranges leave a hole or overlap")

// verifyChain makes sure that ranges follow each other and cover exactly what within covers.
func verifyChain(ranges []cursor.Range, within message.Range) error {
	if len(ranges) == 0 {
		return fmt.Errorf("%w: there are none for %s", errBroken, within)
	}
	at := within.Lo
	for i, r := range ranges {
		if !sameBound(r.Bounds.Lo, at) || (r.Bounds.Hi == nil) != (i == len(ranges)-1 && within.Hi == nil) {
			return fmt.Errorf("%w: at %s of %s", errBroken, r.Bounds, within)
		}
		at = r.Bounds.Hi
	}
	if !sameBound(at, within.Hi) {
		return fmt.Errorf("%w: they end before %s does", errBroken, within)
	}
	return nil
}

func sameBound(a, b message.Key) bool { return (a == nil) == (b == nil) && a.Equal(b) }

// chainOf puts stored ranges in key order by following their bounds from one end of what they are within to the other; the store can't sort
// them, since only the database knows how keys compare. After a kill in the middle of a split or merge, old and new ranges may both be there: any way through is
// a whole chain, and the rest comes back as stale. It returns no chain when there is no way through.
func chainOf(ranges []cursor.Range, within message.Range) (chain, stale []cursor.Range) {
	begin, end := boundID(within.Lo, "-"), boundID(within.Hi, "+")
	from := map[string][]int{}
	for i, r := range ranges {
		at := boundID(r.Bounds.Lo, "-")
		from[at] = append(from[at], i)
	}
	used := make([]bool, len(ranges)) // tried: part of the way, or of a dead end
	var way []int
	at := begin
	for at != end {
		next := -1
		for _, i := range from[at] {
			if !used[i] {
				next = i
				break
			}
		}
		if next >= 0 {
			used[next] = true
			way = append(way, next)
			at = boundID(ranges[next].Bounds.Hi, "+")
			continue
		}
		if len(way) == 0 {
			return nil, ranges
		}
		at = boundID(ranges[way[len(way)-1]].Bounds.Lo, "-") // a dead end: step back
		way = way[:len(way)-1]
	}
	in := make([]bool, len(ranges))
	for _, i := range way {
		chain = append(chain, ranges[i])
		in[i] = true
	}
	for i, r := range ranges {
		if !in[i] {
			stale = append(stale, r)
		}
	}
	return chain, stale
}

// boundID is a map key: infinite for no key at all.
func boundID(k message.Key, infinite string) string {
	if k == nil {
		return infinite
	}
	return "=" + k.ID()
}

// merge joins two neighbours when together they are under half of the target, both were verified in this cycle, and their sums may be
// added. What it says of the union is the more cautious of the two.
func merge(a, b cursor.Range, target int) (cursor.Range, bool) {
	if a.Cycle != b.Cycle || a.Schema != b.Schema || a.Digest != b.Digest {
		return cursor.Range{}, false
	}
	if a.Rows > math.MaxInt32 || b.Rows > math.MaxInt32 || 2*(a.Rows+b.Rows) >= uint64(max(target, 0)) {
		return cursor.Range{}, false
	}
	m := a
	m.Bounds = message.Range{Lo: a.Bounds.Lo, Hi: b.Bounds.Hi}
	m.ID = RangeID(m.Bounds)
	m.Rows, m.Sum = a.Rows+b.Rows, a.Sum+b.Sum
	m.Xmin = min(a.Xmin, b.Xmin)
	if b.VerifiedAt.Before(a.VerifiedAt) {
		m.VerifiedAt = b.VerifiedAt
	}
	if b.CompleteAt.Before(a.CompleteAt) {
		m.CompleteAt = b.CompleteAt
	}
	return m, true
}
