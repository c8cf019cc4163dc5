package baseline

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/azureblob" // azblob://
	_ "gocloud.dev/blob/fileblob"  // file://
	_ "gocloud.dev/blob/gcsblob"   // gs://
	_ "gocloud.dev/blob/memblob"   // mem://
	_ "gocloud.dev/blob/s3blob"    // s3://
	"gocloud.dev/gcerrors"

	"github.com/trickle-verify/trickle/message"
)

// Options say where the view is kept and whose it is.
type Options struct {
	URL      string // of policy.Baseline
	Pipeline string
	Secret   []byte // the signing key; empty: none
	// Make has a folder of this machine made where it is not there, readable by this account alone. Only who writes needs it: to a reader a folder that is not there is an
	// address that may be mistyped.
	Make bool
}

// Store is the folder of one pipeline in a bucket.
type Store struct {
	bucket   *blob.Bucket
	where    string
	pipeline string
	codec    Codec
}

// Open opens the store. For a folder that is not there, and is not to be made, the error wraps fs.ErrNotExist.
func Open(ctx context.Context, o Options) (*Store, error) {
	if err := message.CheckName("pipeline", o.Pipeline); err != nil { // it becomes a folder's
		return nil, err
	}
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme == "" {
		return nil, fmt.Errorf("baseline.url %q is no URL: give one such as file:///var/lib/trickle or s3://bucket?region=eu-central-1", o.URL)
	}
	where := u.Scheme + "://" + u.Host + u.Path // the rest may hold what is nobody's business
	if u.Scheme == "file" {
		if u.Host != "" && u.Host != "." { // it would be left out, and the rest taken for a path from the root on
			return nil, fmt.Errorf("baseline.url %q names the host %q: a folder has three slashes, as in file:///var/lib/trickle", o.URL, u.Host)
		}
		q := u.Query()
		// Files are renamed into place, which works within one file system only, so they are written beside it; and the names of a pipeline's files are all that there is to
		// say about them.
		for key, value := range map[string]string{"create_dir": strconv.FormatBool(o.Make), "no_tmp_dir": "true", "metadata": "skip", "dir_file_mode": "0700"} {
			if !q.Has(key) {
				q.Set(key, value)
			}
		}
		u.RawQuery = q.Encode()
		if err := readable(u, o.Pipeline); err != nil {
			return nil, err
		}
		if !o.Make {
			if err := there(u); err != nil {
				return nil, err
			}
		}
	}
	bucket, err := blob.OpenBucket(ctx, u.String())
	if err != nil {
		return nil, storeError("opening the base-line store "+where, err)
	}
	s := New(bucket, o)
	s.where = where
	return s, nil
}

// New is a store in a bucket that is open; Close closes it.
func New(bucket *blob.Bucket, o Options) *Store {
	return &Store{bucket: bucket, where: o.URL, pipeline: o.Pipeline, codec: Codec{Secret: o.Secret}}
}

// Close lets go of the bucket.
func (s *Store) Close() error { return s.bucket.Close() }

// String says where it is.
func (s *Store) String() string { return s.where }

// NewSet is a name for a set that is begun now.
func NewSet(now time.Time) string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // it never fails
	return now.UTC().Format("20060102T150405.000000Z") + "-" + hex.EncodeToString(b[:])
}

// ObjectName is the name of a set's nth object of a table.
func ObjectName(table, set string, n int) string {
	return fmt.Sprintf("%s%s-%06d.zst", folder(table), set, n)
}

// folder of a table's objects: its name is made one part of a path.
func folder(table string) string { return "objects/" + url.PathEscape(table) + "/" }

const (
	setsFolder = "sets/"
	manifested = ".json"
	underWay   = ".partial.json"
)

// Listed is a set that the store has, which nobody has read yet.
type Listed struct {
	Set     string
	Written time.Time // by the store's clock
	Partial bool      // of a build that is under way, or was given up
}

