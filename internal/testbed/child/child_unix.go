//go:build unix && !linux

package child

import (
	"bytes"
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
)

// dieWithUs has nothing to offer here: there is no parent-death signal.
func dieWithUs(*syscall.SysProcAttr, syscall.Signal) {}

// children lists the direct children of a process.
func children(parent int) ([]int, error) {
	table, err := exec.Command("ps", "-A", "-o", "pid=,ppid=").Output()
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []int
	for line := range bytes.Lines(table) {
		fields := bytes.Fields(line)
		if len(fields) != 2 || string(fields[1]) != strconv.Itoa(parent) {
			continue
		}
		pid, err := strconv.Atoi(string(fields[0]))
		if err != nil {
			return nil, err
		}
		found = append(found, pid)
	}
	return found, nil
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }
