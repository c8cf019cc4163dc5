package baseline_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/internal/testbed/s3"
	"github.com/trickle-verify/trickle/message"
)

// Whatever a store is, what is put there comes back, and what is not there is said so.
func TestStores(t *testing.T) {
	t.Parallel()
	for name, store := range stores(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := store(baseline.Options{Pipeline: pipeline, Secret: []byte("secret")})
			if _, err := s.Latest(t.Context()); !errors.Is(err, baseline.ErrNoSet) || !strings.Contains(err.Error(), "trickle baseline build") {
				t.Errorf("latest of none: %v", err)
			}
			old := complete(t, s, example(0))
			m := example(1)
			m.Completed, m.Bases = time.Time{}, []string{old.Set}
			if err := s.Checkpoint(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			rows := strings.Repeat("some rows\n", 2000000) // more than an object should hold
			put(t, s, m, rows)
			if err := s.Checkpoint(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Partial(t.Context(), m.Set); err != nil || len(got.Tables[0].Objects) != 2 || got.Bases[0] != old.Set {
				t.Errorf("%+v, %v", got, err)
			}
			if _, err := s.Load(t.Context(), m.Set); !errors.Is(err, baseline.ErrNoSet) {
				t.Errorf("a set that is not complete: %v", err)
			}
			if got, err := s.Latest(t.Context()); err != nil || got.Set != old.Set {
				t.Errorf("%+v, %v", got, err)
			}
			m.Completed, m.Bases = m.Begun.Add(time.Minute), nil
			if err := s.Complete(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			again := store(baseline.Options{Pipeline: pipeline, Secret: []byte("secret")})
			sets, err := again.Sets(t.Context())
			if err != nil || len(sets) != 2 || sets[0].Set != m.Set || sets[1].Set != old.Set || sets[0].Partial || sets[0].Written.IsZero() {
				t.Errorf("%+v, %v", sets, err)
			}
			got, err := again.Latest(t.Context())
			if err != nil || got.Set != m.Set {
				t.Fatalf("%+v, %v", got, err)
			}
			if err := errors.Join(again.Check(t.Context(), got), got.CheckSource(source)); err != nil {
				t.Error(err)
			}
			table := &got.Tables[1]
			c, err := again.Open(t.Context(), got, table, &table.Objects[1])
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if b, err := io.ReadAll(c); err != nil || string(b) != rows || c.Header.Rows != 2 || c.Header.Position[0].Offsets[1] != 8 {
				t.Errorf("%d bytes, %v, %+v", len(b), err, c.Header)
			}
			one, err := again.Hash(t.Context(), m.Set)
			if other, err2 := again.Hash(t.Context(), old.Set); errors.Join(err, err2) != nil || len(one) != 32 || bytes.Equal(one, other) {
				t.Errorf("hashes %x and %x, %v, %v", one, other, err, err2)
			}
			// Another pipeline in the same bucket sees nothing of it, and another key believes nothing.
			if _, err := store(baseline.Options{Pipeline: "sho"}).Latest(t.Context()); !errors.Is(err, baseline.ErrNoSet) {
				t.Errorf("another pipeline: %v", err)
			}
			var forged *baseline.ForgedError
			if _, err := store(baseline.Options{Pipeline: pipeline}).Latest(t.Context()); !errors.As(err, &forged) {
				t.Errorf("without the key: %v", err)
			}
			if _, err := again.Load(t.Context(), "../x"); !errors.Is(err, baseline.ErrNoSet) {
				t.Errorf("a name that leads elsewhere: %v", err)
			}
		})
	}
}

func TestStoresThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	server, err := s3.Start(t.Context(), "bucket")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(t.Context()) })
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ url, says string }{
		"no such account":    {server.URL("bucket", url.Values{"profile": {"stranger"}}), "the store refuses these credentials: check those in the environment (AWS_ACCESS_KEY_ID"},
		"a wrong secret":     {server.URL("bucket", url.Values{"profile": {"guesser"}}), "the store refuses these credentials"},
		"no such bucket":     {server.URL("other", nil), "there is no such bucket"},
		"no URL":             {"/var/lib/trickle", "is no URL"},
		"no such kind":       {"ftp://host/folder", `"ftp"`},
		"a folder's host":    {"file://trickle-test-host/folder", "three slashes"},
		"an unknown setting": {"file:///tmp?colour=red", "colour"},
		"a file":             {"file://" + filepath.ToSlash(file), "file"},
		"no such pipeline":   {"mem://", "pipeline"},
	} {
		o := baseline.Options{URL: c.url, Pipeline: pipeline}
		if name == "no such pipeline" {
			o.Pipeline = "a/b"
		}
		s, err := baseline.Open(t.Context(), o)
		if err == nil {
			_, err = s.Sets(t.Context())
			if wrote := s.Put(t.Context(), "objects/x/y", baseline.Packed{Bytes: []byte("x")}); wrote == nil || !strings.Contains(wrote.Error(), c.says) {
				t.Errorf("%s, writing: %v", name, wrote)
			}
			_ = s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), s3.SecretKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A folder of sets that can't be listed is no store without sets.
func TestFolderThatCantBeListed(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if err := os.MkdirAll(filepath.Join(folder, "in", pipeline), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "in", pipeline, "sets"), nil, 0o600); err != nil { // not even root can list it
		t.Fatal(err)
	}
	s, err := baseline.Open(t.Context(), baseline.Options{URL: "file://" + filepath.ToSlash(folder) + "?prefix=in/", Pipeline: pipeline})
	if err == nil {
		_, err = s.Sets(t.Context())
		_ = s.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "can't be read by this account") {
		t.Errorf("got %v", err)
	}
}