// Sets lists the sets, newest first: complete ones, and those of builds that are under way.
func (s *Store) Sets(ctx context.Context) ([]Listed, error) {
	var sets []Listed
	err := s.list(ctx, setsFolder, func(name string, o *blob.ListObject) {
		set, partial := strings.CutSuffix(strings.TrimPrefix(name, setsFolder), underWay)
		if !partial {
			set = strings.TrimSuffix(set, manifested)
		}
		if strings.HasSuffix(name, manifested) && setRule.MatchString(set) {
			sets = append(sets, Listed{Set: set, Written: o.ModTime, Partial: partial})
		}
	})
	slices.SortFunc(sets, func(a, b Listed) int { return strings.Compare(b.Set, a.Set) })
	return sets, err
}

// list calls fn for each object below a prefix of the pipeline's folder, with its name in it.
func (s *Store) list(ctx context.Context, prefix string, fn func(name string, o *blob.ListObject)) error {
	it := s.bucket.List(&blob.ListOptions{Prefix: s.key(prefix)})
	for {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return storeError("listing "+s.where+" "+s.key(prefix), err)
		}
		fn(strings.TrimPrefix(o.Key, s.key("")), o)
	}
}

func (s *Store) key(name string) string { return s.pipeline + "/" + name }

// Latest loads the newest complete set. Where there is none the error wraps ErrNoSet.
func (s *Store) Latest(ctx context.Context) (*Manifest, error) {
	set, err := s.Newest(ctx)
	if err != nil {
		return nil, err
	}
	if set == "" {
		return nil, fmt.Errorf("%w: %s holds no complete set of pipeline %q: build one with trickle baseline build, or look at baseline.url", ErrNoSet, s.where, s.pipeline)
	}
	return s.Load(ctx, set)
}

// Newest names the newest complete set; none is no error, and an empty name.
func (s *Store) Newest(ctx context.Context) (string, error) {
	sets, err := s.Sets(ctx)
	if i := slices.IndexFunc(sets, func(l Listed) bool { return !l.Partial }); err == nil && i >= 0 {
		return sets[i].Set, nil
	}
	return "", err
}

// Load loads a complete set. Its errors are *CorruptError, *ForeignError, *ForgedError, or wrap ErrNoSet.
func (s *Store) Load(ctx context.Context, set string) (*Manifest, error) {
	m, err := s.load(ctx, set, manifested)
	if err == nil && !m.Complete() {
		return nil, corrupt(setsFolder+set+manifested, "it is not complete")
	}
	return m, err
}

// Partial loads what a build that is under way, or was given up, has so far.
func (s *Store) Partial(ctx context.Context, set string) (*Manifest, error) {
	m, err := s.load(ctx, set, underWay)
	if err == nil && m.Complete() {
		return nil, corrupt(setsFolder+set+underWay, "it is complete")
	}
	return m, err
}

func (s *Store) load(ctx context.Context, set, suffix string) (*Manifest, error) {
	if !setRule.MatchString(set) {
		return nil, fmt.Errorf("%w: %q is no name of a set: trickle baseline list shows those that there are", ErrNoSet, set)
	}
	name := setsFolder + set + suffix
	b, err := s.bucket.ReadAll(ctx, s.key(name))
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil, fmt.Errorf("%w: %s has no set %s of pipeline %q: trickle baseline list shows those that there are", ErrNoSet, s.where, set, s.pipeline)
	}
	if err != nil {
		return nil, storeError("reading "+name+" in "+s.where, err)
	}
	m, err := s.codec.Decode(name, b)
	switch {
	case err != nil:
		return nil, err
	case m.Pipeline != s.pipeline:
		return nil, &ForeignError{Name: name, What: "pipeline", Has: m.Pipeline, Want: s.pipeline}
	case m.Set != set:
		return nil, corrupt(name, "it is the manifest of set %s: it was copied or renamed", m.Set)
	}
	return m, nil
}

// Checkpoint stores what a build has so far. It has to be there before the build's first object, and at least every day while it lasts: see Prune.
func (s *Store) Checkpoint(ctx context.Context, m *Manifest) error {
	return s.write(ctx, m, underWay)
}

