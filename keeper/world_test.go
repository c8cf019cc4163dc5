package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/internal/testbed/loop"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/scheduler"
	"github.com/trickle-verify/trickle/telemetry/pulse"
	"github.com/trickle-verify/trickle/transport"
)

const topic = "shop.public.t"

// done is what a keeper did.
type done struct {
	builds    int // begun
	stopped   int // of them: before their end
	pruned    []int
	announced []string
	told      []cursor.Build
	closed    int
	tables    []string // of the policy that each build was begun under
}

// world is all that a keeper has to do with, faked: a store, a log, a scheduler, and a builder that takes some time.
type world struct {
	done

	mu      sync.Mutex
	sets    []*baseline.Manifest // oldest first
	log     transport.Log
	away    error // of the store
	blind   error // of the logs
	broken  error // of the build
	took    time.Duration
	pieces  int
	leads   bool
	held    bool           // the pace lets nothing begin
	damaged bool           // the newest manifest is
	lost    string         // a set of which an object is missing
	slow    time.Duration  // what removing old sets takes, and what the store takes to close
	monitor *pulse.Monitor // nil: nobody watches
	out     bytes.Buffer
}

func (w *world) lock(fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn()
}

func (w *world) Newest(context.Context) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sets) == 0 || w.away != nil {
		return "", w.away
	}
	return w.sets[len(w.sets)-1].Set, nil
}

func (w *world) Check(_ context.Context, m *baseline.Manifest) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lost == m.Set {
		return &baseline.CorruptError{Name: "objects/t/1.zst", Reason: "it is missing"}
	}
	return w.away
}

func (w *world) Load(_ context.Context, set string) (*baseline.Manifest, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.sets {
		if m.Set == set {
			if w.damaged {
				return nil, &baseline.CorruptError{Name: set, Reason: "it was cut off"}
			}
			return m, w.away
		}
	}
	return nil, errors.New("no such set")
}

func (w *world) Prune(_ context.Context, keep int) error {
	w.lock(func() { w.pruned = append(w.pruned, keep) })
	time.Sleep(w.slow)
	return nil
}

func (w *world) Close() error {
	w.lock(func() { w.closed++ })
	time.Sleep(w.slow)
	return nil
}

func (w *world) Leads() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.leads
}

func (w *world) Waiting() string { return "rate.rows_per_second 10" }

func (w *world) Tell(_ context.Context, b cursor.Build) error {
	w.lock(func() { w.told = append(w.told, b) })
	return nil
}

func (w *world) Beside() Pace { return &turn{w} }

type turn struct{ w *world }

func (t *turn) Wait(ctx context.Context) error {
	for {
		t.w.mu.Lock()
		held := t.w.held
		t.w.mu.Unlock()
		if !held {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
}

func (t *turn) Spent(scheduler.Cost) {}
func (t *turn) Close()               {}

func (w *world) build(ctx context.Context, j Job) (*baseline.Manifest, error) {
	w.mu.Lock()
	w.builds++
	begun := time.Now()
	m := &baseline.Manifest{
		Set: fmt.Sprint("s", w.builds), Source: "7/shop", Begun: begun,
		Positions: []baseline.Point{{Taken: begun, Position: transport.Ends([]transport.Log{w.log})}},
		Tables:    []baseline.Table{{Table: "public.t", Objects: []baseline.Object{{Name: "o"}}}},
	}
	w.tables = append(w.tables, j.Policy.Tables[len(j.Policy.Tables)-1].Table)
	took, broken, pieces := w.took, w.broken, max(1, w.pieces)
	w.mu.Unlock()
	for n := range pieces {
		if err := j.Pace.Wait(ctx); err != nil {
			w.lock(func() { w.stopped++ })
			return nil, err
		}
		select {
		case <-ctx.Done():
			w.lock(func() { w.stopped++ })
			return nil, context.Cause(ctx)
		case <-time.After(took / time.Duration(pieces)):
		}
		j.Report(Progress{Set: m.Set, Tables: 1, Rows: uint64(n + 1), Total: uint64(pieces), Bytes: 9})
	}
	if broken != nil {
		return nil, broken
	}
	m.Completed = time.Now()
	w.lock(func() { w.sets = append(w.sets, m) })
	return m, nil
}

func parsed(t *testing.T, lines string) *policy.Policy {
	t.Helper()
	p, _, err := policy.Parse("policy.yaml", []byte("pipeline: shop\nbaseline: {url: 'mem://', topics: ['"+topic+"'], refresh: 6h, keep: 3}\n"+lines))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const oneTable = "tables: [{table: public.t}]"

// keeping starts a keeper and returns it with what ends it.
func (w *world) keeping(t *testing.T, lines string) (*Keeper, func()) {
	t.Helper()
	k := New(parsed(t, lines), Parts{
		Desk: w, Source: "7/shop", Build: w.build, Log: slog.New(slog.NewTextHandler(w, nil)),
		Open: func(context.Context, *policy.Policy) (Store, error) { return w, nil },
		Logs: func(context.Context, *policy.Policy, *baseline.Manifest) ([]transport.Log, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return []transport.Log{w.log}, w.blind
		},
		Announce: func(_ context.Context, m *baseline.Manifest) error {
			w.lock(func() { w.announced = append(w.announced, m.Set) })
			return nil
		},
	})
	ctx := t.Context()
	if w.monitor != nil {
		ctx = w.monitor.In(ctx)
	}
	return k, loop.Start(ctx, t, k.Run)
}

func newWorld() *world {
	return &world{leads: true, took: 10 * time.Minute, pieces: 10, log: transport.Log{
		Topic: topic, ID: "1", Retention: transport.Retention{Time: 7 * 24 * time.Hour}, Partitions: []transport.Extent{{Start: 5, End: 100}},
	}}
}

// got is what was done so far.
func (w *world) got() done {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.done
	d.pruned, d.announced, d.told, d.tables = slices.Clone(d.pruned), slices.Clone(d.announced), slices.Clone(d.told), slices.Clone(d.tables)
	return d
}

// Write is where the log goes.
func (w *world) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(b)
}

func (w *world) lines() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.String()
}

// after lets d pass and everything come to rest.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) count(line string) int {
	return strings.Count(w.lines(), line)
}
