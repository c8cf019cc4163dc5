package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/kafka"
	"github.com/trickle-verify/trickle/internal/testbed/proxy"
	"github.com/trickle-verify/trickle/transport"
)

// sharing is what several publishers of one table are measured by.
type sharing struct {
	rows       int
	ranges     int           // rows in a range
	publishers int           // beside a single one
	delay      time.Duration // of each piece of data between publishers and source, in the second part
	kill       bool
	program    string // trickle; empty to build it
}

// stand is the servers that all crews work on, one after the other.
type stand struct {
	sharing
	source *testbed.Postgres
	broker *kafka.Broker
	bus    *transport.Kafka
	folder string
}

// publishersCommand measures how much faster several publishers scan one table than one does, with no ceiling: over a link without delay, where
// the CPUs are the limit, and over one with, where waiting is.
func publishersCommand(ctx context.Context, args []string) error {
	var o sharing
	flags := flag.NewFlagSet("bench publishers", flag.ExitOnError)
	flags.IntVar(&o.rows, "rows", 5_000_000, "rows of the table")
	flags.IntVar(&o.ranges, "range-rows", 5000, "rows in a range (range_rows)")
	flags.IntVar(&o.publishers, "publishers", 3, "how many publishers to set against one")
	flags.DurationVar(&o.delay, "delay", 10*time.Millisecond, "what a link with a delay holds up each way; 0 to leave that part out")
	flags.BoolVar(&o.kill, "kill", true, "kill a publisher in the middle of a cycle of the last crew")
	flags.StringVar(&o.program, "trickle", "", "the trickle to measure; without it, it is built from this checkout")
	_ = flags.Parse(args) // which ends the process where they are wrong
	if o.rows < 1000 || o.ranges < 1 || o.publishers < 2 || o.delay < 0 || flags.NArg() > 0 {
		return errors.New("give --rows 1000 or more, --range-rows 1 or more, --publishers 2 or more, and nothing else")
	}
	return o.run(ctx, os.Stdout)
}

func (o sharing) run(ctx context.Context, out io.Writer) (err error) {
	s := &stand{sharing: o}
	defer func() {
		bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, s.close(bound))
	}()
	if err := s.open(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d rows of 8 columns in ranges of %d; %s, %d CPUs for everything: source, broker and publishers\n", o.rows, o.ranges, runtime.Version(), runtime.NumCPU())
	fmt.Fprintln(out, "\n| link | publishers | cycle 1 (digests), s | × one | cycle 2 (nothing changed), s | × one | source CPU, s | publishers' CPU, s | broker CPU, s | CPUs busy |\n|---|---|---|---|---|---|---|---|---|---|")
	delays := []time.Duration{0}
	if o.delay > 0 {
		delays = append(delays, o.delay)
	}
	for _, delay := range delays {
		link := "none"
		if delay > 0 {
			link = delay.String() + " each way"
		}
		var alone measured
		for _, publishers := range []int{1, o.publishers} {
			c := crew{stand: s, pipeline: fmt.Sprintf("bench-%d-%d", delay.Milliseconds(), publishers), publishers: publishers, delay: delay}
			c.kill = o.kill && delay == delays[len(delays)-1] && publishers > 1
			m, err := c.measure(ctx)
			if err != nil {
				return fmt.Errorf("%d publishers: %w", publishers, err)
			}
			if publishers == 1 {
				alone = m
			}
			spent := m.source + m.broker + m.publishers
			fmt.Fprintf(out, "| %s | %d | %.1f | %.2f | %.1f | %.2f | %.1f | %.1f | %.1f | %.2f |\n", link, publishers, m.first.Seconds(), m.first.Seconds()/alone.first.Seconds(),
				m.second.Seconds(), m.second.Seconds()/alone.second.Seconds(), m.source.Seconds(), m.publishers.Seconds(), m.broker.Seconds(), spent.Seconds()/(m.first+m.second).Seconds())
			if c.kill {
				fmt.Fprintf(out, "\nOne of %d killed in the middle of cycle 3: its part was taken over after %.1f s; of %d ranges %d were sent again and %d never; the cycle took %.1f s\n",
					publishers, m.takenOver.Seconds(), m.ranges, m.twice, m.never, m.third.Seconds())
			}
		}
	}
	return nil
}

func (s *stand) open(ctx context.Context) (err error) {
	if s.folder, err = os.MkdirTemp("", "trickle-bench-"); err != nil {
		return err
	}
	if s.program == "" {
		if s.program, err = build(ctx, s.folder, "trickle"); err != nil {
			return err
		}
	}
	if s.broker, err = kafka.Start(ctx, kafka.Options{}); err != nil {
		return err
	}
	settings := map[string]string{
		"max_parallel_workers_per_gather": "0", "shared_buffers": "4GB", "autovacuum": "off", "max_wal_size": "16GB", "checkpoint_timeout": "1d",
	}
	if s.source, err = testbed.StartPostgres(ctx, testbed.Options{Settings: settings}); err != nil {
		return err
	}
	began := time.Now()
	if err := load(ctx, s.source, equalData, s.rows); err != nil {
		return err
	}
	progress("%d rows loaded in %s", s.rows, time.Since(began).Round(time.Second))
	s.bus, err = transport.NewKafka(ctx, transport.KafkaOptions{Brokers: []string{s.broker.Addr()}})
	return err
}

func (s *stand) close(ctx context.Context) error {
	var failures []error
	if s.bus != nil {
		failures = append(failures, s.bus.Close())
	}
	if s.source != nil {
		failures = append(failures, s.source.Stop(ctx))
	}
	if s.broker != nil {
		failures = append(failures, s.broker.Stop(ctx))
	}
	return errors.Join(append(failures, os.RemoveAll(s.folder))...)
}

// hire starts the publishers, by way of a link where there is a delay.
func (c *crew) hire(opens time.Time) error {
	policy := fmt.Sprintf(`
pipeline: %s
schedule: {cycle: 1s, windows: [{start: "%d %d * * *", for: 20h}]}
quiet: 1s
range_rows: %d
tables: [{table: %s}]
gate: {assume_lag: 1s}
`, c.pipeline, opens.UTC().Minute(), opens.UTC().Hour(), c.ranges, ordered)
	file := filepath.Join(c.folder, c.pipeline+".yaml")
	if err := os.WriteFile(file, []byte(policy), 0o600); err != nil {
		return err
	}
	dsn := c.source.DSN(equalData)
	if c.delay > 0 {
		var err error
		if c.link, err = proxy.Listen(c.source.Address()); err != nil {
			return err
		}
		c.link.SetDelay(c.delay)
		dsn = strings.Replace(dsn, c.source.Address(), c.link.Address(), 1)
	}
	for n := range c.publishers {
		p, err := launch(filepath.Join(c.folder, fmt.Sprintf("%s-%d.log", c.pipeline, n)), c.program, "run", "--policy", file, "--source", dsn, "--brokers", c.broker.Addr(), "--listen", "")
		if err != nil {
			return err
		}
		c.running = append(c.running, p)
	}
	return nil
}

// dismiss ends the publishers.
func (c *crew) dismiss() error {
	var failures []error
	for _, p := range c.running {
		failures = append(failures, p.Kill())
	}
	if c.link != nil {
		failures = append(failures, c.link.Close())
	}
	return errors.Join(failures...)
}
