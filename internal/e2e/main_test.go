package e2e

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/trickle-verify/trickle/internal/testbed/commands"
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
	flags := []string{"-race"}
	if os.Getenv(plain) != "" {
		flags = nil
	}
	dir, err := commands.Build("../..", flags...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
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
