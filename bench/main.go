// Command bench measures what verifying costs, against floors that nothing can go below.
//
// It decides what is compared with what: each reading that trickle makes, with a bare count(*) and with one scan that digests every row, on
// a Postgres server that it starts and stops itself. What always holds: a ratio is taken between two readings of one round, seconds apart, so
// that a machine that is busy for a while is busy for both; every number is a median of all rounds with the least and the greatest; nothing
// here passes or fails by how long it took. When publisher and replica come to different sums of the same rows, that is a fault, and it ends with it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed"
)

// options are what a run measures.
type options struct {
	rows   int
	ranges int // rows in a range
	rounds int
}

func main() {
	var o options
	flag.IntVar(&o.rows, "rows", 500_000, "rows of the table")
	flag.IntVar(&o.ranges, "range-rows", 5000, "rows in a range (range_rows)")
	flag.IntVar(&o.rounds, "rounds", 7, "rounds to measure, at least 5; each runs everything once")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, o, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	if o.rounds < 5 || o.rows < 1 || o.ranges < 1 || flag.NArg() > 0 {
		return errors.New("give --rounds 5 or more, --rows and --range-rows 1 or more, and nothing else")
	}
	// One core for one reading: how many workers the planner would take for a floor says nothing about what the floor costs.
	server, err := testbed.StartPostgres(ctx, testbed.Options{Settings: map[string]string{
		"max_parallel_workers_per_gather": "0", "shared_buffers": "1GB", "autovacuum": "off",
	}})
	if err != nil {
		return err
	}
	defer func() {
		bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, server.Stop(bound))
	}()
	dsn, err := server.CreateDatabase(ctx, "bench")
	if err != nil {
		return err
	}
	began := time.Now()
	s, err := prepare(ctx, dsn, o)
	if err != nil {
		return err
	}
	defer s.close()
	fmt.Fprintf(os.Stderr, "%d rows loaded in %s; %d rounds follow, after one that is not counted\n", o.rows, time.Since(began).Round(time.Second), o.rounds)
	rounds, err := s.measure(ctx, o.rounds)
	if err != nil {
		return err
	}
	about, err := s.about(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s, %s, %d CPUs; %s in ranges of %d; %d rounds in %s, each reading on one core\n\n", about.server, runtime.Version(), runtime.NumCPU(),
		about.table, o.ranges, o.rounds, time.Since(began).Round(time.Second))
	report(out, s.readings, rounds, o.rows)
	if peak := peakMemory(); peak != "" {
		fmt.Fprintf(out, "\nPeak memory of the client process, over everything: %s\n", peak)
	}
	return nil
}
