package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"
)

// reading is one way to read or compare a table.
type reading struct {
	name string
	// read returns the process that did the work, nil when it was this one.
	read func(context.Context) (*os.ProcessState, error)
}

// pick leaves the readings that were asked for.
func (o options) pick(all []reading) []reading {
	return slices.DeleteFunc(all, func(r reading) bool { return !o.only.MatchString(r.name) })
}

// rounds has, for each round, what each reading cost.
type rounds []map[string]cost

// measureWarm measures after a round that warms the caches and is left out.
func (p *pair) measureWarm(ctx context.Context, readings []reading, count int) (rounds, error) {
	if _, err := p.measure(ctx, readings, 1); err != nil {
		return nil, err
	}
	return p.measure(ctx, readings, count)
}

// measure runs every reading once a round, in an order that turns with the rounds.
func (p *pair) measure(ctx context.Context, readings []reading, count int) (rounds, error) {
	var out rounds
	for n := range count {
		began := time.Now()
		costs := map[string]cost{}
		for i := range readings {
			r := readings[(i+n)%len(readings)]
			spent, err := p.cost(ctx, r)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
			costs[r.name] = spent
		}
		progress("round %d of %d: %s", n+1, count, time.Since(began).Round(time.Second))
		out = append(out, costs)
	}
	return out, nil
}

func (p *pair) cost(ctx context.Context, r reading) (cost, error) {
	runtime.GC() // the garbage of one reading is not the next one's work
	before := readClocks(p.source.PID(), p.replica.PID())
	child, err := r.read(ctx)
	return readClocks(p.source.PID(), p.replica.PID()).since(before, child), err
}

// spread is what several rounds came to; of no rounds it is empty.
type spread struct {
	median, least, most float64
	rounds              int
}

func spreadOf(values []float64) spread {
	n := len(values)
	if n == 0 {
		return spread{}
	}
	v := slices.Sorted(slices.Values(values))
	return spread{(v[(n-1)/2] + v[n/2]) / 2, v[0], v[n-1], n}
}

func (s spread) String() string { return s.text(2) }

func (s spread) text(decimals int) string {
	switch {
	case s.rounds == 0:
		return "–"
	case s.least == 1 && s.most == 1: // of a reading to itself
		return "1"
	}
	return fmt.Sprintf("%.*f (%.*f – %.*f)", decimals, s.median, decimals, s.least, decimals, s.most)
}

// of is the spread of one number of one reading.
func (r rounds) of(name string, number func(cost) float64) spread {
	var values []float64
	for _, costs := range r {
		if c, ok := costs[name]; ok {
			values = append(values, number(c))
		}
	}
	return spreadOf(values)
}

// ratio is the spread of one number over another, each pair of one round; empty where one of them was not measured.
func (r rounds) ratio(over, under term) spread {
	var values []float64
	for _, costs := range r {
		a, okA := costs[over.name]
		b, okB := costs[under.name]
		if okA && okB && under.number(b) > 0 {
			values = append(values, over.number(a)/under.number(b))
		}
	}
	return spreadOf(values)
}

// term is one number of one reading.
type term struct {
	name   string
	number func(cost) float64
}

func wall(c cost) float64       { return c.wall.Seconds() }
func sourceCPU(c cost) float64  { return c.source.Seconds() }
func replicaCPU(c cost) float64 { return c.replica.Seconds() }
func serversCPU(c cost) float64 { return (c.source + c.replica).Seconds() }
func clientCPU(c cost) float64  { return c.client.Seconds() }
func peakMiB(c cost) float64    { return float64(c.peak) / (1 << 20) }
