package main

import (
	"fmt"
	"io"
	"strings"
)

// reportComparison prints what each reading took, and its ratios to the floors of its own table.
func reportComparison(out io.Writer, readings []reading, measured rounds) {
	fmt.Fprintln(out, "| reading | wall, s | source CPU, s | replica CPU, s | client CPU, s | client peak, MiB |\n|---|---|---|---|---|---|")
	for _, r := range readings {
		peak := "–"
		if p := measured.of(r.name, peakMiB); p.most > 0 {
			peak = p.text(0)
		}
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s | %s |\n", r.name, measured.of(r.name, wall), measured.of(r.name, sourceCPU),
			measured.of(r.name, replicaCPU), measured.of(r.name, clientCPU).text(3), peak)
	}
	fmt.Fprintln(out, "\n| ratios, within a round | wall × count(*) | wall × digest scan | wall × COPY | source CPU × count(*) | source CPU × digest scan | source CPU × COPY |\n|---|---|---|---|---|---|---|")
	for _, r := range readings {
		floors := []string{floorCount, floorScan, floorCopy}
		if strings.Contains(r.name, "random key") {
			floors = []string{"", floorRandomScan, ""} // its other floors are not measured
		}
		fmt.Fprintf(out, "| %s |", r.name)
		for _, number := range []func(cost) float64{wall, sourceCPU} {
			for _, floor := range floors {
				fmt.Fprintf(out, " %s |", measured.ratio(term{r.name, number}, term{floor, number}))
			}
		}
		fmt.Fprintln(out)
	}
}

// mostMiB is what the client may need, however many rows there are and however many differ.
const mostMiB = 64

// target is something that the project wants to stay below.
type target struct {
	what  string
	got   spread
	limit float64
}

// reportTargets says what was met. Nothing fails by it: a busy machine is no fault.
func reportTargets(out io.Writer, measured rounds, rows int) {
	targets := []target{
		{"identical: wall, × digest scan", measured.ratio(term{diffEqual, wall}, term{floorScan, wall}), 1.3},
		{"identical: source CPU, × digest scan's", measured.ratio(term{diffEqual, sourceCPU}, term{floorScan, sourceCPU}), 1.2},
		{"identical: client CPU, × digest scan's on the source", measured.ratio(term{diffEqual, clientCPU}, term{floorScan, sourceCPU}), 0.02},
		{"identical: client CPU, × digest scan's on both sides", measured.ratio(term{diffEqual, clientCPU}, term{floorScan, serversCPU}), 0.02},
		{fmt.Sprintf("identical: client peak, MiB at %d rows", rows), measured.of(diffEqual, peakMiB), mostMiB},
		{"random key, identical: wall, × its digest scan", measured.ratio(term{diffRandom, wall}, term{floorRandomScan, wall}), 1.6},
		{"100 differences: wall, × identical", measured.ratio(term{diffHundred, wall}, term{diffEqual, wall}), 1.5},
		{"random key, 100 differences: wall, × identical", measured.ratio(term{diffRandom100, wall}, term{diffRandom, wall}), 1.5},
		{"1 % differs: wall, × identical", measured.ratio(term{diffPercent, wall}, term{diffEqual, wall}), 4},
		{"everything differs: client peak, MiB", measured.of(diffAll, peakMiB), mostMiB},
	}
	fmt.Fprintln(out, "\n| target | at most | measured | |\n|---|---|---|---|")
	for _, t := range targets {
		if t.got.rounds == 0 {
			fmt.Fprintf(out, "| %s | %v | – | not measured |\n", t.what, t.limit)
			continue
		}
		verdict, decimals := "missed", 2
		if t.got.median <= t.limit {
			verdict = "met"
		}
		if t.limit < 0.1 {
			decimals = 4
		}
		fmt.Fprintf(out, "| %s | %v | %s | %s |\n", t.what, t.limit, t.got.text(decimals), verdict)
	}
	fmt.Fprintln(out, "\nEvery count was right in every round: what differed was found, and nothing else.")
}

// reportRanges prints the cost of the readings of one server, over the floors that are its first two.
func reportRanges(out io.Writer, readings []reading, measured rounds, rows int) {
	million := float64(rows) / 1e6
	perMillion := func(c cost) float64 { return sourceCPU(c) / million }
	fmt.Fprintln(out, "| reading | server CPU, s per million rows | × count(*) | × digest scan | wall, s | client CPU, s |\n|---|---|---|---|---|---|")
	for _, r := range readings {
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s | %.2f |\n", r.name, measured.of(r.name, perMillion),
			measured.ratio(term{r.name, sourceCPU}, term{rangesCount, sourceCPU}), measured.ratio(term{r.name, sourceCPU}, term{rangesScan, sourceCPU}),
			measured.of(r.name, wall), measured.of(r.name, clientCPU).median)
	}
}
