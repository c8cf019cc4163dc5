//go:build unix && !linux

package testbed

import (
	"bytes"
	"fmt"
	"io/fs"
	"os/exec"
	"strconv"
	"syscall"
)

func as(a *account) *syscall.SysProcAttr {
	if a == nil {
		return &syscall.SysProcAttr{}
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: a.uid, Gid: a.gid}}
}

// dieWithParent keeps a terminal's Ctrl-C from the server. There is no parent-death signal here: after a kill -9 of ours the server stays.
func dieWithParent(a *account) *syscall.SysProcAttr {
	attr := as(a)
	attr.Setpgid = true
	return attr
}

func (a *account) owns(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Uid == a.uid
}

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
