// Package export builds sets of the base-line view: it reads the source's tables, range by range, and writes what it read to the store.
//
// It decides how a table is cut, what of an earlier set is named again, and in which order things are done: first the position in the CDC's logs, then the fence, then
// the snapshot that a range is read in, so that whatever an object lacks is in the logs from its position on. What always holds: the source is only read, one range at
// a time and as the pace allows; a set is completed only with every row of every table in it, each object stored and named with the thumbprint of exactly the rows that it
// holds; a column that the policy excludes never leaves the source. A build that is killed leaves a checkpoint, whose objects the next one uses again where nothing has changed.
// When a table can't be read, or goes on changing its shape, the build fails with the table's name, and what was complete before stays so.
package export

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/transport"
)

// Store is where sets are kept.
type Store interface {
	Sets(ctx context.Context) ([]baseline.Listed, error)
	Load(ctx context.Context, set string) (*baseline.Manifest, error)
	Partial(ctx context.Context, set string) (*baseline.Manifest, error)
	// Sizes are those of a table's objects, by name.
	Sizes(ctx context.Context, table string) (map[string]int64, error)
	Put(ctx context.Context, name string, p baseline.Packed) error
	Checkpoint(ctx context.Context, m *baseline.Manifest) error
	Complete(ctx context.Context, m *baseline.Manifest) error
}

// Pace holds a build to what the source may bear.
type Pace interface {
	// Wait returns when the next range may be read, or the context's error.
	Wait(ctx context.Context) error
	// Spent tells what reading one took.
	Spent(c Cost)
}

// Cost is what reading a range took.
type Cost struct {
	Start, End time.Time
	Rows       int
	Bytes      int64         // that came from the source
	Source     time.Duration // for which it was running something
}

// Parts are what a build works with.
type Parts struct {
	Source *postgres.Source
	Store  Store
	// Logs are the CDC's, as they are now.
	Logs func(ctx context.Context) ([]transport.Log, error)
	Pace Pace // nil: none
	// Report is called now and then, from one goroutine at a time; nil: not at all.
	Report func(Progress)
	Log    *slog.Logger // nil for none
}

// Table is one to export.
type Table struct {
	Name   postgres.Name
	Rules  postgres.Rules
	Digest digest.Kind // 0: that of the set before, and of records where that has none
	// Chosen: the policy names it by a pattern only. Without a key it is left out, as it is of verification, and the set goes without it.
	Chosen bool
}

// Options say what to build.
type Options struct {
	Pipeline string
	Source   string // system identifier and database, as messages have it
	Tables   []Table
	// Object is about how much of a table one object holds, uncompressed; 0 for 32 MiB.
	Object int
	// Afresh reads everything anew, though an earlier set has it: for when its objects are damaged.
	Afresh bool
	// Bound is how long to wait for the source to show all that may have been delivered; 0 for 5 minutes.
	Bound time.Duration
	// Position is how old a position may be when a range is read under it; 0 for a minute.
	Position time.Duration
	// Checkpoint is how often what there is is recorded, at most; 0 for 2 seconds, more where storing it takes longer.
	Checkpoint time.Duration
}

const (
	objectBytes     = 32 << 20
	bound           = 5 * time.Minute
	positionEvery   = time.Minute
	checkpointEvery = 2 * time.Second
	// alive is how often a checkpoint is stored again though nothing has come of it, so that it does not count as given up: see baseline.GivenUp.
	alive = time.Hour
	// storing is how many objects are stored at a time while the next is read.
	storing = 2
)

func (o Options) filled() Options {
	if o.Object <= 0 {
		o.Object = objectBytes
	}
	if o.Bound <= 0 {
		o.Bound = bound
	}
	if o.Position <= 0 {
		o.Position = positionEvery
	}
	if o.Checkpoint <= 0 {
		o.Checkpoint = checkpointEvery
	}
	return o
}

// Progress is how far a build is.
type Progress struct {
	Set          string
	Table        string // that is being read
	Tables, Done int
	Rows, Total  uint64 // so far, and as many as there seem to be
	New, Reused  int    // objects
	Bytes        int64  // written to the store
}

// Built is what a build came to.
type Built struct {
	Manifest *baseline.Manifest
	Progress Progress
}

// errNoLogs refuses to build what nobody could restore from.
var errNoLogs = errors.New("no topic of the CDC was found, so nothing could be played forward from a set: check baseline.topics, or resync.debezium.topic_prefix, and that the connector has made its topics")

// Build builds a set, which is complete when it returns without an error.
func Build(ctx context.Context, p Parts, o Options) (Built, error) {
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	b := &build{Parts: p, Options: o.filled(), types: new(postgres.Types)}
	if err := b.prepare(ctx); err != nil {
		return Built{}, err
	}
	if err := b.run(ctx); err != nil {
		return Built{Manifest: nil, Progress: b.shown()}, fmt.Errorf("building set %s: %w", b.set.Set, err)
	}
	return Built{Manifest: b.set, Progress: b.shown()}, nil
}
