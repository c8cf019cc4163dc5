package baseline

import (
	"testing"
	"time"

	"gocloud.dev/blob/memblob"
)

// A build that begins while it is being decided what goes may have found the set that goes, and names its objects: these stay.
func TestBuildThatBeginsWhileSetsAreRemoved(t *testing.T) {
	t.Parallel()
	bucket := memblob.OpenBucket(nil)
	t.Cleanup(func() { _ = bucket.Close() })
	s := New(bucket, Options{Pipeline: "shop"})
	now := time.Now()
	bare := func(ago time.Duration) *Manifest {
		return &Manifest{Set: NewSet(now.Add(-ago)), Pipeline: "shop", Source: "1/shop", Begun: now}
	}
	old, next, begun := bare(2*time.Hour), bare(time.Hour), bare(0)
	for _, m := range []*Manifest{old, next} {
		m.Completed = now
		if err := s.Complete(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Put(t.Context(), ObjectName("public.t", old.Set, 0), Packed{Bytes: []byte("rows")}); err != nil {
		t.Fatal(err)
	}
	p, err := s.pruning(t.Context(), Retention{Keep: 1, Now: now})
	if err != nil || len(p.gone) != 1 {
		t.Fatalf("%v, %v", p.gone, err)
	}
	begun.Bases = []string{old.Set}
	if err := s.Checkpoint(t.Context(), begun); err != nil {
		t.Fatal(err)
	}
	if out, err := p.remove(t.Context()); err != nil || out.Sets != 1 || out.Objects != 0 {
		t.Errorf("what a build may name is gone: %+v, %v", out, err)
	}
	if out, err := s.Prune(t.Context(), Retention{Keep: 1, Now: now}); err != nil || out.Objects != 1 { // the build names nothing of it
		t.Errorf("%+v, %v", out, err)
	}
}