// A folder that is made is nobody else's; who only reads makes none, as its address may be mistyped.
func TestFolderIsPrivate(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "made")
	_, err := baseline.Open(t.Context(), baseline.Options{URL: "file://" + filepath.ToSlash(folder), Pipeline: pipeline})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "mistyped") {
		t.Errorf("a reader gets %v", err)
	}
	if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a reader made it: %v", err)
	}
	complete(t, open(t, baseline.Options{URL: "file://" + filepath.ToSlash(folder), Pipeline: pipeline}), example(0))
	info, err := os.Stat(folder)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// What is wrong with a set or an object is found before anything of it is given out, and named.
func TestDamage(t *testing.T) {
	t.Parallel()
	flip := func(at func([]byte) int) func([]byte) []byte {
		return func(b []byte) []byte { b[at(b)] ^= 4; return b }
	}
	object := func(m *baseline.Manifest) string { return m.Tables[0].Objects[1].Name }
	for name, c := range map[string]struct {
		name func(*baseline.Manifest) string
		how  func([]byte) []byte
		says string
		seen bool // by Check, which reads no object
	}{
		"a bit at the beginning": {object, flip(func([]byte) int { return 0 }), "SHA-256", false},
		"a bit in the middle":    {object, flip(func(b []byte) int { return len(b) / 2 }), "SHA-256", false},
		"a bit at the end":       {object, flip(func(b []byte) int { return len(b) - 1 }), "SHA-256", false},
		"cut off":                {object, func(b []byte) []byte { return b[:len(b)-1] }, "cut off", true},
		"longer":                 {object, func(b []byte) []byte { return append(b, 0) }, "replaced", true},
		"empty":                  {object, func([]byte) []byte { return []byte{} }, "0 bytes", true},
		"missing":                {object, func([]byte) []byte { return nil }, "it is missing, and set", true},
	} {
		bucket := memblob.OpenBucket(nil)
		s := baseline.New(bucket, baseline.Options{Pipeline: pipeline})
		m := complete(t, s, example(0))
		damaged(t, bucket, c.name(m), c.how)
		_, err := s.Open(t.Context(), m, &m.Tables[0], &m.Tables[0].Objects[1])
		if bad := (*baseline.CorruptError)(nil); !errors.As(err, &bad) || bad.Name != c.name(m) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		err = s.Check(t.Context(), m)
		if bad := (*baseline.CorruptError)(nil); errors.As(err, &bad) != c.seen || c.seen && bad.Name != c.name(m) {
			t.Errorf("%s is not seen without reading: %v", name, err)
		}
		if again := s.Complete(t.Context(), m); (again != nil) != c.seen {
			t.Errorf("%s: completed: %v", name, again)
		}
	}
}

// An object whose bytes are right and which is another's, or says so.
func TestHeadersThatDisagree(t *testing.T) {
	t.Parallel()
	for says, spoil := range map[string]func(h *baseline.Header){
		`of pipeline "other"`: func(h *baseline.Header) { h.Pipeline = "other" },
		`of source "other"`:   func(h *baseline.Header) { h.Source = "other" },
		`of table "other"`:    func(h *baseline.Header) { h.Table = "other" },
		"another schema":      func(h *baseline.Header) { h.Fingerprint++ },
		"another schema ":     func(h *baseline.Header) { h.Columns = append(h.Columns, "more") },
		"another range":       func(h *baseline.Header) { h.Range.Lo = nil },
		"another range ":      func(h *baseline.Header) { h.Range.Hi = message.Key{} },
		"another rows":        func(h *baseline.Header) { h.Sum++ },
	} {
		s := baseline.New(memblob.OpenBucket(nil), baseline.Options{Pipeline: pipeline})
		m := put(t, s, example(0), "rows")
		table := &m.Tables[0]
		o := &table.Objects[1]
		h := header(m, table, o)
		spoil(&h)
		if err := s.Put(t.Context(), o.Name, repacked(t, o, h, "rows")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Open(t.Context(), m, table, o); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(says)) || !strings.Contains(err.Error(), o.Name) {
			t.Errorf("%s: %v", says, err)
		}
	}
}

