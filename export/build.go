package export

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/transport"
)

// build is a set that is being built.
type build struct {
	Parts
	Options
	types  *postgres.Types
	tables []*table
	// earlier are manifests whose objects may be named again, the most recent first.
	earlier []*baseline.Manifest

	// Only the reader uses these.
	fence postgres.Horizon // of the newest position
	taken time.Time

	mu       sync.Mutex // guards what follows
	set      *baseline.Manifest
	changed  bool // since the last checkpoint
	progress Progress
}

// table is one of it.
type table struct {
	Table
	layout  *postgres.Layout
	export  *postgres.Exporter
	columns []string
	index   int         // of baseline.Manifest.Tables
	read    postgres.At // when it was laid out
	places  int         // that were given to objects, for their order and names; only the reader counts

	// The build's lock guards these.
	attempt int // how often it was begun anew
	done    map[int]baseline.Object
}

// prepare lays the tables out, all before anything is read, and begins the set.
func (b *build) prepare(ctx context.Context) error {
	begun := time.Now()
	b.set = &baseline.Manifest{Set: baseline.NewSet(begun), Pipeline: b.Pipeline, Source: b.Options.Source, Begun: begun.UTC()}
	if err := b.recall(ctx); err != nil {
		return err
	}
	var faults []error
	for _, t := range b.Tables {
		at := &table{Table: t, index: len(b.tables)}
		described, err := b.describe(ctx, at)
		var noKey *postgres.NoKeyError
		if t.Chosen && errors.As(err, &noKey) {
			b.Log.Warn("a table is left out of the base-line view", "table", t.Name.String(), "err", err)
			continue
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("table %s: %w", t.Name, err))
			continue
		}
		b.tables, b.set.Tables = append(b.tables, at), append(b.set.Tables, described)
	}
	if len(faults) > 0 {
		return fmt.Errorf("no set is built without a table: %w", errors.Join(faults...))
	}
	if len(b.tables) == 0 {
		return errors.New("there is no table to export: the policy's tables match none of the source's that has a key")
	}
	b.progress = Progress{Set: b.set.Set, Tables: len(b.tables)}
	for _, t := range b.tables {
		err := b.Parts.Source.Read(ctx, t.layout, func(c *pgconn.PgConn, _ postgres.At) error {
			_, rows, err := t.layout.RowsIn(ctx, c, b.Object)
			b.progress.Total += uint64(max(rows, 0))
			return err
		})
		if err != nil {
			return err
		}
	}
	return b.position(ctx) // a log that can't be read is found out now
}

// describe lays a table out and says what a set holds of it.
func (b *build) describe(ctx context.Context, t *table) (out baseline.Table, err error) {
	t.Digest = b.kind(t.Table)
	if t.layout, err = b.Parts.Source.DescribeWith(ctx, b.types, t.Name, t.Rules); err != nil {
		return out, err
	}
	columns, binary := t.layout.Streamable()
	t.columns, t.done = columns, make(map[int]baseline.Object)
	t.export = t.layout.Exporter(postgres.ExportWant{Columns: columns, Binary: binary, Digest: t.Digest})
	out = baseline.Table{Table: t.Name.String(), Schema: baseline.SchemaOf(t.layout), Binary: binary, Digest: t.Digest}
	err = b.Parts.Source.Read(ctx, t.layout, func(c *pgconn.PgConn, at postgres.At) error {
		t.read = at
		out.Definition, err = postgres.Define(ctx, c, t.layout)
		return err
	})
	return out, err
}

// kind is of which digests a table's set is made: a restore that only some digests serve is still served by the next set.
func (b *build) kind(t Table) digest.Kind {
	if t.Digest != 0 {
		return t.Digest
	}
	for _, m := range b.earlier {
		if was, ok := m.Table(t.Name.String()); ok {
			return was.Digest
		}
	}
	return digest.Record
}

// recall loads what may be named again: the newest complete set, and what the newest build that did not end has left.
func (b *build) recall(ctx context.Context) error {
	sets, err := b.Store.Sets(ctx)
	if err != nil {
		return err
	}
	seen := make(map[bool]bool)
	for _, l := range sets {
		if seen[l.Partial] || l.Partial && seen[false] { // a build that was left before the newest set was complete has nothing that is newer
			continue
		}
		load := b.Store.Load
		if l.Partial {
			load = b.Store.Partial
		}
		m, err := load(ctx, l.Set)
		switch {
		case errors.Is(err, baseline.ErrNoSet): // it was removed, or completed, since
		case err != nil:
			b.Log.Warn("nothing of an earlier set is used again", "set", l.Set, "err", err)
		case m.Source == b.set.Source:
			b.earlier = append(b.earlier, m)
			if !b.Afresh {
				b.set.Bases = append(b.set.Bases, m.Set)
			}
		}
		seen[l.Partial] = true
	}
	return nil
}

