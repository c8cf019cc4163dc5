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
gate: {max_lag: 10s, heartbeat: {interval: 300ms}}
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

// close removes the folder. With keep set, the log is moved out first and its new path returned.
func (w *workspace) close(keep bool) (kept string, err error) { //nolint:revive // keep is what happened, not a mode
	err = w.file.Close()
	if keep {
		kept = w.dir + ".log"
		if moveErr := os.Rename(w.file.Name(), kept); moveErr != nil {
			kept, err = "", errors.Join(err, moveErr)
		}
	}
	return kept, errors.Join(err, os.RemoveAll(w.dir))
}
