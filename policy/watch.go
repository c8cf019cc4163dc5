package policy

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	settle  = 200 * time.Millisecond // an edit is several events: look once they are over
	recheck = 30 * time.Second       // some file systems tell of no changes
)

// Watch calls apply whenever the file at path has changed from what it was, until ctx ends; current is the policy in force, from Load.
// apply gets the new policy and its warnings, or why it can't be used, and then the old one is to stay in force. A fault is
// reported once, until the file changes again. The directory is watched, not the file, since editors replace files and
// Kubernetes swaps the link ..data. Watch returns ctx's error, or why the directory can't be watched.
func Watch(ctx context.Context, path string, current *Policy, apply func(*Policy, []Warning, error)) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching the policy: %w", err)
	}
	defer func() { _ = watcher.Close() }()
	if err := watcher.Add(filepath.Dir(path)); err != nil {
		return fmt.Errorf("watching the folder of the policy: %w", err)
	}
	seen := current.source
	var lastFault string
	look := func() {
		src, err := os.ReadFile(path)
		if err != nil {
			if fault := err.Error(); fault != lastFault {
				lastFault = fault
				apply(nil, nil, fmt.Errorf("reading the policy: %w", err))
			}
			return
		}
		lastFault = ""
		if sum := sha256.Sum256(src); sum != seen {
			seen = sum
			apply(Parse(path, src))
		}
	}
	due := time.NewTimer(settle) // what changed before the watch began is seen too
	defer due.Stop()
	soon := true // due is set to settle: other files of the folder that are written all the time must not put it off for ever
	hurry := func() {
		if !soon {
			soon = true
			due.Reset(settle)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case _, ok := <-watcher.Events:
			if !ok {
				return fmt.Errorf("watching the policy: %w", fsnotify.ErrClosed)
			}
			hurry()
		case err := <-watcher.Errors:
			if err != nil { // events were lost: look anyway
				hurry()
			}
		case <-due.C:
			look()
			soon = false
			due.Reset(recheck)
		}
	}
}
