package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/trickle-verify/trickle/internal/testbed/child"
)

// build builds one of the commands as make build does.
func build(ctx context.Context, folder, command string) (string, error) {
	program := filepath.Join(folder, command)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", program, "github.com/trickle-verify/trickle/cmd/"+command)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s (run bench in the checkout): %w: %s", command, err, output)
	}
	return program, nil
}

// program is one of the commands, running, with the log that it writes.
type program struct {
	*child.Process
	log string
}

// launch starts one of the commands. Whoever launches it ends it; it ends with this process at the latest.
func launch(log, path string, args ...string) (*program, error) {
	file, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...) //nolint:noctx // see above
	cmd.Stdout, cmd.Stderr = file, file
	p, err := child.Start(filepath.Base(path), cmd, syscall.SIGKILL)
	_ = file.Close() // it is the child's now
	return &program{p, log}, err
}

// early is an error once it has ended by itself.
func (p *program) early() error {
	select {
	case <-p.Done():
		said, _ := os.ReadFile(p.log)
		return fmt.Errorf("what writes %s ended (%v): %s", filepath.Base(p.log), p.Err(), said) //nolint:errorlint // nil, where it ended well
	default:
		return nil
	}
}
