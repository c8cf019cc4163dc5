package pgtest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed"
)

const (
	shm       = "/dev/shm"
	least     = 8 << 30 // bytes that have to be free, for all the servers of a few packages
	abandoned = 10 * time.Minute
)

// inMemory has a server keep its files in memory: each database is hundreds of them, which cost four times the CPU on a disk to make and to remove, and the
// tests their time. Whoever sets TMPDIR has decided otherwise.
func inMemory(o testbed.Options) testbed.Options {
	if os.Getenv("TMPDIR") != "" || o.Dir != "" || !plenty() {
		return o
	}
	sweep()
	o.Parent = shm
	settings := map[string]string{"max_wal_size": "256MB"}
	maps.Copy(settings, o.Settings)
	o.Settings = settings
	return o
}

func plenty() bool {
	var there syscall.Statfs_t
	if err := syscall.Statfs(shm, &there); err != nil || there.Bavail*uint64(there.Bsize) < least {
		return false
	}
	var kb uint64
	text, err := os.ReadFile("/proc/meminfo")
	_, line, _ := strings.Cut(string(text), "MemAvailable:")
	if _, scan := fmt.Sscan(line, &kb); err != nil || scan != nil {
		return false
	}
	return kb<<10 >= least
}

// sweep removes what test binaries left that were killed: memory does not come back by itself.
func sweep() {
	folders, _ := filepath.Glob(filepath.Join(shm, testbed.FolderPrefix+"*")) // the pattern is a good one
	for _, folder := range folders {
		at, err := os.Stat(folder)
		if err != nil || time.Since(at.ModTime()) < abandoned {
			continue
		}
		text, err := os.ReadFile(filepath.Join(folder, "data", "postmaster.pid"))
		if err == nil {
			line, _, _ := strings.Cut(string(text), "\n")
			if pid, err := strconv.Atoi(line); err != nil || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
				continue
			}
		}
		_ = os.RemoveAll(folder) // or the next one does it
	}
}
