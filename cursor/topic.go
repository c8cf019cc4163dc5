package cursor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/trickle-verify/trickle/transport"
)

// Keys of the topic's records: one for each thing that changes by itself.
const (
	keySource  = "source"
	keySamples = "samples"
	keyTable   = "table/"
	keyRange   = "range/" // then the id, a slash and the table
)

// Topic keeps the state in a compacted topic of one partition. A record that it can't read is logged and left out: the ranges it stood
// for are missing in the state, and whoever loads it cuts and verifies that part of the table again.
type Topic struct {
	bus    transport.Bus
	name   string
	logger *slog.Logger

	mu     sync.Mutex
	ranges map[string]map[uint64]struct{} // what the topic holds, by table; nil before Load
}

// NewTopic uses the topic of that name, which Load creates if need be.
func NewTopic(bus transport.Bus, name string, logger *slog.Logger) *Topic {
	return &Topic{bus: bus, name: name, logger: logger}
}

// Load reads the topic.
func (t *Topic) Load(ctx context.Context) (State, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.load(ctx)
}

func (t *Topic) load(ctx context.Context) (State, error) {
	spec := transport.TopicSpec{Name: t.name, Partitions: 1, Compacted: true}
	if err := t.bus.Ensure(ctx, spec); err != nil {
		return State{}, fmt.Errorf("loading cursors: %w", err)
	}
	records, err := t.bus.Replay(ctx, t.name)
	if err != nil {
		return State{}, fmt.Errorf("loading cursors: %w", err)
	}
	var b book
	t.ranges = map[string]map[uint64]struct{}{}
	for _, r := range records {
		c, err := decode(string(r.Key), r.Value)
		if err != nil {
			t.logger.Warn("a cursor is unreadable and left out", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset,
				"key", string(r.Key), "err", err)
			continue
		}
		b.apply(c)
		t.note(c)
	}
	return b.state(), nil
}

// note keeps track of the ranges that the topic holds, for the day their table is dropped.
func (t *Topic) note(c Change) {
	for _, r := range c.Ranges {
		if t.ranges[r.Table] == nil {
			t.ranges[r.Table] = map[uint64]struct{}{}
		}
		t.ranges[r.Table][r.ID] = struct{}{}
	}
	for _, r := range c.Removed {
		delete(t.ranges[r.Table], r.ID)
	}
}

// Save sends the change and returns once it is durable. It loads first if nobody has.
func (t *Topic) Save(ctx context.Context, c Change) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ranges == nil {
		if _, err := t.load(ctx); err != nil {
			return err
		}
	}
	records, err := t.encode(c)
	if err != nil || len(records) == 0 {
		return err
	}
	if err := t.bus.Send(ctx, records...); err != nil {
		return fmt.Errorf("saving cursors: %w", err)
	}
	for _, table := range c.DroppedTables {
		delete(t.ranges, table)
	}
	t.note(c)
	return nil
}

// encode puts dropped tables first, as a change may drop a table and begin it anew, and removed ranges last, so that a kill in between
// leaves no hole.
func (t *Topic) encode(c Change) ([]transport.Record, error) {
	var out []transport.Record
	remove := func(key string) {
		out = append(out, transport.Record{Topic: t.name, Key: []byte(key)})
	}
	var failed error
	put := func(key string, v any) {
		value, err := json.Marshal(v)
		if err != nil {
			failed = fmt.Errorf("saving cursor %s: %w", key, err)
			return
		}
		out = append(out, transport.Record{Topic: t.name, Key: []byte(key), Value: value})
	}
	for _, table := range c.DroppedTables {
		remove(keyTable + table)
		for _, id := range slices.Sorted(maps.Keys(t.ranges[table])) {
			remove(rangeKey(table, id))
		}
	}
	if c.Source != "" {
		put(keySource, c.Source)
	}
	for _, table := range c.Tables {
		put(keyTable+table.Name, table)
	}
	for _, r := range c.Ranges {
		put(rangeKey(r.Table, r.ID), r)
	}
	for _, r := range c.Removed {
		remove(rangeKey(r.Table, r.ID))
	}
	if c.Samples != nil {
		put(keySamples, c.Samples)
	}
	return out, failed
}

func rangeKey(table string, id uint64) string {
	return keyRange + strconv.FormatUint(id, 10) + "/" + table
}

// decode returns a record as the change that it was.
func decode(key string, value []byte) (c Change, err error) {
	switch {
	case key == keySource:
		err = json.Unmarshal(value, &c.Source)
		return c, err
	case key == keySamples:
		err = json.Unmarshal(value, &c.Samples)
		return c, err
	case strings.HasPrefix(key, keyTable):
		c.Tables = make([]Table, 1)
		if err := json.Unmarshal(value, &c.Tables[0]); err != nil {
			return Change{}, err
		}
		if got := keyTable + c.Tables[0].Name; got != key {
			return Change{}, fmt.Errorf("the value belongs to %q", got)
		}
		return c, nil
	case strings.HasPrefix(key, keyRange):
		c.Ranges = make([]Range, 1)
		if err := json.Unmarshal(value, &c.Ranges[0]); err != nil {
			return Change{}, err
		}
		if got := rangeKey(c.Ranges[0].Table, c.Ranges[0].ID); got != key {
			return Change{}, fmt.Errorf("the value belongs to %q", got)
		}
		return c, nil
	default:
		return c, errors.New("unknown key")
	}
}

// Close does nothing: every Save was durable when it returned, and the bus belongs to whoever opened it.
func (t *Topic) Close() error { return nil }
