package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// The ways to get the source's table out. What is built after the first set is measured against the dump of the same round too.
const (
	dumpWay      = "pg_dump -Fc" //nolint:gosec // no credentials
	firstBuild   = "trickle baseline build: the first set"
	sameBuild    = "the next, nothing changed"
	closeBuild   = "the next, 1 % changed, in one place"
	spreadBuild  = "the next, 1 % changed, every 100th row"
	oneInHundred = 100
)

// measureBuilds builds sets and dumps the table, in turn.
func (v *view) measureBuilds(ctx context.Context, out io.Writer) error {
	var measured rounds
	sizes := map[string]int64{}
	readings := []reading{
		{dumpWay, func(ctx context.Context) (*os.ProcessState, error) { return v.pgDump(ctx) }},
		{firstBuild, v.buildSet}, {sameBuild, v.buildSet}, {closeBuild, v.buildSet}, {spreadBuild, v.buildSet},
	}
	for n := range v.rounds + 1 {
		began, costs := time.Now(), map[string]cost{}
		for i := range 2 { // the dump and the first set, in an order that turns
			if err := v.reading(ctx, readings[(i+n)%2], n, costs, sizes); err != nil {
				return err
			}
		}
		for _, r := range readings[2:] {
			if err := v.reading(ctx, r, n, costs, sizes); err != nil {
				return err
			}
		}
		progress("builds, round %d of %d: %s", n, v.rounds, time.Since(began).Round(time.Second))
		if n > 0 {
			measured = append(measured, costs)
		}
	}
	v.reportBuilds(out, readings, measured, sizes)
	return nil
}

// reading prepares for one, and measures it.
func (v *view) reading(ctx context.Context, r reading, round int, costs map[string]cost, sizes map[string]int64) error {
	switch r.name {
	case dumpWay:
		if err := os.RemoveAll(v.dump); err != nil {
			return err
		}
	case firstBuild:
		if err := os.RemoveAll(v.store); err != nil {
			return err
		}
	case closeBuild, spreadBuild:
		if err := v.change(ctx, r.name, round); err != nil {
			return err
		}
	}
	before, err := sizeOf(v.store)
	if err != nil {
		return err
	}
	spent, err := v.cost(ctx, r)
	if err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	costs[r.name] = spent
	progress("%s: %.2f s, source CPU %.2f s, client CPU %.2f s", r.name, spent.wall.Seconds(), spent.source.Seconds(), spent.client.Seconds())
	after, err := sizeOf(v.store)
	sizes[r.name] = after - before
	if r.name == dumpWay {
		sizes[r.name], err = sizeOf(v.dump)
	}
	return err
}

// change changes one row in a hundred.
func (v *view) change(ctx context.Context, which string, round int) error {
	where := fmt.Sprintf("id / 2 %% %d = %d", oneInHundred, round%oneInHundred)
	if which == closeBuild {
		// Half of the keys are left out; another place each time.
		part := 2 * v.rows / oneInHundred
		from := part * (37*round%oneInHundred + 1)
		where = fmt.Sprintf("id > %d AND id <= %d", from-part, from)
	}
	return execute(ctx, v.source, viewData, "UPDATE "+ordered+" SET amount = amount + 1 WHERE "+where, "VACUUM (ANALYZE) "+ordered)
}

func (v *view) pgDump(ctx context.Context) (*os.ProcessState, error) {
	_, child, err := execChild(ctx, filepath.Join(v.bin, "pg_dump"), "-Fc", "-t", ordered, "-f", v.dump, v.source.DSN(viewData))
	return child, err
}

// buildSet runs trickle baseline build to its end.
func (v *view) buildSet(ctx context.Context) (*os.ProcessState, error) {
	runtime.GC()
	_, child, err := execChild(ctx, v.trickle["trickle"], "baseline", "build", "--policy", v.policy(), "--source", v.source.DSN(viewData), "--brokers", v.broker.Addr())
	return child, err
}

// sizeOf is how many bytes the files in a folder have, or a file; 0 where there is none.
func sizeOf(path string) (size int64, err error) {
	if _, err := os.Stat(path); os.IsNotExist(err) {
		return 0, nil
	}
	err = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}

func (v *view) reportBuilds(out io.Writer, readings []reading, measured rounds, sizes map[string]int64) {
	fmt.Fprint(out, "\n## A set built\n\n| way | wall, s | source CPU, s | client CPU, s | client peak, MiB | MB written | wall × pg_dump | source CPU × pg_dump |\n|---|---|---|---|---|---|---|---|\n")
	for _, r := range readings {
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s | %.1f | %s | %s |\n", r.name, measured.of(r.name, wall), measured.of(r.name, sourceCPU), measured.of(r.name, clientCPU),
			measured.of(r.name, peakMiB).text(0), float64(sizes[r.name])/1e6, measured.ratio(term{r.name, wall}, term{dumpWay, wall}), measured.ratio(term{r.name, sourceCPU}, term{dumpWay, sourceCPU}))
	}
	v.targets = append(v.targets,
		target{"build: source CPU, × pg_dump's", measured.ratio(term{firstBuild, sourceCPU}, term{dumpWay, sourceCPU}), 1.2},
		target{"build: size, × pg_dump's", spreadOf([]float64{float64(sizes[firstBuild]) / float64(max(sizes[dumpWay], 1))}), 1.2},
	)
}
