package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// binaries is the environment variable that tells the tests where TestMain put the commands.
const binaries = "TRICKLE_E2E_BINARIES"

// plain is the environment variable that has the commands built as users have them, several times as fast, for tests that run for ten minutes beside others. What
// these do the others do with the race detector.
const plain = "TRICKLE_E2E_PLAIN"

func TestMain(m *testing.M) { goleak.VerifyTestMain(runner{m}) }

type runner struct{ m *testing.M }

// Run builds both commands, with the race detector unless plain is set, once, and removes them after the tests.
func (r runner) Run() int {
	dir, err := os.MkdirTemp("", "trickle-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "folder for the commands:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	args := []string{"build", "-o", dir + string(filepath.Separator)}
	if os.Getenv(plain) == "" {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "../../cmd/...")...)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the commands:", err)
		return 1
	}
	if err := os.Setenv(binaries, dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// These tests mostly wait for processes, so as many may run as there are, however few cores.
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return r.m.Run()
}