// Complete stores a set's manifest, which makes it one that is restored from, after making sure that each of its objects is there; then the checkpoint goes.
func (s *Store) Complete(ctx context.Context, m *Manifest) error {
	if !m.Complete() {
		return fmt.Errorf("set %s is not complete", m.Set)
	}
	if err := s.Check(ctx, m); err != nil {
		return err
	}
	if err := s.write(ctx, m, manifested); err != nil {
		return err
	}
	return s.remove(ctx, setsFolder+m.Set+underWay)
}

func (s *Store) write(ctx context.Context, m *Manifest, suffix string) error {
	b, err := s.codec.Encode(m)
	if err != nil {
		return err
	}
	return s.put(ctx, setsFolder+m.Set+suffix, b)
}

// Put stores an object: all of it or nothing.
func (s *Store) Put(ctx context.Context, name string, p Packed) error {
	return s.put(ctx, name, p.Bytes)
}

// inOnePart is the size up to which an object is sent as a whole, and not in parts that a store has to put together.
const inOnePart = 64 << 20

func (s *Store) put(ctx context.Context, name string, b []byte) error {
	// What stops in the middle leaves nothing: a writer whose context is cancelled does not close the object.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := s.bucket.NewWriter(ctx, s.key(name), &blob.WriterOptions{ContentType: "application/octet-stream", BufferSize: min(max(len(b), 5<<20), inOnePart)})
	if err != nil {
		return storeError("writing "+name+" to "+s.where, err)
	}
	if _, err := io.Copy(w, bytes.NewReader(b)); err != nil {
		cancel()
		_ = w.Close()
		return storeError("writing "+name+" to "+s.where, err)
	}
	return storeError("writing "+name+" to "+s.where, w.Close())
}

// Open reads an object of a set. Nothing of it is given out before its bytes were found to be, by size and SHA-256, those that the manifest names; the caller closes
// it. What is wrong with it is a *CorruptError or a *ForeignError.
func (s *Store) Open(ctx context.Context, m *Manifest, t *Table, o *Object) (*Content, error) {
	b, err := s.bucket.ReadAll(ctx, s.key(o.Name))
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil, missing(m, o)
	}
	if err != nil {
		return nil, storeError("reading "+o.Name+" in "+s.where, err)
	}
	return unpack(b, m, t, o)
}

func missing(m *Manifest, o *Object) error {
	return corrupt(o.Name, "it is missing, and set %s needs it; trickle baseline build --afresh makes another", m.Set)
}

// mostNamed bounds how many faults an error names.
const mostNamed = 10

// Check makes sure that every object of a set is there and as long as it should be, without reading any. Its error names those that are not: each a
// *CorruptError.
func (s *Store) Check(ctx context.Context, m *Manifest) error {
	var faults []error
	for i := range m.Tables {
		t := &m.Tables[i]
		sizes, err := s.Sizes(ctx, t.Table)
		if err != nil {
			return err
		}
		for n := range t.Objects {
			o := &t.Objects[n]
			switch size, there := sizes[o.Name]; {
			case !there:
				faults = append(faults, missing(m, o))
			case size != o.Bytes:
				faults = append(faults, corrupt(o.Name, "it has %d bytes and the manifest of set %s says %d: it was cut off or replaced", size, m.Set, o.Bytes))
			}
		}
	}
	if more := len(faults) - mostNamed; more > 0 {
		faults = append(faults[:mostNamed], fmt.Errorf("and %d more", more))
	}
	return errors.Join(faults...)
}

// Sizes are those of all objects that there are of a table, by name.
func (s *Store) Sizes(ctx context.Context, table string) (map[string]int64, error) {
	sizes := make(map[string]int64)
	err := s.list(ctx, folder(table), func(name string, o *blob.ListObject) { sizes[name] = o.Size })
	return sizes, err
}

func (s *Store) remove(ctx context.Context, name string) error {
	err := s.bucket.Delete(ctx, s.key(name))
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil // somebody else was quicker
	}
	return storeError("removing "+name+" from "+s.where, err)
}
