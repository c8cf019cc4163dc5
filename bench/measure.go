package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trickle-verify/trickle/digest"
)

// floors is how many of the first readings are floors.
const floors = 2

// round is one sample of each reading.
type round []sample

// measure runs every reading once a round, in an order that turns with the rounds. The first round warms the caches and is left out.
func (s *subject) measure(ctx context.Context, rounds int) ([]round, error) {
	var out []round
	var want *digest.Thumbprint
	for n := range rounds + 1 {
		r := make(round, len(s.readings))
		for i := range s.readings {
			at := (i + n) % len(s.readings)
			runtime.GC() // the garbage of one reading is not the next one's work
			before := s.clock()
			got, err := s.readings[at].read(ctx)
			after := s.clock()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.readings[at].name, err)
			}
			if got != nil && want != nil && *got != *want {
				return nil, fmt.Errorf("%s came to %v, another reading to %v: they do not read the same rows", s.readings[at].name, *got, *want)
			}
			if got != nil {
				want = got
			}
			r[at] = sample{after.at.Sub(before.at), after.server - before.server, after.client - before.client}
		}
		if n > 0 {
			out = append(out, r)
		}
	}
	return out, nil
}

// instant is the clocks at one time.
type instant struct {
	at             time.Time
	server, client time.Duration
}

func (s *subject) clock() instant {
	i := instant{at: time.Now(), client: processCPU("self")}
	for _, pid := range s.sessions {
		i.server += processCPU(strconv.Itoa(pid))
	}
	return i
}

// processCPU is what a process has used of the CPU, in nanoseconds where the system counts them so finely; 0 where there is no /proc.
func processCPU(pid string) time.Duration {
	// Of one thread, which is all a session of Postgres has; a Go program has more.
	if b, err := os.ReadFile("/proc/" + pid + "/schedstat"); err == nil && pid != "self" {
		if f := strings.Fields(string(b)); len(f) > 0 {
			ns, _ := strconv.ParseInt(f[0], 10, 64)
			return time.Duration(ns)
		}
	}
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:])) // the name before it may hold spaces
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond // of which Linux counts a hundred a second
}

// peakMemory is the most memory that this process had, "" where the system does not tell.
func peakMemory() string {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if size, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			return strings.TrimSpace(size)
		}
	}
	return ""
}

// report prints the table. Ratios are of the server's CPU time, or of wall time where that is not known.
func report(out io.Writer, readings []reading, rounds []round, rows int) {
	basis, cost := "server CPU", func(s sample) time.Duration { return s.server }
	if slices.ContainsFunc(rounds, func(r round) bool { return slices.ContainsFunc(r, func(s sample) bool { return s.server == 0 }) }) {
		basis, cost = "wall time", func(s sample) time.Duration { return s.wall }
	}
	million := float64(rows) / 1e6
	of := func(value func(round) float64) spread {
		values := make([]float64, len(rounds))
		for i, r := range rounds {
			values[i] = value(r)
		}
		return spreadOf(values)
	}
	fmt.Fprintf(out, "| reading | %s, s per million rows | × count(*) | × digest scan | wall, s | client CPU, s |\n|---|---|---|---|---|---|\n", basis)
	for i, what := range readings {
		perMillion := of(func(r round) float64 { return cost(r[i]).Seconds() / million })
		wall := of(func(r round) float64 { return r[i].wall.Seconds() })
		client := of(func(r round) float64 { return r[i].client.Seconds() })
		ratios := make([]string, floors)
		for f := range ratios {
			if ratios[f] = "1"; i != f {
				ratios[f] = of(func(r round) float64 { return float64(cost(r[i])) / float64(cost(r[f])) }).String()
			}
		}
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s | %.2f |\n", what.name, perMillion, ratios[0], ratios[1], wall, client.median)
	}
}

// spread is what several rounds came to.
type spread struct{ median, least, most float64 }

func spreadOf(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return spread{(v[(n-1)/2] + v[n/2]) / 2, v[0], v[n-1]}
}

func (s spread) String() string {
	return fmt.Sprintf("%.2f (%.2f – %.2f)", s.median, s.least, s.most)
}
