package baseline_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/testbed/s3"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/transport"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run gives S3's client the testbed's credentials, and a profile with others.
func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "trickle-baseline-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	profiles := filepath.Join(dir, "credentials")
	err = os.WriteFile(profiles, []byte("[stranger]\naws_access_key_id=stranger\naws_secret_access_key=guess\n[guesser]\naws_access_key_id="+s3.AccessKey+"\naws_secret_access_key=guess\n"), 0o600)
	if err != nil {
		panic(err)
	}
	environ := s3.Environ()
	environ["AWS_SHARED_CREDENTIALS_FILE"], environ["AWS_CONFIG_FILE"] = profiles, os.DevNull
	for key, value := range environ {
		if err := os.Setenv(key, value); err != nil {
			panic(err)
		}
	}
	return m.Run()
}

const pipeline, source = "shop", "7300000000000000001/shop"

// stores opens a store of every kind that there is here, each empty.
func stores(t *testing.T) map[string]func(o baseline.Options) *baseline.Store {
	t.Helper()
	server, err := s3.Start(t.Context(), "bucket")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(context.WithoutCancel(t.Context())) })
	folder := filepath.Join(t.TempDir(), "not", "there yet")
	memory := memblob.OpenBucket(nil)
	return map[string]func(o baseline.Options) *baseline.Store{
		"file": func(o baseline.Options) *baseline.Store {
			o.URL = "file://" + filepath.ToSlash(folder)
			return open(t, o)
		},
		"s3": func(o baseline.Options) *baseline.Store { o.URL = server.URL("bucket", nil); return open(t, o) },
		"prefix": func(o baseline.Options) *baseline.Store {
			o.URL = server.URL("bucket", url.Values{"prefix": {"a/b/"}})
			return open(t, o)
		},
		"memory": func(o baseline.Options) *baseline.Store { return baseline.New(memory, o) },
	}
}

func open(t *testing.T, o baseline.Options) *baseline.Store {
	t.Helper()
	o.Make = true
	s, err := baseline.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

var epoch = time.Date(2026, 11, 26, 4, 0, 0, 0, time.UTC)

// example is a set begun so many hours after the epoch whose objects are not stored yet.
func example(hours int) *baseline.Manifest {
	begun := epoch.Add(time.Duration(hours) * time.Hour)
	m := &baseline.Manifest{
		Set: baseline.NewSet(begun), Pipeline: pipeline, Source: source, Timeline: 1, Begun: begun, Completed: begun.Add(time.Minute),
		Positions: []baseline.Point{{Taken: begun, Position: transport.Position{{Topic: "shop.public.orders", ID: "x", Offsets: []int64{7, 8}}}}},
	}
	for _, name := range []string{"public.orders", `public."Fünf/../Teller %"`} {
		m.Tables = append(m.Tables, baseline.Table{
			Table: name, Binary: true, Digest: digest.Record,
			Schema: baseline.Schema{Columns: []baseline.Column{{Name: "id", Type: "int8", Declared: "int8", Exported: true}, {Name: "twice", Type: "int8", Declared: "int8"}}, Key: []string{"id"}, Fingerprint: 1<<63 + 5},
		})
	}
	return m
}

// packed makes an object of a table and names it in the manifest.
func packed(t testing.TB, m *baseline.Manifest, table *baseline.Table, rows string) (*baseline.Object, baseline.Packed) {
	t.Helper()
	n := len(table.Objects)
	o := baseline.Object{Name: baseline.ObjectName(table.Table, m.Set, n), Rows: uint64(n) + 1, Sum: 1<<63 + uint64(n), LSN: 5, ReadAt: m.Begun, Snapshot: "3:3:"}
	if n > 0 {
		o.Range.Lo = table.Objects[n-1].Range.Hi
	}
	o.Range.Hi = message.Key{fmt.Sprint(n)}
	packed := repacked(t, &o, header(m, table, &o), rows)
	table.Objects = append(table.Objects, o)
	return &table.Objects[n], packed
}

func header(m *baseline.Manifest, t *baseline.Table, o *baseline.Object) baseline.Header {
	return baseline.Header{
		Pipeline: m.Pipeline, Source: m.Source, Table: t.Table, Columns: t.Schema.Exported(), Binary: t.Binary, Fingerprint: t.Schema.Fingerprint, Digest: t.Digest,
		Range: o.Range, Rows: o.Rows, Sum: o.Sum, Snapshot: o.Snapshot, LSN: o.LSN, ReadAt: o.ReadAt, Position: m.Positions[o.Point].Position,
	}
}

// sealed makes the manifest one that adds up.
func sealed(m *baseline.Manifest) *baseline.Manifest {
	for i := range m.Tables {
		t := &m.Tables[i]
		t.Rows, t.Sum = 0, 0
		for _, o := range t.Objects {
			t.Rows, t.Sum = t.Rows+o.Rows, t.Sum+o.Sum
		}
		t.Objects[len(t.Objects)-1].Range.Hi = nil
	}
	return m
}

// put stores a set of two objects a table, which have the same rows.
func put(t *testing.T, s *baseline.Store, m *baseline.Manifest, rows string) *baseline.Manifest {
	t.Helper()
	for i := range m.Tables {
		table := &m.Tables[i]
		for n := range 2 {
			o, p := packed(t, m, table, rows)
			if n == 1 {
				o.Range.Hi = nil
				p = repacked(t, o, header(m, table, o), rows)
			}
			if err := s.Put(t.Context(), o.Name, p); err != nil {
				t.Fatal(err)
			}
		}
	}
	return sealed(m)
}

// repacked makes an object's bytes anew, with this header.
func repacked(t testing.TB, o *baseline.Object, h baseline.Header, rows string) baseline.Packed {
	t.Helper()
	p, err := baseline.NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Write([]byte(rows)); err != nil {
		t.Fatal(err)
	}
	packed, err := p.Finish(h)
	if err != nil {
		t.Fatal(err)
	}
	o.SHA256, o.Bytes, o.Raw = packed.SHA256, int64(len(packed.Bytes)), packed.Raw
	return packed
}

// complete stores a set.
func complete(t *testing.T, s *baseline.Store, m *baseline.Manifest) *baseline.Manifest {
	t.Helper()
	put(t, s, m, "rows")
	if err := s.Complete(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return m
}

// damaged changes what a store holds under a name.
func damaged(t *testing.T, bucket *blob.Bucket, name string, how func([]byte) []byte) {
	t.Helper()
	key := pipeline + "/" + name
	b, err := bucket.ReadAll(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if b = how(b); b == nil {
		err = bucket.Delete(t.Context(), key)
	} else {
		err = bucket.WriteAll(t.Context(), key, b, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}
