package policy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A folder in which other files are written all the time does not put an edit of the policy off.
func TestWatchInABusyFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "policy.yaml")
	const first = "pipeline: a\ntables: [{table: public.t}]\n"
	if err := os.WriteFile(path, []byte(first), 0o600); err != nil {
		t.Fatal(err)
	}
	current, _, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	applied := make(chan *Policy, 1)
	done := make(chan error, 1)
	go func() {
		done <- Watch(ctx, path, current, func(p *Policy, _ []Warning, _ error) { applied <- p })
	}()
	busy := time.NewTicker(20 * time.Millisecond)
	defer busy.Stop()
	if err := os.WriteFile(path, []byte(first+"quiet: 5m\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	for waiting := true; waiting; {
		select {
		case p := <-applied:
			if p == nil || p.Quiet != Duration(5*time.Minute) {
				t.Errorf("applied %+v", p)
			}
			waiting = false
		case <-deadline:
			t.Error("the edit was never seen")
			waiting = false
		case <-busy.C:
			if err := os.WriteFile(filepath.Join(dir, "other"), []byte(time.Now().String()), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
}
