package detector_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/notebook"
)

// Cache is a replica in a map: the rows of public.prices by their key. CDC writes it by Put and Delete, the detector by Write.
type Cache struct {
	notes *notebook.Notebook

	mu      sync.Mutex
	columns []*tricklepb.Column
	rows    map[string]Row
	writes  uint64
}

// Row is a row of the cache. A version changes with every write: it is by that that a correction knows that nobody was quicker.
type Row struct {
	Values  map[string]string // by column; one that is absent is NULL
	version uint64
}

// Put is what CDC does with an insert or an update.
func (c *Cache) Put(key string, values map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(key, values)
}

func (c *Cache) put(key string, values map[string]string) {
	c.writes++
	c.rows[key] = Row{Values: values, version: c.writes}
}

// Delete is what CDC does with a delete.
func (c *Cache) Delete(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.rows, key)
}

// Name says which of the source's tables is verified here, and what it is called.
func (c *Cache) Name(table string) (string, bool) { return "cache", table == "public.prices" }

var errShape = errors.New("the cache keeps one key column")

// Fit keeps the schema, by whose columns values come. The digest of the probe row is one that the source's can't be: so the source sends digests of
// text, which anybody can compute, and not Postgres's own.
func (c *Cache) Fit(_ context.Context, _ string, schema *tricklepb.Schema) (uint64, error) {
	if len(schema.GetKey()) != 1 || schema.GetExact() {
		return 0, errShape
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.columns = schema.GetColumns()
	return ^schema.GetProbe(), nil
}

// digest is what the source computes of the same row.
func (c *Cache) digest(r Row) uint64 {
	fields := make([]digest.Field, len(c.columns))
	for i, column := range c.columns {
		text, ok := r.Values[column.GetName()]
		fields[i] = digest.Column(column.GetType(), text)
		fields[i].Null = !ok
	}
	return digest.Row(fields)
}

func (c *Cache) observe(key string) drift.Observed {
	r, ok := c.rows[key]
	if !ok {
		return drift.Observed{Key: message.Key{key}}
	}
	return drift.Observed{Key: message.Key{key}, Present: true, Version: r.version, Digest: c.digest(r)}
}

// within lists the keys over Lo up to Hi, in the source's order: here that of bytes, as the source's collation is C.
func (c *Cache) within(r message.Range) []string {
	var keys []string
	for key := range c.rows {
		if (r.Lo == nil || key > r.Lo[0]) && (r.Hi == nil || key <= r.Hi[0]) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// Thumbprint sums a range. The keys left out are those of rows that were being written at the source.
func (c *Cache) Thumbprint(_ context.Context, _ string, r message.Range, leftOut []message.Key, _ digest.Kind) (digest.Thumbprint, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var sum digest.Thumbprint
	for _, key := range c.within(r) {
		if !slices.ContainsFunc(leftOut, func(k message.Key) bool { return k[0] == key }) {
			sum = sum.Row(c.observe(key).Digest)
		}
	}
	return sum, nil
}

// Range observes the rows of a range, of a large one only the beginning.
func (c *Cache) Range(_ context.Context, _ string, r message.Range, limit int, _ digest.Kind) ([]drift.Observed, message.Range, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	keys := c.within(r)
	if limit > 0 && len(keys) > limit {
		keys = keys[:limit]
		r.Hi = message.Key{keys[limit-1]}
	}
	seen := make([]drift.Observed, len(keys))
	for i, key := range keys {
		seen[i] = c.observe(key)
	}
	return seen, r, nil
}

// Observe looks at keys.
func (c *Cache) Observe(_ context.Context, _ string, keys []message.Key, _ digest.Kind) ([]drift.Observed, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := make([]drift.Observed, len(keys))
	for i, key := range keys {
		seen[i] = c.observe(key[0])
	}
	return seen, nil
}

// Write makes rows what the source says, each only if it still is as it was observed, and journals it under the same lock.
func (c *Cache) Write(_ context.Context, table string, changes []drift.Change, _ digest.Kind) ([]drift.Outcome, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	outcomes := make([]drift.Outcome, len(changes))
	for i, change := range changes {
		outcomes[i] = c.write(table, change)
	}
	return outcomes, nil
}

func (c *Cache) write(table string, change drift.Change) drift.Outcome {
	key := change.Replica.Key[0]
	now := c.observe(key)
	if now.Present != change.Replica.Present || now.Version != change.Replica.Version {
		return drift.Outcome{Result: drift.Moved} // CDC was quicker
	}
	values := make(map[string]string)
	for i, value := range change.Source.Values {
		if value != nil {
			values[c.columns[i].GetName()] = string(value)
		}
	}
	entry, ok := c.notes.Enter(notebook.Correction{
		Table: table, Key: change.Replica.Key, Kind: change.Kind(), Before: c.rows[key].String(), After: Row{Values: values}.String(),
		Version: c.writes + 1, ResyncID: change.ResyncID, TraceID: change.TraceID, Trace: change.Trace,
	}, change.Rewrites)
	if !ok {
		return drift.Outcome{Result: drift.Held} // the brake is on
	}
	if change.Source.Present {
		c.put(key, values)
	} else {
		delete(c.rows, key)
	}
	return drift.Outcome{Result: drift.Written, Entry: entry, Replica: c.observe(key)}
}

// A map is always there, takes every key, and has no schema of its own that could change: so most kinds of errors do not exist here.

func (c *Cache) Incomparable(err error) bool { return errors.Is(err, errShape) }
func (c *Cache) Stale(error) bool            { return false }
func (c *Cache) KeyAtFault(error) bool       { return false }
func (c *Cache) Unreachable(error) bool      { return false }

// String shows a row, for the journal.
func (r Row) String() string {
	var columns []string
	for name, value := range r.Values {
		columns = append(columns, fmt.Sprintf("%s=%s", name, value))
	}
	slices.Sort(columns)
	return strings.Join(columns, " ")
}
