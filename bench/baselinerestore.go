package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/transport"
)

// The ways to fill an empty database.
const (
	pgRestoreWay = "pg_restore -j2"
	restoreWay   = "trickle-consumer restore"
	snapshotWay  = "Debezium's initial snapshot, JDBC sink"
)

// measureRestores restores into an empty database in each way, in turn.
func (v *view) measureRestores(ctx context.Context, out io.Writer) (rounds, error) {
	var err error
	if v.want, err = v.sum(ctx, v.from); err != nil {
		return nil, err
	}
	costs := map[string]cost{}
	for _, r := range []reading{{dumpWay, v.pgDump}, {firstBuild, v.buildSet}} { // of the same rows
		if err := v.reading(ctx, r, 0, costs, map[string]int64{}); err != nil {
			return nil, err
		}
	}
	readings := []reading{{pgRestoreWay, v.pgRestore}, {restoreWay, v.restore}}
	var measured rounds
	for n := range v.rounds + 1 {
		costs := map[string]cost{}
		for i := range readings {
			r := readings[(i+n)%len(readings)]
			if costs[r.name], err = v.restored(ctx, r); err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
			progress("%s: %.2f s, replica CPU %.2f s, client CPU %.2f s", r.name, costs[r.name].wall.Seconds(), costs[r.name].replica.Seconds(), costs[r.name].client.Seconds())
		}
		if n > 0 {
			measured = append(measured, costs)
		}
	}
	perSecond := func(c cost) float64 { return float64(v.rows) / c.wall.Seconds() }
	fmt.Fprint(out, "\n## A database restored\n\n| way | wall, s | replica CPU, s | client CPU, s | client peak, MiB | rows/s | wall × pg_restore |\n|---|---|---|---|---|---|---|\n")
	for _, r := range readings {
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s | %s | %s |\n", r.name, measured.of(r.name, wall), measured.of(r.name, replicaCPU), measured.of(r.name, clientCPU),
			measured.of(r.name, peakMiB).text(0), measured.of(r.name, perSecond).text(0), measured.ratio(term{r.name, wall}, term{pgRestoreWay, wall}))
	}
	v.targets = append(v.targets, target{"restore: wall, × pg_restore's", measured.ratio(term{restoreWay, wall}, term{pgRestoreWay, wall}), 1.2})
	return measured, nil
}

// restored measures one way, and refuses what is not the source's table, with its indexes.
func (v *view) restored(ctx context.Context, r reading) (spent cost, err error) {
	if err := execute(ctx, v.replica, "postgres", "DROP DATABASE IF EXISTS "+restoredData+" WITH (FORCE)", "CHECKPOINT"); err != nil {
		return spent, err
	}
	dsn, err := v.replica.CreateDatabase(ctx, restoredData)
	if err != nil {
		return spent, err
	}
	runtime.GC()
	if spent, err = v.cost(ctx, r); err != nil {
		return spent, err
	}
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return spent, err
	}
	defer func() { _ = c.Close(ctx) }()
	got, err := v.sum(ctx, c)
	if err != nil {
		return spent, err
	}
	var indexes int
	if err := c.QueryRow(ctx, "SELECT count(*) FROM pg_index WHERE indrelid = $1::regclass AND indisvalid", ordered).Scan(&indexes); err != nil {
		return spent, err
	}
	if got != v.want || indexes != 2 {
		return spent, fmt.Errorf("the replica holds %s and %d indexes, the source %s and 2", got, indexes, v.want)
	}
	return spent, nil
}

func (v *view) pgRestore(ctx context.Context) (*os.ProcessState, error) {
	_, child, err := execChild(ctx, filepath.Join(v.bin, "pg_restore"), "-j2", "-d", v.replica.DSN(restoredData), v.dump)
	return child, err
}

func (v *view) restore(ctx context.Context) (*os.ProcessState, error) {
	_, child, err := execChild(ctx, v.trickle["trickle-consumer"], "restore", "--play-forward", "--no-proof", "--policy", v.policy(), "--replica", v.replica.DSN(restoredData), "--brokers", v.broker.Addr())
	return child, err
}

// measureDebezium has Debezium fill an empty table with its snapshot, once.
func (v *view) measureDebezium(ctx context.Context, restored rounds, out io.Writer) error {
	if err := load(ctx, v.source, resyncData, v.copied); err != nil {
		return err
	}
	dsn, err := v.replica.CreateDatabase(ctx, resyncData)
	if err == nil {
		err = execute(ctx, v.replica, resyncData, createOrdered, secondary)
	}
	if err != nil {
		return err
	}
	if v.target, err = postgres.Open(ctx, dsn, postgres.Options{Role: "replica", Setting: "bench"}); err != nil {
		return err
	}
	began, before := time.Now(), v.readAll()
	settings := settingsOf(resyncTuned)
	settings.source["snapshot.mode"] = "initial"
	if err := v.debezium(ctx, settings); err != nil {
		return err
	}
	if err := v.await(ctx, fmt.Sprintf("SELECT count(*) = %d FROM %s", v.copied, ordered)); err != nil {
		return err
	}
	took, after := time.Since(began), v.readAll()
	rate := float64(v.copied) / took.Seconds()
	ours := restored.of(restoreWay, func(c cost) float64 { return float64(v.rows) / c.wall.Seconds() })
	fmt.Fprintf(out, "\n%s, %d rows, once, with the tuned settings: %.1f s, %.0f rows/s; Connect CPU %.1f s, broker CPU %.1f s. trickle restores %.1f times as many rows a second.\n",
		snapshotWay, v.copied, took.Seconds(), rate, (after[0] - before[0]).Seconds(), (after[1] - before[1]).Seconds(), ours.median/rate)
	if err := v.measurePlaying(ctx, func(ctx context.Context) error { return v.debezium(ctx, settings) }, out); err != nil {
		return err
	}
	return v.endDebezium(ctx)
}

// readAll are the clocks of Connect and of the broker.
func (v *view) readAll() [2]time.Duration {
	clocks := [2]time.Duration{0, threadsCPU(v.broker.PID())}
	if v.worker != nil {
		clocks[0] = threadsCPU(v.worker.PID())
	}
	return clocks
}

// topic makes one as Debezium would.
func (v *view) topic(ctx context.Context, name string) (err error) {
	bus, err := v.bus(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bus.Close()) }()
	return bus.Ensure(ctx, transport.TopicSpec{Name: name, Partitions: 1})
}
