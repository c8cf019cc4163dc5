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
	recheck = 5 * time.Second        // some file systems tell of no changes, and some links lead to folders that nobody watches
)

// Watch calls apply whenever the file at path has changed from what it was, until ctx ends; current is the policy in force, from Load.
// apply gets the new policy and its warnings, or why it can't be used, and then the old one is to stay in force. A fault is
// reported once, until the file changes again. The directory is watched, not the file, since editors replace files and
// Kubernetes swaps the link ..data; besides, the file is looked at every few seconds, which is all there is where the system grants no watch.
// Watch returns ctx's error.
func Watch(ctx context.Context, path string, current *Policy, apply func(*Policy, []Warning, error)) error {
	events, faults, stop := folder(filepath.Dir(path))
	defer stop()
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
		back := lastFault != "" // what was said of the file holds no more, also where it is what it was
		lastFault = ""
		if sum := sha256.Sum256(src); sum != seen || back {
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
		case _, ok := <-events:
			if !ok {
				events = nil
			}
			hurry()
		case _, ok := <-faults: // events were lost: look anyway
			if !ok {
				faults = nil
			}
			hurry()
		case <-due.C:
			look()
			soon = false
			due.Reset(recheck)
		}
	}
}

// folder tells of changes in a folder, and of events that were lost, until it is stopped; of nothing where the system has no watch left to give.
func folder(name string) (<-chan fsnotify.Event, <-chan error, func()) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, nil, func() {}
	}
	stop := func() { _ = watcher.Close() }
	if err := watcher.Add(name); err != nil {
		stop()
		return nil, nil, func() {}
	}
	return watcher.Events, watcher.Errors, stop
}
