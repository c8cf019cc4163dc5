package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// damaged spoils copies of the store, each in one way, and has others' sets in its place. What can be told before anything is written is, and an object that is not what it was at
// its range, which stays as it was before.
func (s *shelf) damaged(t *testing.T) {
	good := s.lose(t, "damaged")
	s.revive(t, good, "--play-forward") // pinned to its source, and with rows that must not go
	set := s.newest(t)
	for name, spoil := range map[string]func(t *testing.T, store string) []string{
		"a missing object": func(t *testing.T, store string) []string {
			object := s.object(t, store, set)
			if err := os.Remove(filepath.Join(store, "shelf", filepath.FromSlash(object))); err != nil {
				t.Fatal(err)
			}
			return []string{object}
		},
		"a truncated object": func(t *testing.T, store string) []string {
			object := s.object(t, store, set)
			rewrite(t, filepath.Join(store, "shelf", filepath.FromSlash(object)), func(b []byte) []byte { return b[:len(b)-1] })
			return []string{object}
		},
		"a truncated manifest": func(t *testing.T, store string) []string {
			rewrite(t, manifest(store, set), func(b []byte) []byte { return b[:len(b)/2] })
			return []string{set}
		},
		"a manifest that somebody edited": func(t *testing.T, store string) []string {
			rewrite(t, manifest(store, set), func(b []byte) []byte { return []byte(strings.Replace(string(b), "orders", "orderz", 1)) })
			return []string{set}
		},
		"a manifest of another pipeline": func(t *testing.T, store string) []string {
			policy := writeFile(t, "policy.yaml", strings.Replace(fmt.Sprintf(shelfPolicy+shelfBaseline, s.source.Slot, "", "", store, "1h"), "pipeline: shelf", "pipeline: other", 1))
			if code, _, stderr := run(t, s.building(policy)); code != 0 {
				t.Fatalf("baseline build of another pipeline ends with %d: %s", code, stderr)
			}
			if err := os.RemoveAll(filepath.Join(store, "shelf")); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(filepath.Join(store, "other"), filepath.Join(store, "shelf")); err != nil {
				t.Fatal(err)
			}
			return []string{"other", "shelf"}
		},
		"a manifest of another source": func(t *testing.T, store string) []string {
			if err := os.RemoveAll(store); err != nil {
				t.Fatal(err)
			}
			build := s.building(s.policyOf(store, "1h"))
			for i, arg := range build.args {
				if arg == s.src.dsn {
					build.args[i] = good.dsn // which has the tables
				}
			}
			if code, _, stderr := run(t, build); code != 0 {
				t.Fatalf("baseline build of another source ends with %d: %s", code, stderr)
			}
			return []string{"source", "pinned"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := s.copyOf(t)
			words := spoil(t, store)
			named := set
			if all := complete(t, store); !slices.Contains(all, set) {
				named = all[len(all)-1]
			}
			s.refuse(t, s.policyOf(store, "1h"), good, []string{"--play-forward", "--replace", "--set", named}, words...)
		})
	}
	t.Run("a flipped bit", func(t *testing.T) {
		store := s.copyOf(t)
		policy, object := s.policyOf(store, "1h"), s.object(t, store, set)
		rewrite(t, filepath.Join(store, "shelf", filepath.FromSlash(object)), func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		if code, stdout, stderr := run(t, trickle("baseline", "verify", "--policy", policy)); code != 1 || !strings.Contains(stdout+stderr, object) {
			t.Errorf("verify ends with %d and should name %s: %s%s", code, object, stdout, stderr)
		}
		replica := s.lose(t, "flipped")
		code, stdout, stderr := s.run(t, s.restoring(policy, replica, "--play-forward", "--set", set))
		if code != 2 || !strings.Contains(stderr, object) || strings.Contains(stdout, `"proven": true`) {
			t.Errorf("restore ends with %d and should name %s: %s%s", code, object, stdout, stderr)
		}
		if state := s.state(t, replica); state != "failed" {
			t.Errorf("the restore is %s", state)
		}
		if n := value[int](t, replica, `SELECT count(*) FROM trickle.restore_ranges WHERE done AND object = $1`, object); n > 0 {
			t.Error("its range is claimed")
		}
		s.revive(t, replica, "--play-forward") // with the store that is whole
		s.same(t, replica)
	})
}

func manifest(store, set string) string { return filepath.Join(store, "shelf", "sets", set+".json") }

// object is one of a set's, by its name.
func (s *shelf) object(t *testing.T, store, set string) string {
	t.Helper()
	text, err := os.ReadFile(manifest(store, set))
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile(`"name": ?"([^"]*orders/[^"]*\.zst)"`).FindAllStringSubmatch(string(text), -1)
	if len(all) == 0 {
		t.Fatalf("no object is in %s", text)
	}
	return all[len(all)/2][1]
}

// copyOf copies the store's newest set.
func (s *shelf) copyOf(t *testing.T) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "store")
	if err := os.CopyFS(to, os.DirFS(s.store)); err != nil {
		t.Fatal(err)
	}
	return to
}

func rewrite(t *testing.T, file string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, change(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
