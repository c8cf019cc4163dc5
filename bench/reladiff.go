package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

const (
	reladiffRounds  = 2 // it takes long
	reladiffEqual   = "reladiff: identical"
	reladiffHundred = "reladiff: 100 differences"
)

// reladiff is the rival: how it is called, and what it is measured at. No readings where it is not installed.
type reladiff struct {
	version  string
	readings []reading
}

// findReladiff looks for the command, and for the module of python3.
func (c *comparer) findReladiff(ctx context.Context) (reladiff, error) {
	for _, command := range [][]string{{"reladiff"}, {"python3", "-m", "reladiff"}} {
		version, _, err := execChild(ctx, command[0], slices.Concat(command[1:], []string{"--version"})...)
		if err != nil {
			continue
		}
		rival := func(name string, d diff) reading {
			return reading{name, func(ctx context.Context) (*os.ProcessState, error) { return c.reladiff(ctx, command, d) }}
		}
		return reladiff{strings.TrimSpace(string(version)), []reading{
			rival(reladiffEqual, diff{replica: equalData}),
			rival(reladiffHundred, diff{replica: hundredData, want: changed(100)}),
		}}, nil
	}
	return reladiff{}, ctx.Err()
}

// compareReladiff lets reladiff compare the same tables, after everything else: it is no floor, and its rounds would only make the others long.
func (c *comparer) compareReladiff(ctx context.Context, rival reladiff, trickle rounds, out io.Writer) error {
	if rival.version == "" {
		fmt.Fprintln(out, "\nreladiff is not installed, so it was not measured.")
	}
	if len(rival.readings) == 0 {
		return nil
	}
	measured, err := c.measure(ctx, rival.readings, reladiffRounds)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\nreladiff %s, on the same data, %d rounds:\n\n", rival.version, reladiffRounds)
	fmt.Fprintln(out, "| reading | wall, s | source CPU, s | replica CPU, s | client CPU, s | client peak, MiB | wall × trickle diff |\n|---|---|---|---|---|---|---|")
	counterpart := map[string]string{reladiffEqual: diffEqual, reladiffHundred: diffHundred}
	for _, r := range rival.readings {
		times := "–"
		if ours := trickle.of(counterpart[r.name], wall); ours.rounds > 0 {
			times = fmt.Sprintf("%.1f, of medians", measured.of(r.name, wall).median/ours.median)
		}
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s | %s | %s |\n", r.name, measured.of(r.name, wall), measured.of(r.name, sourceCPU), measured.of(r.name, replicaCPU),
			measured.of(r.name, clientCPU), measured.of(r.name, peakMiB).text(0), times)
	}
	return nil
}

// reladiff compares all columns of the ordered table. It is asked for counts: what it prints for rows is broken into lines.
func (c *comparer) reladiff(ctx context.Context, command []string, d diff) (*os.ProcessState, error) {
	args := slices.Concat(command[1:], []string{
		strings.Replace(c.source.DSN(equalData), "postgres://", "postgresql://", 1), ordered,
		strings.Replace(c.replica.DSN(d.replica), "postgres://", "postgresql://", 1), ordered, "-k", "id", "--stats", "--json",
	})
	for column := range strings.SplitSeq(others, ", ") {
		args = append(args, "-c", column)
	}
	output, child, err := execChild(ctx, command[0], args...)
	if err != nil {
		return nil, err
	}
	var r struct {
		Missing    int `json:"exclusive_A"`
		Mismatched int `json:"updated"`
		Extra      int `json:"exclusive_B"`
	}
	if err := json.Unmarshal(output, &r); err != nil {
		return nil, fmt.Errorf("reladiff printed %q: %w", output, err)
	}
	if found(r) != d.want {
		return nil, fmt.Errorf("reladiff found %+v; there is %+v", r, d.want)
	}
	return child, nil
}