// Manifests that somebody put where they don't belong, or cut off.
func TestManifestsOfOthers(t *testing.T) {
	t.Parallel()
	bucket := memblob.OpenBucket(nil)
	theirs := complete(t, baseline.New(bucket, baseline.Options{Pipeline: pipeline}), example(0))
	s := baseline.New(bucket, baseline.Options{Pipeline: "other"})
	name := "sets/" + theirs.Set + ".json"
	if err := bucket.Copy(t.Context(), "other/"+name, pipeline+"/"+name, nil); err != nil {
		t.Fatal(err)
	}
	var foreign *baseline.ForeignError
	if _, err := s.Latest(t.Context()); !errors.As(err, &foreign) || foreign.Name != name || foreign.What != "pipeline" {
		t.Errorf("%v", err)
	}
	if err := theirs.CheckSource("1/other"); !errors.As(err, &foreign) || foreign.What != "source" {
		t.Errorf("%v", err)
	}
	own := baseline.New(bucket, baseline.Options{Pipeline: pipeline})
	renamed := baseline.NewSet(epoch.Add(time.Hour))
	if err := bucket.Copy(t.Context(), pipeline+"/sets/"+renamed+".json", pipeline+"/"+name, nil); err != nil {
		t.Fatal(err)
	}
	var bad *baseline.CorruptError
	if _, err := own.Latest(t.Context()); !errors.As(err, &bad) || !strings.Contains(err.Error(), renamed) {
		t.Errorf("%v", err)
	}
	damaged(t, bucket, name, func(b []byte) []byte { return b[:len(b)/2] })
	if _, err := own.Load(t.Context(), theirs.Set); !errors.As(err, &bad) || bad.Name != name || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("%v", err)
	}
}

// Retention removes what nothing needs any more, and nothing else.
func TestPrune(t *testing.T) {
	t.Parallel()
	bucket := memblob.OpenBucket(nil)
	s := baseline.New(bucket, baseline.Options{Pipeline: pipeline})
	now := time.Now()
	if _, err := s.Prune(t.Context(), baseline.Retention{Keep: 1, Now: now}); !errors.Is(err, baseline.ErrNoSet) {
		t.Errorf("a store that shows nothing: %v", err)
	}
	oldest, old := complete(t, s, example(0)), example(1)
	put(t, s, old, "rows")
	reused := oldest.Tables[0].Objects[0]
	old.Tables[0].Objects[0] = reused
	sealed(old)
	if err := s.Complete(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	newest := complete(t, s, example(2))
	// Another process builds: it has named one object, put another, and may use those of the second set again.
	other := example(3)
	other.Completed, other.Bases = time.Time{}, []string{old.Set}
	if err := s.Checkpoint(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	put(t, s, other, "rows")

	pruned, err := s.Prune(t.Context(), baseline.Retention{Keep: 1, Now: now})
	if err != nil || pruned.Sets != 1 || pruned.Objects != 4 { // the oldest set but one of its objects, and the one whose place that one took
		t.Errorf("%+v, %v", pruned, err)
	}
	for _, m := range []*baseline.Manifest{old, newest, other} {
		if err := s.Check(t.Context(), m); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Load(t.Context(), oldest.Set); !errors.Is(err, baseline.ErrNoSet) {
		t.Errorf("the oldest: %v", err)
	}

	// A day later that build counts as given up.
	pruned, err = s.Prune(t.Context(), baseline.Retention{Keep: 1, Now: now.Add(baseline.GivenUp + time.Hour)})
	if err != nil || pruned.Sets != 2 || pruned.Objects != 8 {
		t.Errorf("%+v, %v", pruned, err)
	}
	if err := s.Check(t.Context(), newest); err != nil {
		t.Error(err)
	}
	if left := keys(t, bucket); len(left) != 5 {
		t.Errorf("left: %q", left)
	}

	// What can't be read names nobody knows what.
	damaged(t, bucket, "sets/"+newest.Set+".json", func(b []byte) []byte { return b[:9] })
	if _, err := s.Prune(t.Context(), baseline.Retention{Keep: 1, Now: now}); err == nil || !strings.Contains(err.Error(), "nothing is removed") {
		t.Errorf("%v", err)
	}
	if left := keys(t, bucket); len(left) != 5 {
		t.Errorf("left: %q", left)
	}
}

func keys(t *testing.T, bucket *blob.Bucket) (keys []string) {
	t.Helper()
	it := bucket.List(nil)
	for {
		o, err := it.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return keys
		}
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
}
