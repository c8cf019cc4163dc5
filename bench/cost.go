package main

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cost is what one reading took.
type cost struct {
	wall                    time.Duration
	source, replica, client time.Duration // CPU; 0 where the system does not tell
	peak                    int64         // bytes, the client's; 0 where the reading was made in this process
}

// clocks are the wall clock and everybody's CPU time at one instant.
type clocks struct {
	at                      time.Time
	source, replica, client time.Duration
}

// readClocks takes the two postmasters.
func readClocks(source, replica int) clocks {
	return clocks{time.Now(), serverCPU(source), serverCPU(replica), ownCPU()}
}

// since is the cost from before until c. A reading in a child process has that one's CPU and memory, without what this process did while it waited.
func (c clocks) since(before clocks, child *os.ProcessState) cost {
	spent := cost{wall: c.at.Sub(before.at), source: c.source - before.source, replica: c.replica - before.replica, client: c.client - before.client}
	if child != nil {
		spent.client = child.UserTime() + child.SystemTime()
		spent.peak = peakOf(child)
	}
	return spent
}

// peakOf is the most memory that a child had, in bytes. Linux counts what this process had when it started the child as the child's: what it
// says may be too much, and is never too little.
func peakOf(child *os.ProcessState) int64 {
	if usage, ok := child.SysUsage().(*syscall.Rusage); ok {
		return usage.Maxrss * 1024 // Linux tells it in KiB
	}
	return 0
}

// ownPeak is the most memory that this process had, "" where the system does not tell.
func ownPeak() string {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if size, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			return strings.TrimSpace(size)
		}
	}
	return ""
}

func ownCPU() time.Duration {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// serverCPU is what a server has used of the CPU: its postmaster, every process below it, and those that have ended, which their postmaster
// waited for. A process that ends in between would be seen twice or never, so it looks again until none did. 0 where there is no /proc.
func serverCPU(postmaster int) time.Duration {
	pid := strconv.Itoa(postmaster)
	for {
		before := waitedFor(pid)
		sum := before + processCPU(pid)
		family, err := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
		if err != nil {
			return 0
		}
		for child := range strings.FieldsSeq(string(family)) {
			sum += processCPU(child)
		}
		if waitedFor(pid) == before {
			return sum
		}
	}
}

// processCPU is what a process of one thread, as all of Postgres are, has used itself; to the nanosecond.
func processCPU(pid string) time.Duration {
	b, err := os.ReadFile("/proc/" + pid + "/schedstat")
	if err != nil {
		return 0
	}
	ns, _, _ := strings.Cut(string(b), " ")
	n, _ := strconv.ParseInt(ns, 10, 64)
	return time.Duration(n)
}

// waitedFor is what the children that have ended had used.
func waitedFor(pid string) time.Duration { return statCPU(pid, 13) }

// threadsCPU is what a process has used with all its threads; 0 where there is no /proc, or no such process any more.
func threadsCPU(pid int) time.Duration { return statCPU(strconv.Itoa(pid), 11) }

// statCPU adds up two times of a process's stat, user and system, in steps of 10 ms: Linux tells it in hundredths of a second. The fields are counted from the one after
// the name, which may hold spaces.
func statCPU(pid string, user int) time.Duration {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < user+2 {
		return 0
	}
	u, _ := strconv.ParseInt(f[user], 10, 64)
	system, _ := strconv.ParseInt(f[user+1], 10, 64)
	return time.Duration(u+system) * 10 * time.Millisecond
}
