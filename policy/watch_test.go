package policy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

type seen struct {
	policy *Policy
	err    error
}

// watched begins to watch path and returns what is applied.
func watched(t *testing.T, path string) <-chan seen {
	t.Helper()
	current, _, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan seen, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Watch(ctx, path, current, func(p *Policy, _ []Warning, err error) { got <- seen{p, err} })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch ended with %v", err)
		}
	})
	return got
}

func next(t *testing.T, got <-chan seen) seen {
	t.Helper()
	select {
	case s := <-got:
		return s
	case <-time.After(20 * time.Second):
		t.Fatal("no change was seen")
		return seen{}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, minimal)
	got := watched(t, path)

	write(t, path, minimal) // the same again is no change
	write(t, path, minimal+"quiet: 5m")
	if s := next(t, got); s.err != nil || time.Duration(s.policy.Quiet) != 5*time.Minute {
		t.Fatalf("after an edit: %+v", s)
	}
	write(t, path, minimal+"quiet: soon")
	var problems Errors
	if s := next(t, got); !errors.As(s.err, &problems) || s.policy != nil {
		t.Fatalf("after an invalid edit: %+v", s)
	}
	replacement := path + ".new"
	write(t, replacement, minimal+"quiet: 6m")
	if err := os.Rename(replacement, path); err != nil {
		t.Fatal(err)
	}
	if s := next(t, got); s.err != nil || time.Duration(s.policy.Quiet) != 6*time.Minute {
		t.Fatalf("after the file was replaced: %+v", s)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if s := next(t, got); !errors.Is(s.err, os.ErrNotExist) {
		t.Fatalf("after the file went away: %+v", s)
	}
	write(t, path, minimal+"quiet: 6m") // what was said of it holds no more
	if s := next(t, got); s.err != nil || time.Duration(s.policy.Quiet) != 6*time.Minute {
		t.Fatalf("after the file came back as it was: %+v", s)
	}
}

// A link leads to a folder that nobody watches: the edit is seen all the same, within ten seconds.
func TestWatchBehindALink(t *testing.T) {
	t.Parallel()
	there, here := filepath.Join(t.TempDir(), "policy.yaml"), filepath.Join(t.TempDir(), "policy.yaml")
	write(t, there, minimal)
	if err := os.Symlink(there, here); err != nil {
		t.Fatal(err)
	}
	got := watched(t, here)
	write(t, there, minimal+"quiet: 5m")
	begin := time.Now()
	s := next(t, got)
	write(t, there, minimal+"quiet: 6m") // the first may have been seen as the watch began
	if s := next(t, got); s.err != nil || time.Duration(s.policy.Quiet) != 6*time.Minute {
		t.Fatalf("%+v", s)
	}
	if took := time.Since(begin); s.err != nil || took > 10*time.Second {
		t.Errorf("%+v after %s", s, took)
	}
}

// Kubernetes mounts a config map as links through ..data, which it swaps.
func TestWatchSwappedLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{"..1": minimal, "..2": minimal + "quiet: 5m"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name, "policy.yaml"), text)
	}
	link := func(target, name string) {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("..1", "..data")
	link("..data/policy.yaml", "policy.yaml")
	got := watched(t, filepath.Join(dir, "policy.yaml"))
	link("..2", "..data_tmp")
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	if s := next(t, got); s.err != nil || time.Duration(s.policy.Quiet) != 5*time.Minute {
		t.Fatalf("after the swap: %+v", s)
	}
}
