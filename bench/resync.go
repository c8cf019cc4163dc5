package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/internal/testbed/connect"
	"github.com/trickle-verify/trickle/internal/testbed/kafka"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/postgres"
)

// The ways to fill a replica's empty table. The floor is what nobody can leave out: to copy the table from one server into the other.
const (
	resyncFloor    = "resync, floor: COPY piped into COPY"
	resyncTrickle  = "resync: trickle, side channel"
	resyncDebezium = "resync: Debezium, as it comes"
	resyncTuned    = "resync: Debezium, tuned"
)

const (
	resyncData     = "resync"
	resyncPipeline = "bench"
	debeziumRounds = 1 // it takes long: minutes for each million rows
)

// The publisher's table is quiet and is scanned once a day; nothing is corrected but by the resyncs that are asked for here.
const resyncPolicy = `pipeline: ` + resyncPipeline + `
schedule: {cycle: 24h}
quiet: 1s
tables: [{table: ` + ordered + `}]
gate: {max_lag: 1m, assume_lag: 1s}
detect: {action: report}
`

// filler fills the replica's table: two servers of its own, a broker, the publisher and the detector as users run them, and a Connect worker.
type filler struct {
	*pair
	folder   string
	broker   *kafka.Broker
	worker   *connect.Worker
	programs []*program    // publisher, detector
	target   *pgxpool.Pool // the replica's database
	from, to *pgx.Conn
	want     string // what the table comes to
	asked    int
}

// fillTables measures the ways to fill an empty table.
func fillTables(ctx context.Context, o options, out io.Writer) (err error) {
	f := &filler{}
	readings := o.pick([]reading{
		{resyncFloor, func(ctx context.Context) (*os.ProcessState, error) { return nil, f.pipe(ctx) }},
		{resyncTrickle, func(ctx context.Context) (*os.ProcessState, error) { return nil, f.resync(ctx) }},
	})
	rivals := o.pick([]reading{
		{resyncDebezium, func(ctx context.Context) (*os.ProcessState, error) { return nil, f.snapshot(ctx) }},
		{resyncTuned, func(ctx context.Context) (*os.ProcessState, error) { return nil, f.snapshot(ctx) }},
	})
	if len(readings)+len(rivals) == 0 {
		return nil
	}
	defer func() {
		bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, f.stop(bound))
	}()
	if err := f.prepare(ctx, o); err != nil {
		return err
	}
	var size string
	if err := f.from.QueryRow(ctx, "SELECT pg_size_pretty(pg_table_size($1))", ordered).Scan(&size); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n## An empty table filled: %d rows of 8 columns (%s), Kafka on the same machine\n\n", o.rows, size)
	measured, err := f.fill(ctx, readings, o.rounds+1)
	if err != nil {
		return err
	}
	if len(measured) > 0 {
		measured = measured[1:] // the first warms the caches
	}
	slow := make(fillings, 0)
	for _, r := range rivals {
		if err := f.debezium(ctx, settingsOf(r.name)); err != nil {
			return err
		}
		rounds, err := f.fill(ctx, []reading{r}, debeziumRounds)
		if err != nil {
			return err
		}
		slow = append(slow, rounds...)
		if err := f.endDebezium(ctx); err != nil {
			return err
		}
	}
	reportFillings(out, append(readings, rivals...), measured, slow)
	return nil
}

// prepare starts everything but Debezium, and fills the source.
func (f *filler) prepare(ctx context.Context, o options) (err error) {
	if f.pair, err = startPair(ctx, map[string]string{"wal_level": "logical"}); err != nil {
		return err
	}
	if f.folder, err = os.MkdirTemp("", "trickle-bench-"); err != nil {
		return err
	}
	if f.broker, err = kafka.Start(ctx, kafka.Options{}); err != nil {
		return err
	}
	began := time.Now()
	if err := load(ctx, f.source, resyncData, o.rows); err != nil {
		return err
	}
	dsn, err := f.replica.CreateDatabase(ctx, resyncData)
	if err == nil {
		err = execute(ctx, f.replica, resyncData, createOrdered)
	}
	if err != nil {
		return err
	}
	progress("%d rows loaded, for the resyncs, in %s", o.rows, time.Since(began).Round(time.Second))
	if f.from, err = pgx.Connect(ctx, f.source.DSN(resyncData)); err != nil {
		return err
	}
	if f.to, err = pgx.Connect(ctx, dsn); err != nil {
		return err
	}
	if f.want, err = f.sum(ctx, f.from); err != nil {
		return err
	}
	if f.target, err = postgres.Open(ctx, dsn, postgres.Options{Role: "replica", Setting: "bench"}); err != nil {
		return err
	}
	return f.run(ctx)
}

