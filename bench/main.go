// Command bench measures what verifying costs, against floors that nothing can go below.
//
// It decides what is compared with what, on servers that it starts and stops itself: trickle diff, and each reading that publisher and replica make, with a bare
// count(*), with one scan that digests every row and with a copy of everything; a resync of an empty table with COPY from server to server, and with Debezium's snapshot;
// as bench publishers, several publishers of one table with a single one; and, as bench baseline, a set of the base-line view with pg_dump's and pg_restore's work. What always holds: a ratio is
// taken between two readings of one round, so that a machine that is busy for a while is busy for both, and every number is a median of all rounds
// with the least and the greatest, but for what takes too long to be measured as often (reladiff, Debezium, crews of publishers); nothing here passes or fails by how long it took. What is found is known beforehand, and that is checked:
// when trickle diff counts otherwise, publisher and replica come to different sums of the same rows, or a table that was filled is not the source's, that is a fault, and it ends with it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"syscall"
	"time"
)

// options are what a run measures.
type options struct {
	rows       int // of each compared table
	rangeTable int // of the table that is read in ranges
	ranges     int // rows in a range
	rounds     int
	only       *regexp.Regexp // names of readings
	program    string         // trickle; empty to build it
	jobs       int            // for trickle diff; 0 for its own choice
	memory     bool
	memoryRows int
}

func main() {
	var o options
	var only string
	flag.IntVar(&o.rows, "rows", 2_000_000, "rows of each table that is compared, at least 10000")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds to measure, at least 5; each runs everything once")
	flag.StringVar(&only, "only", "", "run only the readings whose name matches this regular expression")
	flag.IntVar(&o.jobs, "jobs", 0, "--jobs for trickle diff; 0 leaves it to trickle")
	flag.StringVar(&o.program, "trickle", "", "the trickle to measure; without it, it is built from this checkout")
	flag.BoolVar(&o.memory, "memory", false, "measure the memory of trickle diff with --memory-rows too, which takes minutes and gigabytes")
	flag.IntVar(&o.memoryRows, "memory-rows", 20_000_000, "rows for --memory")
	flag.IntVar(&o.rangeTable, "range-table-rows", 500_000, "rows of the table that is read in ranges, as publisher and replica do")
	flag.IntVar(&o.ranges, "range-rows", 5000, "rows in a range (range_rows)")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "bench [flags]: compared tables, a table read in ranges, an empty table filled\nbench publishers [flags]: several publishers of one table; see bench publishers --help\nbench baseline [flags]: the base-line view built and restored from; see bench baseline --help\n\nFlags of bench:")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var err error
	commands := map[string]func(context.Context, []string) error{"publishers": publishersCommand, "baseline": baselineCommand}
	switch command, ok := commands[flag.Arg(0)]; {
	case !ok:
		err = start(ctx, o, only)
	case flag.NFlag() > 0:
		err = fmt.Errorf("%s has flags of its own: give them after it; see bench %s --help", flag.Arg(0), flag.Arg(0))
	default:
		err = command(ctx, flag.Args()[1:])
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
}

func start(ctx context.Context, o options, only string) (err error) {
	if o.rounds < 5 || o.rows < 10_000 || o.rangeTable < 1 || o.ranges < 1 || o.memoryRows < 1 || flag.NArg() > 0 {
		return errors.New("give --rounds 5 or more, --rows 10000 or more, the other numbers 1 or more, and nothing else")
	}
	if o.only, err = regexp.Compile(only); err != nil {
		return fmt.Errorf("--only: %w", err)
	}
	return run(ctx, o, os.Stdout)
}

// run measures in three parts, one after the other: two servers compared, one server read in ranges, and an empty table filled.
func run(ctx context.Context, o options, out io.Writer) error {
	began := time.Now()
	if err := verify(ctx, o, out); err != nil {
		return err
	}
	if err := fillTables(ctx, o, out); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nAll of this took %s. Peak memory of the process that measured: %s\n", time.Since(began).Round(time.Second), ownPeak())
	return nil
}

// verify measures what comparing and verifying cost, on two servers.
func verify(ctx context.Context, o options, out io.Writer) (err error) {
	p, err := startPair(ctx, nil)
	if err != nil {
		return err
	}
	defer func() {
		bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, p.stop(bound))
	}()
	version, err := p.version(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s, %s, %d CPUs, loopback; %d rounds after one that is not counted; no query uses parallel workers\n", version, runtime.Version(), runtime.NumCPU(), o.rounds)
	if err := compareTables(ctx, p, o, out); err != nil {
		return err
	}
	return readRanges(ctx, p, o, out)
}

// progress tells whoever waits what goes on.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
