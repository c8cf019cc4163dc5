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
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/kafka"
)

// viewing is what the base-line view is measured by.
type viewing struct {
	rows     int
	rounds   int
	copied   int    // rows that Debezium copies; 0: none
	folderOf string // a folder with trickle and trickle-consumer; empty to build them
}

// view is the servers, the store and the programs by which it is measured.
type view struct {
	viewing
	*filler
	bin     string // of Postgres
	store   string
	dump    string
	trickle map[string]string // by command, its program
	want    string            // what the table comes to
	targets []target
}

const (
	viewData     = "view"
	restoredData = "restored"
	viewTopic    = "shop.public.verified"
	viewPolicy   = `pipeline: ` + resyncPipeline + `
schedule: {cycle: 24h}
quiet: 1s
tables: [{table: ` + ordered + `}]
gate: {assume_lag: 1s}
baseline: {url: "file://%s", topics: [` + viewTopic + `]}
`
)

// secondary is an index beside the key's.
const secondary = "CREATE INDEX verified_account ON " + ordered + " (account)"

// baselineCommand measures what a set of the base-line view costs to build, and how long it takes to restore from one, against pg_dump and pg_restore, and
// against the snapshot by which Debezium fills a replica.
func baselineCommand(ctx context.Context, args []string) error {
	var o viewing
	flags := flag.NewFlagSet("bench baseline", flag.ExitOnError)
	flags.IntVar(&o.rows, "rows", 5_000_000, "rows of the table")
	flags.IntVar(&o.rounds, "rounds", 5, "rounds to measure; each builds, dumps and restores once each way")
	flags.IntVar(&o.copied, "debezium-rows", 500_000, "rows of the table that Debezium's initial snapshot copies, once; 0 to leave that out")
	flags.StringVar(&o.folderOf, "programs", "", "a folder with trickle and trickle-consumer to measure; without it, they are built from this checkout")
	_ = flags.Parse(args) // which ends the process where they are wrong
	if o.rows < 10_000 || o.rounds < 1 || o.copied < 0 || flags.NArg() > 0 {
		return errors.New("give --rows 10000 or more, --rounds 1 or more, and nothing else")
	}
	return o.run(ctx, os.Stdout)
}

func (o viewing) run(ctx context.Context, out io.Writer) (err error) {
	began := time.Now()
	v := &view{viewing: o, filler: &filler{}, trickle: map[string]string{}}
	defer func() {
		bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, v.stop(bound))
	}()
	if err := v.open(ctx); err != nil {
		return err
	}
	version, err := v.version(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s, %s, %d CPUs for everything; %d rows of 8 columns, an index beside the key's; %d rounds after one that is not counted\n", version, runtime.Version(), runtime.NumCPU(), o.rows, o.rounds)
	if err := v.measureBuilds(ctx, out); err != nil {
		return err
	}
	restored, err := v.measureRestores(ctx, out)
	if err != nil {
		return err
	}
	if o.copied > 0 {
		if err := v.measureDebezium(ctx, restored, out); err != nil {
			return err
		}
	}
	reportMet(out, v.targets)
	fmt.Fprintf(out, "\nWhat was restored was the source's table, by its count and its digests, every time. All of this took %s.\n", time.Since(began).Round(time.Second))
	return nil
}

// open starts servers and broker, fills the source, and finds the programs.
func (v *view) open(ctx context.Context) (err error) {
	if v.bin, err = testbed.FindBinaries(ctx); err != nil {
		return err
	}
	for _, program := range []string{"pg_dump", "pg_restore"} {
		if _, err := os.Stat(filepath.Join(v.bin, program)); err != nil {
			return fmt.Errorf("%s is to be measured against: install Postgres's client programs too, or set PG_BIN to a folder that has them: %w", program, err)
		}
	}
	if v.folder, err = os.MkdirTemp("", "trickle-bench-"); err != nil {
		return err
	}
	v.store, v.dump = filepath.Join(v.folder, "store"), filepath.Join(v.folder, "dump")
	for _, command := range []string{"trickle", "trickle-consumer"} {
		if v.trickle[command] = filepath.Join(v.folderOf, command); v.folderOf == "" {
			if v.trickle[command], err = build(ctx, v.folder, command); err != nil {
				return err
			}
		}
	}
	if err := os.WriteFile(v.policy(), fmt.Appendf(nil, viewPolicy, v.store), 0o600); err != nil {
		return err
	}
	// Everybody makes indexes with the same memory.
	if v.pair, err = startPair(ctx, map[string]string{"wal_level": "logical", "maintenance_work_mem": "256MB"}); err != nil {
		return err
	}
	if v.broker, err = kafka.Start(ctx, kafka.Options{}); err != nil {
		return err
	}
	if err := v.topic(ctx, viewTopic); err != nil {
		return err
	}
	began := time.Now()
	if err := load(ctx, v.source, viewData, v.rows); err != nil {
		return err
	}
	if err := execute(ctx, v.source, viewData, secondary, "CHECKPOINT"); err != nil {
		return err
	}
	progress("%d rows loaded in %s", v.rows, time.Since(began).Round(time.Second))
	v.from, err = pgx.Connect(ctx, v.source.DSN(viewData))
	return err
}

func (v *view) policy() string { return filepath.Join(v.folder, "policy.yaml") }

// reportMet says which targets were met. Nothing fails by it: a busy machine is no fault.
func reportMet(out io.Writer, targets []target) {
	fmt.Fprintln(out, "\n| target | at most | measured | |\n|---|---|---|---|")
	for _, t := range targets {
		verdict := "missed"
		switch {
		case t.got.rounds == 0:
			verdict = "not measured"
		case t.got.median <= t.limit:
			verdict = "met"
		}
		fmt.Fprintf(out, "| %s | %v | %s | %s |\n", t.what, t.limit, t.got, verdict)
	}
}
