package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"
)

// filling is what one way to fill a table took, of everybody who took part.
type filling struct {
	cost
	publisher, detector, broker, connect time.Duration // CPU
}

// fillings has, for each round, what each way took.
type fillings []map[string]filling

// fill empties the table and fills it in each way, once a round, in an order that turns with the rounds. What is there afterwards has to be the source's.
func (f *filler) fill(ctx context.Context, readings []reading, count int) (fillings, error) {
	var out fillings
	for n := range count {
		if len(readings) == 0 {
			break
		}
		began := time.Now()
		took := map[string]filling{}
		for i := range readings {
			r := readings[(i+n)%len(readings)]
			if _, err := f.to.Exec(ctx, "TRUNCATE "+ordered); err != nil {
				return nil, err
			}
			runtime.GC()
			before := f.clocks()
			if _, err := r.read(ctx); err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
			took[r.name] = f.clocks().since(before)
			progress("%s: %.2f s", r.name, took[r.name].wall.Seconds())
			got, err := f.sum(ctx, f.to)
			if err != nil {
				return nil, err
			}
			if got != f.want {
				return nil, fmt.Errorf("%s: the replica holds %s, the source %s", r.name, got, f.want)
			}
		}
		progress("round %d of %d: %s", n+1, count, time.Since(began).Round(time.Second))
		out = append(out, took)
	}
	return out, nil
}

// parties are everybody's clocks.
type parties struct {
	clocks
	publisher, detector, broker, connect time.Duration
}

func (f *filler) clocks() parties {
	p := parties{clocks: readClocks(f.source.PID(), f.replica.PID()), broker: threadsCPU(f.broker.PID())}
	p.publisher, p.detector = threadsCPU(f.programs[0].PID()), threadsCPU(f.programs[1].PID())
	if f.worker != nil {
		p.connect = threadsCPU(f.worker.PID())
	}
	return p
}

func (p parties) since(before parties) filling {
	return filling{
		cost: p.clocks.since(before.clocks, nil), publisher: p.publisher - before.publisher, detector: p.detector - before.detector,
		broker: p.broker - before.broker, connect: p.connect - before.connect,
	}
}

func (r fillings) of(name string, number func(filling) float64) spread {
	var values []float64
	for _, round := range r {
		if c, ok := round[name]; ok {
			values = append(values, number(c))
		}
	}
	return spreadOf(values)
}

// ratio is of two ways in one round.
func (r fillings) ratio(over, under string, number func(filling) float64) spread {
	var values []float64
	for _, round := range r {
		a, okA := round[over]
		b, okB := round[under]
		if okA && okB && number(b) > 0 {
			values = append(values, number(a)/number(b))
		}
	}
	return spreadOf(values)
}

// reportFillings prints what each way took. Those that take long have rounds of their own, and are set against medians.
func reportFillings(out io.Writer, readings []reading, measured, slow fillings) {
	seconds := func(d func(filling) time.Duration) func(filling) float64 {
		return func(c filling) float64 { return d(c).Seconds() }
	}
	took := seconds(func(c filling) time.Duration { return c.wall })
	all := append(append(fillings{}, measured...), slow...)
	fmt.Fprintln(out, "| way | wall, s | source CPU, s | replica CPU, s | publisher CPU, s | detector CPU, s | broker CPU, s | Connect CPU, s | wall × COPY |\n|---|---|---|---|---|---|---|---|---|")
	for _, r := range readings {
		fmt.Fprintf(out, "| %s |", r.name)
		for _, number := range []func(filling) float64{
			took, seconds(func(c filling) time.Duration { return c.source }), seconds(func(c filling) time.Duration { return c.replica }),
			seconds(func(c filling) time.Duration { return c.publisher }), seconds(func(c filling) time.Duration { return c.detector }),
			seconds(func(c filling) time.Duration { return c.broker }), seconds(func(c filling) time.Duration { return c.connect }),
		} {
			fmt.Fprintf(out, " %s |", all.of(r.name, number))
		}
		times := measured.ratio(r.name, resyncFloor, took)
		if floor := measured.of(resyncFloor, took); times.rounds == 0 && floor.rounds > 0 {
			fmt.Fprintf(out, " %.1f, of medians |\n", all.of(r.name, took).median/floor.median)
			continue
		}
		fmt.Fprintf(out, " %s |\n", times)
	}
	fmt.Fprintln(out, "\n| target | | measured | |\n|---|---|---|---|")
	verdict := func(met bool) string {
		if met {
			return "met"
		}
		return "missed"
	}
	ours := measured.of(resyncTrickle, took)
	if times := measured.ratio(resyncTrickle, resyncFloor, took); times.rounds > 0 {
		fmt.Fprintf(out, "| trickle: wall, × the COPY pipe | at most 1.5 | %s | %s |\n", times, verdict(times.median <= 1.5))
	}
	for _, name := range []string{resyncDebezium, resyncTuned} {
		if theirs := slow.of(name, took); theirs.rounds > 0 && ours.rounds > 0 {
			times := theirs.median / ours.median
			fmt.Fprintf(out, "| %s: wall, × trickle's, of medians | at least 5 | %.1f | %s |\n", strings.TrimPrefix(name, "resync: "), times, verdict(times >= 5))
		}
	}
	fmt.Fprintln(out, "\nWhat was there afterwards was the source's table, by its count and its digests, every time.")
}
