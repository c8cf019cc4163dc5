package docs

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/trickle-verify/trickle/internal/testbed/commands"
)

// binaries is the environment variable that tells the tests where TestMain put the commands.
const binaries = "TRICKLE_DOCS_BINARIES"

// TestMain is also what stands in for programs on the PATH of the documents' blocks: see standin_test.go.
func TestMain(m *testing.M) {
	if tool := os.Getenv(toolVariable); tool != "" {
		os.Exit(askServer(tool))
	}
	goleak.VerifyTestMain(runner{m})
}

type runner struct{ m *testing.M }

// Run builds both commands, once, and removes them after the tests.
func (r runner) Run() int {
	dir, err := commands.Build("../..", "-ldflags=-s -w")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Setenv(binaries, dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return r.m.Run()
}
