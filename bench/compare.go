package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/internal/testbed"
)

// The readings by name; what has no floor of its own belongs to the ordered table.
const (
	floorCount      = "floor: count(*)"
	floorScan       = "floor: one scan that sums digests"
	floorCopy       = "floor: COPY, binary"
	floorRandomScan = "floor, random key: one scan that sums digests"
	diffEqual       = "diff: identical"
	diffHundred     = "diff: 100 differences"
	diffPercent     = "diff: 1 % differs"
	diffAll         = "diff: everything differs"
	diffNoReplica   = "diff: replica empty"
	diffNoSource    = "diff: source empty"
	diffRandom      = "diff, random key: identical"
	diffRandom100   = "diff, random key: 100 differences"
)

// found is what a comparison found in a table.
type found struct{ Missing, Mismatched, Extra int }

// diff is one run of trickle diff.
type diff struct {
	source, replica string // databases
	table           string
	want            found
}

// comparer makes the readings of two tables.
type comparer struct {
	*pair
	program string
	jobs    int
	rows    int
	floors  [2]*pgx.Conn // to the equal database of each side
}

// compareTables builds the data, measures, and reports.
func compareTables(ctx context.Context, p *pair, o options, out io.Writer) error {
	diffs := map[string]diff{
		diffEqual:     {equalData, equalData, ordered, found{}},
		diffHundred:   {equalData, hundredData, ordered, changed(100)},
		diffPercent:   {equalData, percentData, ordered, changed(o.rows / 100)},
		diffAll:       {equalData, allData, ordered, found{Mismatched: o.rows}},
		diffNoReplica: {equalData, emptyData, ordered, found{Missing: o.rows}},
		diffNoSource:  {emptyData, equalData, ordered, found{Extra: o.rows}},
		diffRandom:    {equalData, equalData, random, found{}},
		diffRandom100: {equalData, hundredData, random, changed(100)},
	}
	c := &comparer{pair: p, program: o.program, jobs: o.jobs, rows: o.rows}
	// What is set against a floor most comes right after it.
	all := []reading{
		{floorCount, func(ctx context.Context) (*os.ProcessState, error) {
			return nil, c.floor(ctx, "SELECT count(*) FROM "+ordered)
		}},
		{floorCopy, func(ctx context.Context) (*os.ProcessState, error) { return nil, c.copyOut(ctx) }},
		{floorScan, func(ctx context.Context) (*os.ProcessState, error) { return nil, c.floor(ctx, sumOf(ordered)) }},
	}
	for _, name := range []string{diffEqual, diffHundred, diffPercent, diffAll, diffNoReplica, diffNoSource} {
		all = append(all, c.reading(name, diffs[name]))
	}
	all = append(all, reading{floorRandomScan, func(ctx context.Context) (*os.ProcessState, error) { return nil, c.floor(ctx, sumOf(random)) }},
		c.reading(diffRandom, diffs[diffRandom]), c.reading(diffRandom100, diffs[diffRandom100]))
	readings := o.pick(all)
	rival, err := c.findReladiff(ctx)
	if err != nil {
		return err
	}
	rival.readings = o.pick(rival.readings)
	if len(readings)+len(rival.readings) == 0 && !o.memory {
		return nil
	}
	if c.program == "" {
		folder, err := os.MkdirTemp("", "trickle-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(folder)
		if c.program, err = build(ctx, folder, "trickle"); err != nil {
			return err
		}
	}
	if len(readings)+len(rival.readings) > 0 {
		wanted := map[string]bool{hundredData: len(rival.readings) > 0}
		for _, r := range readings {
			wanted[diffs[r.name].replica] = true
		}
		if err := c.prepare(ctx, o.rows, wanted); err != nil {
			return err
		}
		defer c.close(context.WithoutCancel(ctx))
		measured, err := c.compare(ctx, readings, o, out)
		if err != nil {
			return err
		}
		if err := c.compareReladiff(ctx, rival, measured, out); err != nil {
			return err
		}
	}
	if o.memory {
		return c.memory(ctx, o.memoryRows, out)
	}
	return nil
}

// prepare loads the data and connects the floors.
func (c *comparer) prepare(ctx context.Context, rows int, wanted map[string]bool) error {
	began := time.Now()
	if err := c.build(ctx, rows, wanted); err != nil {
		return err
	}
	progress("%d rows loaded, on two servers, in %s", rows, time.Since(began).Round(time.Second))
	for side, server := range []*testbed.Postgres{c.source, c.replica} {
		var err error
		if c.floors[side], err = pgx.Connect(ctx, server.DSN(equalData)); err != nil {
			return err
		}
	}
	return nil
}

func (c *comparer) close(ctx context.Context) {
	for _, conn := range c.floors {
		_ = conn.Close(ctx)
	}
}

func (c *comparer) compare(ctx context.Context, readings []reading, o options, out io.Writer) (rounds, error) {
	var size string
	if err := c.floors[0].QueryRow(ctx, "SELECT pg_size_pretty(pg_table_size($1))", ordered).Scan(&size); err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "\n## Two tables compared: %d rows of 8 columns on each side (%s)\n\n", o.rows, size)
	if len(readings) == 0 {
		return nil, nil
	}
	measured, err := c.measureWarm(ctx, readings, o.rounds)
	if err != nil {
		return nil, err
	}
	reportComparison(out, readings, measured)
	reportTargets(out, measured, o.rows)
	return measured, nil
}

