// Package helm runs the real Helm for tests, on charts that need no cluster.
//
// It decides where Helm comes from: a cache folder that scripts/prerequisites builds it into, at the version that the file version pins. What always holds: nothing is
// built or downloaded here, no cluster is asked, and nothing of the user's own Helm is read or written. What is missing is an error that says what to run.
package helm

import (
	"bytes"
	"context"
	_ "embed" // the version
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed version
var version string

// Run runs a command of Helm and returns what it wrote to standard output; its error is what it wrote to standard error.
func Run(ctx context.Context, args ...string) (string, error) {
	binary, err := find()
	if err != nil {
		return "", err
	}
	home, err := os.MkdirTemp("", "trickle-helm-")
	if err != nil {
		return "", fmt.Errorf("folder for helm: %w", err)
	}
	defer os.RemoveAll(home)
	c := exec.CommandContext(ctx, binary, args...)
	c.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "KUBECONFIG=" + filepath.Join(home, "none")}
	var out, complaint bytes.Buffer
	c.Stdout, c.Stderr = &out, &complaint
	if err := c.Run(); err != nil {
		return out.String(), fmt.Errorf("helm %s: %w: %s%s", args[0], err, complaint.String(), out.String())
	}
	return out.String(), nil
}

// find looks where fetch_helm in scripts/prerequisites puts it.
func find() (string, error) {
	cache := "/var/cache"
	if os.Geteuid() != 0 {
		var err error
		if cache, err = os.UserCacheDir(); err != nil {
			return "", fmt.Errorf("cache for helm: %w", err)
		}
	}
	binary := filepath.Join(cache, "trickle", "helm", "helm-"+strings.TrimSpace(version))
	if _, err := os.Stat(binary); err != nil {
		return "", fmt.Errorf("helm is not here (%w): run make test, or scripts/prerequisites alone, which builds it", err)
	}
	return binary, nil
}
