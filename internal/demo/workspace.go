package demo

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// workspace is the demo's temporary folder.
type workspace struct {
	dir  string
	file *os.File
	log  *slog.Logger
}

func newWorkspace() (*workspace, error) {
	dir, err := os.MkdirTemp("", "trickle-demo-")
	if err != nil {
		return nil, fmt.Errorf("folder for the demo: %w", err)
	}
	file, err := os.Create(filepath.Join(dir, "parts.log"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("log of the demo: %w", err), os.RemoveAll(dir))
	}
	return &workspace{dir: dir, file: file, log: slog.New(slog.NewTextHandler(file, nil))}, nil
}

// policy writes the policy file and returns its path. Everything that takes minutes in production takes seconds here.
func (w *workspace) policy(cycle time.Duration) (string, error) {
	text := fmt.Sprintf(`pipeline: %s
schedule: {cycle: %s}
quiet: 2s
range_rows: 1000
tables: [{table: public.*}]
gate: {max_lag: 10s, heartbeat: {interval: 300ms, in_commit_order: true}}
detect: {confirm: {delay: 1s}, window: %s}
resync:
  partial: {discrepancies: %d}
  full: {discrepancies: %d, ratio: 100%%}
  cooldown: %s        # as long as the window, so that one mass of drift asks for one resync
`, pipeline, cycle, window, partialLimit, fullLimit, window)
	path := filepath.Join(w.dir, "policy.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("the demo's policy: %w", err)
	}
	return path, nil
}

// keepLog moves the log out of the folder, which close then removes, and returns its new path; empty where nothing was logged.
func (w *workspace) keepLog() (string, error) {
	info, err := w.file.Stat()
	if err != nil || info.Size() == 0 {
		return "", err
	}
	kept := w.dir + ".log"
	return kept, os.Rename(w.file.Name(), kept)
}

// close removes the folder.
func (w *workspace) close() error { return errors.Join(w.file.Close(), os.RemoveAll(w.dir)) }
