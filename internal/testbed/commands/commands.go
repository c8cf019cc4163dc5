// Package commands builds the project's commands for tests that run them as processes.
//
// It decides where they are: in a folder of their own, which the tests remove. What always holds: they are of the code that is under test. What can't be built is an
// error that the compiler has explained on standard error.
package commands

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Build builds every command of the module, with further flags for go build, into a new folder. root is the module's, as seen from the test.
func Build(root string, flags ...string) (dir string, err error) {
	if dir, err = os.MkdirTemp("", "trickle-commands-"); err != nil {
		return "", fmt.Errorf("folder for the commands: %w", err)
	}
	args := append([]string{"build", "-o", dir + string(filepath.Separator)}, flags...)
	build := exec.Command("go", append(args, root+"/cmd/...")...)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		_ = os.RemoveAll(dir) // nothing is in it
		return "", fmt.Errorf("building the commands: %w", err)
	}
	return dir, nil
}
