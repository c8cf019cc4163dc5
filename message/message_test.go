package message_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
)

func envelope() *tricklepb.Envelope {
	return &tricklepb.Envelope{Pipeline: "p", Source: "1/shop", Table: "public.t", Body: &tricklepb.Envelope_Thumbprint{Thumbprint: &tricklepb.Thumbprint{
		Rows: 3, Sum: 1<<63 + 1, Range: message.Range{Hi: message.Key{""}}.Proto(),
	}}}
}

func TestWhatIsEncodedIsDecoded(t *testing.T) {
	t.Parallel()
	for _, c := range []message.Codec{{}, {Secret: []byte("secret")}} {
		b, err := c.Encode("p.verify", envelope())
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Decode("p.verify", b)
		if err != nil || !proto.Equal(got, envelope()) {
			t.Errorf("%v, %v", got, err)
		}
		if r := message.RangeOf(got.GetThumbprint().GetRange()); r.Lo != nil || !r.Hi.Equal(message.Key{""}) {
			t.Errorf("range %s", r)
		}
		again, err := c.Encode("p.verify", envelope())
		if err != nil || !bytes.Equal(again, b) {
			t.Error("encoding is not deterministic")
		}
	}
}

func TestWhatIsRefused(t *testing.T) {
	t.Parallel()
	plain, signed, other := message.Codec{}, message.Codec{Secret: []byte("secret")}, message.Codec{Secret: []byte("other")}
	encode := func(c message.Codec, env *tricklepb.Envelope) []byte {
		b, err := c.Encode("p.verify", env)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	mangled := encode(signed, envelope())
	mangled[len(mangled)-1] ^= 1
	for name, c := range map[string]struct {
		codec message.Codec
		topic string
		bytes []byte
		want  error
	}{
		"unsigned":             {signed, "p.verify", encode(plain, envelope()), message.ErrForged},
		"another's signature":  {signed, "p.verify", encode(other, envelope()), message.ErrForged},
		"another topic":        {signed, "p.replies.x", encode(signed, envelope()), message.ErrForged},
		"changed on the way":   {signed, "p.verify", mangled, message.ErrForged},
		"signed, no key here":  {plain, "p.verify", encode(signed, envelope()), message.ErrForged},
		"empty":                {plain, "p.verify", nil, message.ErrMalformed},
		"cut in the signature": {signed, "p.verify", encode(signed, envelope())[:20], message.ErrMalformed},
		"unknown format":       {plain, "p.verify", []byte{0x7f, 1}, message.ErrMalformed},
		"no protobuf":          {plain, "p.verify", []byte{0x01, 0xff, 0xff}, message.ErrMalformed},
		"no body":              {plain, "p.verify", encode(plain, &tricklepb.Envelope{Table: "t"}), message.ErrMalformed},
	} {
		if env, err := c.codec.Decode(c.topic, c.bytes); !errors.Is(err, c.want) || env != nil {
			t.Errorf("%s: %v, %v, want %v", name, env, err, c.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range []message.Codec{{}, {Secret: []byte("secret")}} {
		b, err := c.Encode("t", envelope())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{})
	f.Add([]byte{1, 0xa2, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, c := range []message.Codec{{}, {Secret: []byte("secret")}} {
			env, err := c.Decode("t", b)
			if err != nil {
				if !errors.Is(err, message.ErrMalformed) && !errors.Is(err, message.ErrForged) {
					t.Errorf("%v is neither malformed nor forged", err)
				}
				continue
			}
			again, err := c.Encode("t", env)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := c.Decode("t", again); err != nil || !proto.Equal(back, env) {
				t.Errorf("%v comes back as %v, %v", env, back, err)
			}
		}
	})
}

func TestKeysHaveOneIdentity(t *testing.T) {
	t.Parallel()
	key := rapid.Custom(func(t *rapid.T) message.Key {
		return rapid.SliceOfN(rapid.SampledFrom([]string{"", "1", "11", ":", "1:1", "a,b", "2:11"}), 1, 3).Draw(t, "key")
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := key.Draw(t, "a"), key.Draw(t, "b")
		if (a.ID() == b.ID()) != slices.Equal(a, b) || a.Equal(b) != slices.Equal(a, b) {
			t.Fatalf("%q and %q", a, b)
		}
		if back := message.KeyOf(a.Proto()); !back.Equal(a) || !utf8.ValidString(a.ID()) {
			t.Fatalf("%q comes back as %q", a, back)
		}
	})
	if message.KeyOf(nil) != nil || message.KeyOf(&tricklepb.Key{}) != nil || message.Key(nil).Proto() != nil {
		t.Error("infinity is no key")
	}
}
