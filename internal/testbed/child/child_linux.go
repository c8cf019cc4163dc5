package child

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

func dieWithUs(attr *syscall.SysProcAttr, death syscall.Signal) { attr.Pdeathsig = death }

// children lists the direct children of a process.
func children(parent int) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var found []int
	for _, stat := range stats {
		_, ppid, err := readStat(stat)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // ended meanwhile
		}
		if err != nil {
			return nil, err
		}
		if ppid != parent {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
		if err != nil {
			return nil, err
		}
		found = append(found, pid)
	}
	return found, nil
}

// alive is false for a zombie: it holds nothing any more, and where nobody reaps it stays for ever.
func alive(pid int) bool {
	state, _, err := readStat(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && state != 'Z' && state != 'X'
}

// readStat takes state and parent from behind the command's name, which may hold anything but ends with the last parenthesis.
func readStat(file string) (state byte, parent int, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, 0, err
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 2 {
		return 0, 0, fmt.Errorf("%s has an unknown form", file)
	}
	parent, err = strconv.Atoi(string(fields[1]))
	return fields[0][0], parent, err
}
