package app

import (
	"cmp"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/postgres"
)

// TapFilter picks messages; what is zero picks all.
type TapFilter struct {
	Tables   []string
	Kinds    []string
	Consumer string
	Key      string // a key that the message names
	Range    string // A..B, which a range of the message meets or one of its keys is in
	Since    time.Time
	Limit    int

	rng message.Range
}

// unreadable is the kind of what can't be decoded or believed.
const unreadable = "unreadable"

// TapKinds are the kinds of messages there are.
func TapKinds() []string {
	var kinds []string
	fields := (&tricklepb.Envelope{}).ProtoReflect().Descriptor().Oneofs().ByName("body").Fields()
	for i := range fields.Len() {
		kinds = append(kinds, kindOf(fields.Get(i)))
	}
	return append(kinds, unreadable)
}

// kindOf is what people call a kind of message: thumbprint, refetch, keydigests, and keydigests-reply for the answer.
func kindOf(body protoreflect.FieldDescriptor) string {
	name := string(body.Name())
	name, isReply := strings.CutSuffix(strings.TrimSuffix(name, "_request"), "_reply")
	name = strings.ReplaceAll(name, "_", "")
	if isReply {
		name += "-reply"
	}
	return name
}

func kindOfEnvelope(env *tricklepb.Envelope) string {
	m := env.ProtoReflect()
	if body := m.WhichOneof(m.Descriptor().Oneofs().ByName("body")); body != nil {
		return kindOf(body)
	}
	return unreadable
}

// checked is the filter made ready, if it makes sense for what is read.
func (f TapFilter) checked(topic string, topics message.Topics) (TapFilter, error) {
	if _, err := among("--kind", f.Kinds, TapKinds()); err != nil {
		return f, err
	}
	if f.Limit < 0 {
		return f, fmt.Errorf("--limit %d: give how many messages to print at most, or 0 for all", f.Limit)
	}
	for i, t := range f.Tables {
		f.Tables[i] = postgres.ParseName(t).String()
	}
	if f.Range != "" {
		var err error
		if f.rng, err = rangeOf(f.Range); err != nil {
			return f, err
		}
	}
	switch {
	case topic == topics.Cursors() && (len(f.Kinds) > 0 || f.Consumer != "" || f.Key != "" || f.Range != ""):
		return f, errors.New("cursors are the publishers' own notes, which have neither kind nor consumer nor key: they are picked by --table only")
	case topic == topics.Verify() && f.Consumer != "":
		return f, errors.New("what is on verify is for every replica: with --consumer give --topic requests, or --topic replies for the answers")
	}
	return f, nil
}

// rangeOf reads "A..B", either of which may be left out.
func rangeOf(text string) (message.Range, error) {
	lo, hi, ok := strings.Cut(text, "..")
	if !ok || lo == "" && hi == "" {
		return message.Range{}, fmt.Errorf("--range %q: write A..B, A.. or ..B", text)
	}
	r := message.Range{Lo: bound(lo), Hi: bound(hi)}
	if r.Lo != nil && r.Hi != nil && len(r.Lo) != len(r.Hi) {
		return message.Range{}, fmt.Errorf("--range %q: both ends need the same number of key columns", text)
	}
	return r, nil
}

// any tells whether it looks into messages at all.
func (f TapFilter) any() bool {
	return len(f.Tables)+len(f.Kinds) > 0 || f.Consumer != "" || f.Key != "" || f.Range != ""
}

// takes tells whether a message is to be printed.
func (f TapFilter) takes(env *tricklepb.Envelope, hash func(string) string) bool {
	switch {
	case env == nil:
		return !f.any() || slices.Contains(f.Kinds, unreadable)
	case len(f.Tables) > 0 && !slices.Contains(f.Tables, env.GetTable()),
		len(f.Kinds) > 0 && !slices.Contains(f.Kinds, kindOfEnvelope(env)),
		f.Consumer != "" && env.GetConsumer() != "" && env.GetConsumer() != f.Consumer:
		return false
	case f.Key == "" && f.Range == "":
		return true
	}
	key, within := f.Key == "", f.Range == ""
	walk(env.ProtoReflect(), func(m protoreflect.Message) bool {
		switch v := m.Interface().(type) {
		case *tricklepb.Range:
			within = within || meet(f.rng, message.RangeOf(v))
			// Its bounds are keys too.
		case *tricklepb.Key:
			k := message.Key(v.GetValues())
			key = key || k.Equal(bound(f.Key)) || strings.HasPrefix(f.Key, "#") && hash(k.String()) == strings.ToLower(f.Key)
			return false
		case *tricklepb.Row:
			k := message.KeyOf(v.GetKey())
			within = within || k != nil && inside(f.rng, k)
		case *tricklepb.RefetchRequest:
			for _, k := range message.KeysOf(v.GetKeys()) {
				within = within || inside(f.rng, k)
			}
		}
		return true
	})
	return key && within
}

// walk visits a message and what is in it, depth first, where visit says so.
func walk(m protoreflect.Message, visit func(protoreflect.Message) bool) {
	if !visit(m) {
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Kind() != protoreflect.MessageKind || f.IsMap():
		case f.IsList():
			for i := range v.List().Len() {
				walk(v.List().Get(i).Message(), visit)
			}
		default:
			walk(v.Message(), visit)
		}
		return true
	})
}

// meet tells whether two ranges have a key in common.
func meet(a, b message.Range) bool {
	below := func(lo, hi message.Key) bool { return lo == nil || hi == nil || compareKeys(lo, hi) < 0 }
	return below(a.Lo, b.Hi) && below(b.Lo, a.Hi)
}

// inside tells whether a key lies in a range.
func inside(r message.Range, k message.Key) bool {
	return (r.Lo == nil || compareKeys(r.Lo, k) < 0) && (r.Hi == nil || compareKeys(k, r.Hi) <= 0)
}

// compareKeys goes column by column: numbers as numbers, all else by its bytes, which need not be the database's order.
func compareKeys(a, b message.Key) int {
	for i := range min(len(a), len(b)) {
		x, isX := new(big.Rat).SetString(a[i])
		y, isY := new(big.Rat).SetString(b[i])
		c := strings.Compare(a[i], b[i])
		if isX && isY {
			c = x.Cmp(y)
		}
		if c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}
