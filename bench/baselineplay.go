package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/playforward"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/transport"
)

const playedData = "played"

// measurePlaying has every row updated, so that the topic holds an event of each, and has these applied by trickle to one copy of the replica and by the sink to the other, once.
// Debezium runs, and has copied the table.
func (v *view) measurePlaying(ctx context.Context, sink func(context.Context) error, out io.Writer) (err error) {
	if err := v.worker.Connector("sink").Delete(ctx); err != nil {
		return err
	}
	bus, err := v.bus(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bus.Close()) }()
	before, err := v.ends(ctx, bus)
	if err != nil {
		return err
	}
	v.target.Close()
	if err := execute(ctx, v.replica, "postgres", "CREATE DATABASE "+playedData+" TEMPLATE "+resyncData); err != nil {
		return err
	}
	if v.target, err = postgres.Open(ctx, v.replica.DSN(resyncData), postgres.Options{Role: "replica", Setting: "bench"}); err != nil {
		return err
	}
	const pieces = 20 // transactions
	for n := range pieces {
		part := 2 * v.copied / pieces
		where := fmt.Sprintf(" WHERE id > %d AND id <= %d", n*part, (n+1)*part)
		if n == pieces-1 {
			where = fmt.Sprintf(" WHERE id > %d", n*part)
		}
		if err := execute(ctx, v.source, resyncData, "UPDATE "+ordered+" SET amount = amount + 1, updated_at = '2030-01-01 00:00:00+00'"+where); err != nil {
			return err
		}
	}
	if err := v.logged(ctx, bus, before[0].Offsets[0]+int64(v.copied)); err != nil {
		return err
	}
	runtime.GC()
	c0, began := readClocks(v.source.PID(), v.replica.PID()), time.Now()
	events, err := v.play(ctx, bus, before)
	if err != nil {
		return err
	}
	ours := readClocks(v.source.PID(), v.replica.PID()).since(c0, nil)
	progress("trickle applied %d events in %.1f s", events, time.Since(began).Seconds())
	c0, connect := readClocks(v.source.PID(), v.replica.PID()), v.readAll()
	if err := sink(ctx); err != nil {
		return err
	}
	if err := v.await(ctx, fmt.Sprintf("SELECT updated_at > '2029-01-01' FROM %s WHERE id = %d", ordered, 2*v.copied)); err != nil {
		return err
	}
	theirs := readClocks(v.source.PID(), v.replica.PID()).since(c0, nil)
	connectCPU := v.readAll()[0] - connect[0]
	rate := func(c cost) float64 { return float64(v.copied) / c.wall.Seconds() }
	fmt.Fprintf(out, "\n## The log played forward: %d updates, once\n\n| way | wall, s | events/s | replica CPU, s | own CPU, s |\n|---|---|---|---|---|\n", v.copied)
	fmt.Fprintf(out, "| trickle's applier | %.1f | %.0f | %.1f | %.1f |\n| JDBC sink, tuned, its start included | %.1f | %.0f | %.1f | %.1f |\n",
		wall(ours), rate(ours), replicaCPU(ours), clientCPU(ours), wall(theirs), rate(theirs), replicaCPU(theirs), connectCPU.Seconds())
	return nil
}

func (v *view) ends(ctx context.Context, bus *transport.Kafka) (transport.Position, error) {
	logs, err := bus.Logs(ctx, []string{viewTopic})
	return transport.Ends(logs), err
}

// logged waits until the topic ends there.
func (v *view) logged(ctx context.Context, bus *transport.Kafka, end int64) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := v.ends(ctx, bus)
		if err != nil || now[0].Offsets[0] >= end {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// play applies what the topic holds from a position on, and returns how many events that were.
func (v *view) play(ctx context.Context, bus *transport.Kafka, from transport.Position) (events uint64, err error) {
	p, _, err := policy.Load(v.policy())
	if err != nil {
		return 0, err
	}
	var pool *pgxpool.Pool
	if pool, err = postgres.Open(ctx, v.replica.DSN(playedData), postgres.Options{Role: "replica", Setting: "bench"}); err != nil {
		return 0, err
	}
	defer pool.Close()
	if err := ledger.New(pool, p.Pipeline).Migrate(ctx); err != nil {
		return 0, err
	}
	a, err := playforward.Open(ctx, pool, playforward.Options{Pipeline: p.Pipeline, Rules: func() *policy.Policy { return p }})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	if err := a.Begin(ctx, from); err != nil {
		return 0, err
	}
	player, err := bus.Play(ctx, from)
	if err != nil {
		return 0, err
	}
	defer player.Close()
	err = a.Run(ctx, player, nil)
	return a.Done().Applied, err
}
