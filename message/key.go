package message

import (
	"slices"
	"strconv"
	"strings"

	"github.com/trickle-verify/trickle/message/tricklepb"
)

// Key is a row's key: the text form of each key column, in key order. Nil stands for infinity where a bound is meant.
type Key []string

// ID is the key as one unambiguous string (length-prefixed), for maps.
func (k Key) ID() string {
	var b strings.Builder
	for _, v := range k {
		b.WriteString(strconv.Itoa(len(v)))
		b.WriteByte(':')
		b.WriteString(v)
	}
	return b.String()
}

// String is for people: "42" or "(11,1)".
func (k Key) String() string {
	if len(k) == 1 {
		return k[0]
	}
	return "(" + strings.Join(k, ",") + ")"
}

// Equal reports whether both keys have the same text.
func (k Key) Equal(o Key) bool { return slices.Equal(k, o) }

// Range is (Lo, Hi]: it leaves Lo out and takes Hi in, and a nil bound is infinite. Neighbouring ranges therefore share no
// row and leave none out.
type Range struct {
	Lo, Hi Key
}

// String is for people: "(10, 20]", with -inf and +inf for the infinite bounds.
func (r Range) String() string {
	lo, hi := "-inf", "+inf"
	if r.Lo != nil {
		lo = r.Lo.String()
	}
	if r.Hi != nil {
		hi = r.Hi.String()
	}
	return "(" + lo + ", " + hi + "]"
}

// Shown is the range with its bounds as something, such as a policy's privacy, lets keys be shown.
func (r Range) Shown(key func(string) string) string {
	if r.Lo != nil {
		r.Lo = Key{key(r.Lo.String())}
	}
	if r.Hi != nil {
		r.Hi = Key{key(r.Hi.String())}
	}
	return r.String()
}

// Proto returns the wire form.
func (r Range) Proto() *tricklepb.Range {
	return &tricklepb.Range{Lo: r.Lo.Proto(), Hi: r.Hi.Proto()}
}

// RangeOf reads the wire form; an absent range is everything.
func RangeOf(r *tricklepb.Range) Range {
	return Range{Lo: KeyOf(r.GetLo()), Hi: KeyOf(r.GetHi())}
}

// Proto returns the wire form, nil for infinity.
func (k Key) Proto() *tricklepb.Key {
	if k == nil {
		return nil
	}
	return &tricklepb.Key{Values: k}
}

// KeyOf reads the wire form; an absent key is nil, and so is one without columns, which no table has.
func KeyOf(k *tricklepb.Key) Key {
	if len(k.GetValues()) == 0 {
		return nil
	}
	return k.GetValues()
}

// Keys returns the wire form of all of them.
func Keys(keys []Key) []*tricklepb.Key {
	out := make([]*tricklepb.Key, len(keys))
	for i, k := range keys {
		out[i] = k.Proto()
	}
	return out
}

// KeysOf reads the wire form of all of them.
func KeysOf(keys []*tricklepb.Key) []Key {
	out := make([]Key, len(keys))
	for i, k := range keys {
		out[i] = KeyOf(k)
	}
	return out
}