// forget drops what has been removed since it was recalled, before anybody could know that it may be used again: its objects are going.
func (b *build) forget(ctx context.Context) error {
	sets, err := b.Store.Sets(ctx)
	if err != nil {
		return err
	}
	b.earlier = slices.DeleteFunc(b.earlier, func(m *baseline.Manifest) bool {
		return !slices.ContainsFunc(sets, func(l baseline.Listed) bool { return l.Set == m.Set })
	})
	return nil
}

// run reads, stores and records, and completes the set.
func (b *build) run(ctx context.Context) error {
	// Before the first object, so that nobody takes it for left over.
	if err := b.Store.Checkpoint(ctx, b.set); err != nil {
		return err
	}
	if err := b.forget(ctx); err != nil {
		return err
	}
	g, within := errgroup.WithContext(ctx)
	puts, done := make(chan put), make(chan struct{})
	var storers errgroup.Group
	for range storing {
		storers.Go(func() error { return b.store(within, puts) })
	}
	g.Go(func() error {
		defer close(puts)
		return b.read(within, puts)
	})
	g.Go(func() error {
		defer close(done)
		return storers.Wait()
	})
	g.Go(func() error { return b.record(within, done) })
	if err := g.Wait(); err != nil {
		b.leave(ctx)
		return err
	}
	b.finish()
	return b.Store.Complete(ctx, b.set)
}

// finish makes the manifest complete.
func (b *build) finish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gather()
	for i := range b.set.Tables {
		t := &b.set.Tables[i]
		var print digest.Thumbprint
		for _, o := range t.Objects {
			print = print.Add(digest.Thumbprint{Rows: o.Rows, Sum: o.Sum})
			b.set.Timeline = max(b.set.Timeline, o.Timeline)
		}
		t.Rows, t.Sum = print.Rows, print.Sum
	}
	b.set.Bases, b.set.Completed = nil, time.Now().UTC()
}

// gather puts the objects that are stored into the manifest, in key order; the lock is held.
func (b *build) gather() {
	for _, t := range b.tables {
		objects := make([]baseline.Object, 0, len(t.done))
		for _, place := range slices.Sorted(maps.Keys(t.done)) {
			objects = append(objects, t.done[place])
		}
		b.set.Tables[t.index].Objects = objects
	}
}

// leaving bounds what is still stored when a build has failed.
const leaving = 20 * time.Second

// leave records what there is for the next build.
func (b *build) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaving)
	defer cancel()
	if _, err := b.checkpoint(ctx); err != nil {
		b.Log.Warn("what was built so far is not recorded, and the next build reads it again", "set", b.set.Set, "err", err)
	}
}

// position reads how far the logs reach, and then takes the fence, where the last position is too old.
func (b *build) position(ctx context.Context) error {
	if !b.taken.IsZero() && time.Since(b.taken) < b.Position {
		return nil
	}
	now := time.Now()
	logs, err := b.Logs(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(logs, func(l transport.Log) bool { return len(l.Partitions) > 0 }) {
		return errNoLogs
	}
	if b.fence, err = b.Parts.Source.Fence(ctx); err != nil {
		return err
	}
	b.taken = now
	b.mu.Lock()
	defer b.mu.Unlock()
	b.set.Positions = append(b.set.Positions, baseline.Point{Taken: now.UTC(), Position: transport.Ends(logs)})
	return nil
}

// attempts is how often a table that changes while it is read is begun anew.
const attempts = 3

// read reads all tables.
func (b *build) read(ctx context.Context, puts chan<- put) error {
	for _, t := range b.tables {
		err := b.readTable(ctx, t, puts)
		for n := 1; errors.Is(err, postgres.ErrChanged) && n < attempts; n++ {
			b.Log.Warn("a table changed while it was read and is read anew", "table", t.Name.String(), "err", err)
			if err = b.anew(ctx, t); err == nil {
				err = b.readTable(ctx, t, puts)
			}
		}
		if err != nil {
			return fmt.Errorf("table %s, without which there is no set: %w", t.Name, err)
		}
		b.tell(func(p *Progress) { p.Done++ })
	}
	return nil
}

// anew forgets a table and lays it out again.
func (b *build) anew(ctx context.Context, t *table) error {
	b.types = new(postgres.Types)
	next := &table{Table: t.Table, index: t.index}
	described, err := b.describe(ctx, next)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, o := range t.done {
		b.progress.Rows -= o.Rows
	}
	// What is still being stored belongs to the attempt before, and has names of its own.
	t.layout, t.export, t.columns, t.read, t.done = next.layout, next.export, next.columns, next.read, next.done
	t.attempt++
	b.set.Tables[t.index], b.changed = described, true
	return nil
}

// tell changes the progress and reports it.
func (b *build) tell(fn func(*Progress)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fn(&b.progress)
	if b.Report != nil {
		b.Report(b.progress)
	}
}

func (b *build) shown() Progress {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.progress
}