// run starts the publisher and the detector, and waits until the latter takes requests and the former calls the rows settled.
func (f *filler) run(ctx context.Context) error {
	policy := filepath.Join(f.folder, "policy.yaml")
	if err := os.WriteFile(policy, []byte(resyncPolicy), 0o600); err != nil {
		return err
	}
	for _, command := range []string{"trickle", "trickle-consumer"} {
		program, err := build(ctx, f.folder, command)
		if err != nil {
			return err
		}
		side, server := "--source", f.source
		if command == "trickle-consumer" {
			side, server = "--replica", f.replica
		}
		p, err := launch(filepath.Join(f.folder, command+".log"), program, "run", "--policy", policy, side, server.DSN(resyncData), "--brokers", f.broker.Addr(), "--listen", "")
		if err != nil {
			return err
		}
		f.programs = append(f.programs, p)
	}
	return f.await(ctx, `SELECT gate_open FROM trickle.pipelines WHERE gate_at > clock_timestamp() - interval '5 seconds'`)
}

// await polls the replica until a query says true. That there is no row, or no table, yet is no error; that a program has ended is.
func (f *filler) await(ctx context.Context, sql string, args ...any) error {
	bound, cancel := context.WithTimeout(ctx, 3*time.Hour)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var done bool
		err := f.target.QueryRow(bound, sql, args...).Scan(&done)
		if err == nil && done {
			return nil
		}
		if err != nil && !errors.Is(err, pgx.ErrNoRows) && postgres.State(err) != "42P01" {
			return fmt.Errorf("%s: %w", sql, err)
		}
		for _, p := range f.programs {
			if err := p.early(); err != nil {
				return err
			}
		}
		select {
		case <-bound.Done():
			return bound.Err()
		case <-tick.C:
		}
	}
}

// sum is what a table comes to: its rows and the sum of their digests.
func (f *filler) sum(ctx context.Context, c *pgx.Conn) (string, error) {
	var sum string
	err := c.QueryRow(ctx, "SELECT (SELECT count(*) FROM "+ordered+") || ' rows, sum ' || coalesce(("+sumOf(ordered)+"), '0')").Scan(&sum)
	return sum, err
}

// pipe copies the table from server to server, in COPY's default format, as two psql and a pipe between them would.
func (f *filler) pipe(ctx context.Context) error {
	r, w := io.Pipe()
	var g errgroup.Group
	g.Go(func() error {
		buffered := &chunks{to: w}
		_, err := f.from.PgConn().CopyTo(ctx, buffered, "COPY "+ordered+" TO STDOUT")
		err = errors.Join(err, buffered.flush())
		return errors.Join(err, w.CloseWithError(err))
	})
	g.Go(func() error {
		_, err := f.to.PgConn().CopyFrom(ctx, r, "COPY "+ordered+" FROM STDIN")
		return errors.Join(err, r.CloseWithError(err))
	})
	return g.Wait()
}

// chunks passes on 64 KiB at a time, where the server writes row by row.
type chunks struct {
	to  io.Writer
	buf bytes.Buffer
}

func (c *chunks) Write(p []byte) (int, error) {
	c.buf.Write(p)
	if c.buf.Len() < 64<<10 {
		return len(p), nil
	}
	return len(p), c.flush()
}

func (c *chunks) flush() error {
	_, err := c.buf.WriteTo(c.to)
	return err
}

// resync has the running detector do a full resync, and waits for its end.
func (f *filler) resync(ctx context.Context) error {
	f.asked++
	id := fmt.Sprintf("bench%d", f.asked)
	made, err := ledger.New(f.target, resyncPipeline).Request(ctx, entry.Wish{ID: id, Scope: entry.Full, Table: ordered, Reason: "the benchmark"})
	if err != nil || !made {
		return fmt.Errorf("asking for a resync: %w", err)
	}
	if err := f.await(ctx, `SELECT state <> 'running' FROM trickle.resyncs WHERE id = $1`, id); err != nil {
		return err
	}
	var state string
	if err := f.target.QueryRow(ctx, `SELECT state || ': ' || coalesce(failure, '') FROM trickle.resyncs WHERE id = $1`, id).Scan(&state); err != nil {
		return err
	}
	if state != "done: " {
		return fmt.Errorf("the resync is %s", state)
	}
	return nil
}

// stop ends what was started.
func (f *filler) stop(ctx context.Context) error {
	var failures []error
	for _, p := range f.programs {
		failures = append(failures, p.Signal(syscall.SIGINT))
		select {
		case <-p.Done():
			failures = append(failures, p.Err())
		case <-ctx.Done():
			failures = append(failures, p.Kill())
		}
	}
	for _, c := range []*pgx.Conn{f.from, f.to} {
		if c != nil {
			failures = append(failures, c.Close(ctx))
		}
	}
	if f.target != nil {
		f.target.Close()
	}
	if f.worker != nil {
		failures = append(failures, f.worker.Stop(ctx))
	}
	if f.broker != nil {
		failures = append(failures, f.broker.Stop(ctx))
	}
	if f.pair != nil {
		failures = append(failures, f.pair.stop(ctx))
	}
	return errors.Join(append(failures, os.RemoveAll(f.folder))...)
}