// sumOf is written out here, so that what trickle adds to a digest shows against it.
func sumOf(table string) string {
	return "SELECT sum(hash_record_extended(ROW(id, " + others + "), 0))::text FROM " + table
}

// floor runs a query on both sides at once, through a connection that is open already.
func (c *comparer) floor(ctx context.Context, sql string) error {
	return c.onBoth(func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql)
		return err
	})
}

func (c *comparer) copyOut(ctx context.Context) error {
	return c.onBoth(func(conn *pgx.Conn) error {
		_, err := conn.PgConn().CopyTo(ctx, io.Discard, "COPY "+ordered+" TO STDOUT (FORMAT binary)")
		return err
	})
}

func (c *comparer) onBoth(f func(*pgx.Conn) error) error {
	var g errgroup.Group
	for _, conn := range c.floors {
		g.Go(func() error { return f(conn) })
	}
	return g.Wait()
}

func (c *comparer) reading(name string, d diff) reading {
	return reading{name, func(ctx context.Context) (*os.ProcessState, error) { return c.run(ctx, d) }}
}

// result is what trickle diff --format json prints.
type result struct {
	Identical bool `json:"identical"`
	Tables    []struct {
		Table string `json:"table"`
		Rows  int    `json:"rows"`
		found
	} `json:"tables"`
}

// run compares as a child process, and refuses an outcome that is not the known one.
func (c *comparer) run(ctx context.Context, d diff) (*os.ProcessState, error) {
	args := []string{"diff", "--source", c.source.DSN(d.source), "--replica", c.replica.DSN(d.replica), "--table", d.table, "--format", "json"}
	if c.jobs > 0 {
		args = append(args, "--jobs", strconv.Itoa(c.jobs))
	}
	output, child, err := execChild(ctx, c.program, args...)
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		return nil, err
	}
	var r result
	if err := json.Unmarshal(output, &r); err != nil {
		return nil, fmt.Errorf("trickle diff printed %q: %w", output, err)
	}
	same := d.want == found{}
	switch {
	case len(r.Tables) != 1 || r.Tables[0].Table != d.table:
		return nil, fmt.Errorf("trickle diff reports on other tables than %s: %s", d.table, output)
	case r.Tables[0].found != d.want || r.Identical != same || (err == nil) != same:
		return nil, fmt.Errorf("trickle diff ended with %q and found %s; there is %+v", child, output, d.want)
	case same && r.Tables[0].Rows != c.rows:
		return nil, fmt.Errorf("trickle diff compared %d rows of %d", r.Tables[0].Rows, c.rows)
	}
	return child, nil
}

// execChild runs a program to its end and returns what it printed. It is interrupted, as by Ctrl-C, when the context ends.
func execChild(ctx context.Context, program string, args ...string) ([]byte, *os.ProcessState, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var output, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &complaint
	if err := cmd.Run(); err != nil {
		return output.Bytes(), cmd.ProcessState, fmt.Errorf("%s: %w: %s", filepath.Base(program), err, strings.TrimSpace(complaint.String()))
	}
	return output.Bytes(), cmd.ProcessState, nil
}

// memory compares large equal tables once: what the client needs must not grow with them.
func (c *comparer) memory(ctx context.Context, rows int, out io.Writer) error {
	const database = "large"
	began := time.Now()
	if err := c.both(func(s *testbed.Postgres) error { return load(ctx, s, database, rows) }); err != nil {
		return err
	}
	progress("%d rows loaded, on two servers, in %s", rows, time.Since(began).Round(time.Second))
	c.rows = rows
	spent, err := c.cost(ctx, c.reading(diffEqual, diff{database, database, ordered, found{}}))
	if err != nil {
		return err
	}
	verdict := "missed"
	if peakMiB(spent) <= mostMiB {
		verdict = "met"
	}
	fmt.Fprintf(out, "\n%s, %d rows, once: peak memory of the client %.1f MiB (at most %d: %s), wall %.1f s, client CPU %.3f s\n", diffEqual, rows,
		peakMiB(spent), mostMiB, verdict, wall(spent), clientCPU(spent))
	return nil
}
