package baseline_test

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/transport"
)

// whole is a complete set of which nothing is stored.
func whole(t testing.TB) *baseline.Manifest {
	m := example(0)
	for i := range m.Tables {
		for range 3 {
			packed(t, m, &m.Tables[i], "rows")
		}
	}
	return sealed(m)
}

func encoded(t testing.TB, c baseline.Codec, m *baseline.Manifest) []byte {
	t.Helper()
	b, err := c.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestManifestComesBack(t *testing.T) {
	t.Parallel()
	for _, c := range []baseline.Codec{{}, {Secret: []byte("secret")}} {
		m := whole(t)
		got, err := c.Decode("m", encoded(t, c, m))
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

// refused tells whether an error is one of those that a manifest is refused with, and names it.
func refused(err error) bool {
	var c *baseline.CorruptError
	var f *baseline.ForgedError
	return (errors.As(err, &c) || errors.As(err, &f)) && strings.HasPrefix(err.Error(), "the manifest: ")
}

// Wherever a manifest ends early, and whichever bit of it is another, it is found.
func TestEveryFlippedBitOfAManifestIsFound(t *testing.T) {
	t.Parallel()
	for _, c := range []baseline.Codec{{}, {Secret: []byte("secret")}} {
		m := whole(t)
		m.Tables = m.Tables[:1]
		m.Tables[0].Objects = m.Tables[0].Objects[:1]
		b := encoded(t, c, sealed(m))
		for i := range b {
			if m, err := c.Decode("the manifest", b[:i]); m != nil || !refused(err) {
				t.Fatalf("cut off after %d bytes of %d: %v", i, len(b), err)
			}
			for bit := range 8 {
				b[i] ^= 1 << bit
				if m, err := c.Decode("the manifest", b); m != nil || !refused(err) {
					t.Fatalf("bit %d of byte %d, now %q: %v", bit, i, b[max(0, i-10):min(len(b), i+10)], err)
				}
				b[i] ^= 1 << bit
			}
		}
	}
}

func TestManifestsThatAreNotBelieved(t *testing.T) {
	t.Parallel()
	plain, signed, other := baseline.Codec{}, baseline.Codec{Secret: []byte("secret")}, baseline.Codec{Secret: []byte("other")}
	for name, c := range map[string]struct {
		codec baseline.Codec
		bytes []byte
		says  string
	}{
		"unsigned":            {signed, encoded(t, plain, whole(t)), "it is not signed"},
		"another's signature": {signed, encoded(t, other, whole(t)), "its signature does not match"},
		"signed, no key here": {plain, encoded(t, signed, whole(t)), "set TRICKLE_SIGNING_KEY"},
		"a newer format":      {plain, bytes.Replace(encoded(t, plain, whole(t)), []byte(`{"format":1`), []byte(`{"format":2`), 1), "it has format 2"},
		"empty":               {plain, nil, "cut off"},
		"reformatted":         {plain, bytes.Replace(encoded(t, plain, whole(t)), []byte(`,"sha256"`), []byte(` ,"sha256"`), 1), "changed"},
	} {
		if m, err := c.codec.Decode("the manifest", c.bytes); m != nil || !refused(err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestManifestsThatDoNotAddUp(t *testing.T) {
	t.Parallel()
	for says, spoil := range map[string]func(m *baseline.Manifest){
		"no name of a set": func(m *baseline.Manifest) { m.Set = "../x" },
		"pipeline name":    func(m *baseline.Manifest) { m.Pipeline = "a/b" },
		"names no source":  func(m *baseline.Manifest) { m.Source = "" },
		"does not say when": func(m *baseline.Manifest) {
			m.Begun = m.Begun.AddDate(-3000, 0, 0)
			*m = baseline.Manifest{Set: m.Set, Pipeline: m.Pipeline, Source: m.Source}
		},
		"still made of":                  func(m *baseline.Manifest) { m.Bases = []string{m.Set} },
		"positions are not in order":     func(m *baseline.Manifest) { m.Positions[0].Position = transport.Position{{Topic: "b"}, {Topic: "a"}} },
		"is in it twice":                 func(m *baseline.Manifest) { m.Tables[1] = m.Tables[0] },
		"no key or no columns":           func(m *baseline.Manifest) { m.Tables[0].Schema.Key = nil },
		"unknown digest":                 func(m *baseline.Manifest) { m.Tables[0].Digest = 7 },
		"it has no objects":              func(m *baseline.Manifest) { m.Tables[0].Objects = nil; m.Tables[0].Rows, m.Tables[0].Sum = 0, 0 },
		"not before every key":           func(m *baseline.Manifest) { m.Tables[0].Objects[0].Range.Lo = message.Key{"-5"} },
		"not behind every key":           func(m *baseline.Manifest) { m.Tables[0].Objects[2].Range.Hi = message.Key{"5"} },
		"does not begin where":           func(m *baseline.Manifest) { m.Tables[0].Objects[1].Range.Lo = message.Key{"5"} },
		"its range is empty":             func(m *baseline.Manifest) { m.Tables[0].Objects[1].Range.Hi = m.Tables[0].Objects[1].Range.Lo },
		"does not fit the key":           func(m *baseline.Manifest) { m.Tables[0].Objects[1].Range.Lo = message.Key{"5", "6"} },
		"not of UTF-8":                   func(m *baseline.Manifest) { m.Tables[0].Objects[1].Range.Lo = message.Key{"\xff"} },
		"objects have 6 rows":            func(m *baseline.Manifest) { m.Tables[0].Rows++ },
		"and it says 6 with sum":         func(m *baseline.Manifest) { m.Tables[0].Sum++ },
		"no SHA-256":                     func(m *baseline.Manifest) { m.Tables[0].Objects[0].SHA256 = "abc" },
		"its table's folder":             func(m *baseline.Manifest) { m.Tables[0].Objects[0].Name = m.Tables[1].Objects[0].Name },
		"no size":                        func(m *baseline.Manifest) { m.Tables[0].Objects[0].Bytes = 0 },
		"names position 1 of 1":          func(m *baseline.Manifest) { m.Tables[0].Objects[0].Point = 1 },
		"-000000.zst is in it twice":     func(m *baseline.Manifest) { m.Tables[0].Objects[1].Name = m.Tables[0].Objects[0].Name },
		"table \"\" has no name":         func(m *baseline.Manifest) { m.Tables[0].Table = "" },
		"does not lie in its table's fo": func(m *baseline.Manifest) { m.Tables[0].Objects[0].Name = "objects/public.orders/../../sets/x" },
	} {
		m := whole(t)
		spoil(m)
		if _, err := (baseline.Codec{}).Encode(m); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "(5,6)") { // nor is a key shown
			t.Errorf("%s: %v", says, err)
		}
	}
}

// What a build has so far need not be whole.
func TestCheckpointsHaveGaps(t *testing.T) {
	t.Parallel()
	m := whole(t)
	m.Completed, m.Bases = m.Begun.AddDate(-3000, 0, 0), []string{m.Set}
	*m = baseline.Manifest{Set: m.Set, Pipeline: m.Pipeline, Source: m.Source, Begun: m.Begun, Bases: m.Bases, Positions: m.Positions, Tables: m.Tables}
	m.Tables[0].Objects = m.Tables[0].Objects[1:2]
	got, err := baseline.Codec{}.Decode("m", encoded(t, baseline.Codec{}, m))
	if err != nil || !reflect.DeepEqual(got, m) || got.Complete() {
		t.Errorf("%+v, %v", got, err)
	}
}

func FuzzDecodeManifest(f *testing.F) {
	for _, c := range []baseline.Codec{{}, {Secret: []byte("secret")}} {
		f.Add(encoded(f, c, whole(f)))
	}
	f.Add([]byte(`{"format":1,"manifest":{},"sha256":""}`))
	f.Add([]byte(`{"format":1,"manifest":null,"sha256":"74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b"}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, c := range []baseline.Codec{{}, {Secret: []byte("secret")}} {
			m, err := c.Decode("the manifest", b)
			if err != nil {
				if !refused(err) {
					t.Errorf("%v", err)
				}
				continue
			}
			if again := encoded(t, c, m); !bytes.Equal(again, b) && len(c.Secret) > 0 {
				t.Errorf("%s is signed and comes back as %s", b, again)
			}
		}
	})
}
