package cursor

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/trickle-verify/trickle/telemetry/pulse"
	"github.com/trickle-verify/trickle/transport"
)

// BoardShare is the share whose owner plans for all, and which all follow.
const BoardShare = 0

// guardEvery is how often it is looked up that nobody else has claimed a share that is ours.
const guardEvery = 15 * time.Second

// Bus is what the topic store needs of a transport.
type Bus interface {
	Ensure(ctx context.Context, topics ...transport.TopicSpec) error
	Partitions(ctx context.Context, topic string) (int, error)
	SendTo(ctx context.Context, partition int32, records ...transport.Record) error
	Since(ctx context.Context, topic string, partition int32, offset int64) ([]transport.Record, int64, error)
	Own(ctx context.Context, group, topic string) (transport.Ownership, error)
}

// TopicOptions of a Topic.
type TopicOptions struct {
	Name       string
	Group      string // of the publishers
	Partitions int32  // of the topic, if it has to be created; a topic that exists keeps what it has
	Owner      string // names this publisher to people
	Log        *slog.Logger
}

// Topic keeps the state in a compacted topic, a share in each partition. Publishers divide the partitions among them by the group's own
// protocol; one that dies is missed within the session timeout. A record that it can't read is logged and left out: the ranges it stood for are
// missing in the state, and whoever loads it cuts and verifies that part of the table again.
type Topic struct {
	bus     Bus
	options TopicOptions
	count   int
	owning  transport.Ownership

	mu      sync.Mutex // is held while Kafka is spoken to
	held    map[int]*holding
	board   *page
	guarded time.Time

	known   sync.Mutex     // never is: whoever asks for Shares waits for no broker
	usurped map[int]uint64 // how often a share that was ours was claimed by another
	grew    bool           // that was told
}

// lock waits for whoever speaks to Kafka now, which is to wait for Kafka. The function it returns unlocks.
func (t *Topic) lock(ctx context.Context) func() {
	defer pulse.Away(ctx)()
	t.mu.Lock()
	return t.mu.Unlock
}

// holding is a share that was taken over.
type holding struct {
	claim  string
	page   *page                          // without its book, once that was handed out
	ranges map[string]map[uint64]struct{} // what the share holds, for the day their table is dropped
}

// OpenTopic creates the topic if need be and joins the group. Close it after use.
func OpenTopic(ctx context.Context, bus Bus, o TopicOptions) (*Topic, error) {
	spec := transport.TopicSpec{Name: o.Name, Partitions: o.Partitions, Compacted: true}
	if err := bus.Ensure(ctx, spec); err != nil {
		return nil, fmt.Errorf("opening cursors: %w", err)
	}
	count, err := bus.Partitions(ctx, o.Name)
	if err != nil {
		return nil, fmt.Errorf("opening cursors: %w", err)
	}
	owning, err := bus.Own(ctx, o.Group, o.Name)
	if err != nil {
		return nil, fmt.Errorf("sharing cursors: %w", err)
	}
	return &Topic{bus: bus, options: o, count: count, owning: owning, held: map[int]*holding{}, usurped: map[int]uint64{}, board: new(page)}, nil
}

// Close leaves the group; every Save was durable when it returned.
func (t *Topic) Close() error { return t.owning.Close() }

// Shares returns this publisher's part. Partitions that were added to the topic since it was opened are left out; whoever was started since takes them for shares.
func (t *Topic) Shares() (Shares, error) {
	owned, changed, err := t.owning.Owned()
	if err != nil {
		return Shares{}, fmt.Errorf("sharing cursors: %w", err)
	}
	t.known.Lock()
	defer t.known.Unlock()
	out := Shares{Of: t.count, Mine: map[int]uint64{}, Changed: changed}
	for id, term := range owned {
		share := int(id)
		if share < t.count {
			out.Mine[share] = term + t.usurped[share]
		} else if !t.grew {
			t.grew = true
			t.options.Log.Warn("the topic of the cursors has got more partitions, of which this publisher, who has some, serves none: restart all publishers", "topic", t.options.Name, "partition", share, "partitions", t.count)
		}
	}
	return out, nil
}

// Load takes a share over and returns what it holds: whatever an earlier owner writes from here on counts no more.
func (t *Topic) Load(ctx context.Context, share int) (State, error) {
	defer t.lock(ctx)()
	delete(t.held, share)
	p, mine := new(page), ""
	for {
		if err := t.read(ctx, share, p); err != nil {
			return State{}, err
		}
		if mine != "" && p.inForce == mine {
			break
		}
		if owned, _, err := t.owning.Owned(); err != nil || owned[int32(share)] == 0 {
			return State{}, cmp.Or(err, ErrNotMine)
		}
		mine = rand.Text()
		claim := Claim{ID: mine, After: p.inForce, Owner: t.options.Owner, At: time.Now().UTC()}
		record, err := t.put(keyClaim+mine, claim)
		if err != nil {
			return State{}, err
		}
		if err := t.bus.SendTo(ctx, int32(share), record); err != nil {
			return State{}, fmt.Errorf("claiming share %d of the cursors: %w", share, err)
		}
	}
	var past []transport.Record
	for _, id := range p.past() {
		past = append(past, t.remove(keyClaim+id))
	}
	if err := t.bus.SendTo(ctx, int32(share), past...); err != nil {
		return State{}, fmt.Errorf("claiming share %d of the cursors: %w", share, err)
	}
	state := p.book.state()
	h := &holding{claim: mine, page: p, ranges: map[string]map[uint64]struct{}{}}
	for _, ranges := range state.Ranges {
		h.note(Change{Ranges: ranges})
	}
	p.book = book{}
	t.held[share] = h
	return state, nil
}

// read reads on in a partition, up to its present end.
func (t *Topic) read(ctx context.Context, share int, p *page) error {
	records, next, err := t.bus.Since(ctx, t.options.Name, int32(share), p.next)
	if err != nil {
		return fmt.Errorf("reading cursors: %w", err)
	}
	p.next = next
	for _, r := range records {
		if err := p.read(r); err != nil {
			t.options.Log.Warn("a cursor is unreadable and left out", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset,
				"record", string(r.Key), "err", err)
		}
	}
	return nil
}

// note keeps track of the ranges that the share holds.
func (h *holding) note(c Change) {
	for _, table := range c.DroppedTables {
		delete(h.ranges, table)
	}
	for _, r := range c.Ranges {
		if h.ranges[r.Table] == nil {
			h.ranges[r.Table] = map[uint64]struct{}{}
		}
		h.ranges[r.Table][r.ID] = struct{}{}
	}
	for _, r := range c.Removed {
		delete(h.ranges[r.Table], r.ID)
	}
}

// Save sends the change to a share that was loaded and returns once it is durable.
func (t *Topic) Save(ctx context.Context, share int, c Change) error {
	defer t.lock(ctx)()
	h := t.held[share]
	if h == nil {
		return fmt.Errorf("saving cursors of share %d: %w", share, ErrNotMine)
	}
	records, err := t.encode(h, c)
	if err != nil || len(records) == 0 {
		return err
	}
	if err := t.bus.SendTo(ctx, int32(share), records...); err != nil {
		return fmt.Errorf("saving cursors: %w", err)
	}
	h.note(c)
	return nil
}

// Follow reads what is new on the board. Now and then it also makes sure that shares that were loaded are still ours: one that another has
// claimed, though the group has given it to us again since, begins a new term.
func (t *Topic) Follow(ctx context.Context) (Board, error) {
	defer t.lock(ctx)()
	if err := t.read(ctx, BoardShare, t.board); err != nil {
		return Board{}, err
	}
	t.board.book = book{board: t.board.book.board} // the rest is its owner's business
	if time.Since(t.guarded) >= guardEvery {
		t.guarded = time.Now()
		owned, _, err := t.owning.Owned()
		if err != nil {
			return Board{}, fmt.Errorf("sharing cursors: %w", err)
		}
		for share, h := range t.held {
			if owned[int32(share)] == 0 {
				delete(t.held, share)
				continue
			}
			if err := t.read(ctx, share, h.page); err != nil {
				return Board{}, err
			}
			h.page.book = book{}
			if h.page.inForce != h.claim {
				t.options.Log.Warn("a share of the cursors was claimed by another publisher", "share", share, "publisher", h.page.claims[h.page.inForce].Owner)
				delete(t.held, share)
				t.known.Lock()
				t.usurped[share]++
				t.known.Unlock()
			}
		}
	}
	return t.board.book.board.clone(), nil
}

// Report puts reports on the board, which everybody may.
func (t *Topic) Report(ctx context.Context, reports ...Report) error {
	var out []transport.Record
	for _, r := range reports {
		record, err := t.put(reportKey(r.Table, r.Span), r)
		if err != nil {
			return err
		}
		out = append(out, record)
	}
	if err := t.bus.SendTo(ctx, BoardShare, out...); err != nil {
		return fmt.Errorf("reporting: %w", err)
	}
	return nil
}

func (t *Topic) put(key string, v any) (transport.Record, error) {
	value, err := json.Marshal(v)
	if err != nil {
		return transport.Record{}, fmt.Errorf("saving cursor %s: %w", key, err)
	}
	return transport.Record{Topic: t.options.Name, Key: []byte(key), Value: value}, nil
}

func (t *Topic) remove(key string) transport.Record {
	return transport.Record{Topic: t.options.Name, Key: []byte(key)}
}

// encode puts dropped tables first, as a change may drop a table and begin it anew, and removed ranges last, so that a kill in between
// leaves no hole.
func (t *Topic) encode(h *holding, c Change) ([]transport.Record, error) {
	var out []transport.Record
	var failed error
	add := func(r transport.Record, err error) {
		failed = cmp.Or(failed, err)
		r.Headers = map[string]string{claimHeader: h.claim}
		out = append(out, r)
	}
	for _, table := range c.DroppedTables {
		add(t.remove(keyTable+table), nil)
		for _, id := range slices.Sorted(maps.Keys(h.ranges[table])) {
			add(t.remove(rangeKey(table, id)), nil)
		}
	}
	for _, table := range c.DroppedPlans {
		add(t.remove(keyPlan+table), nil)
		for _, span := range slices.Sorted(maps.Keys(t.board.book.board.Reports[table])) {
			add(t.remove(reportKey(table, span)), nil)
		}
	}
	if c.Source != "" {
		add(t.put(keySource, c.Source))
	}
	for _, p := range c.Plans {
		add(t.put(keyPlan+p.Table, p))
	}
	for _, table := range c.Tables {
		add(t.put(keyTable+table.Name, table))
	}
	for _, r := range c.Ranges {
		add(t.put(rangeKey(r.Table, r.ID), r))
	}
	for _, r := range c.Removed {
		add(t.remove(rangeKey(r.Table, r.ID)), nil)
	}
	if c.Build != nil {
		add(t.put(keyBuild, c.Build))
	}
	if c.Samples != nil {
		add(t.put(keySamples, c.Samples))
	}
	return out, failed
}

// Owner is who has a share, by the claim that is in force there.
type Owner struct {
	Share int       `json:"share"`
	Owner string    `json:"owner"`
	Since time.Time `json:"since"`
}

// ReadTopic returns what all shares hold together, and who claimed them last. It takes nothing over.
func ReadTopic(ctx context.Context, bus Bus, o TopicOptions) (State, []Owner, error) {
	count, err := bus.Partitions(ctx, o.Name)
	if errors.Is(err, transport.ErrNoTopic) {
		return gather(nil), []Owner{}, nil // no publisher has run yet
	}
	if err != nil {
		return State{}, nil, fmt.Errorf("reading cursors: %w", err)
	}
	t := &Topic{bus: bus, options: o}
	var shares []State
	owners := []Owner{}
	for share := range count {
		p := new(page)
		if err := t.read(ctx, share, p); err != nil {
			return State{}, nil, err
		}
		shares = append(shares, p.book.state())
		if c, ok := p.claims[p.inForce]; ok {
			owners = append(owners, Owner{Share: share, Owner: c.Owner, Since: c.At})
		}
	}
	return gather(shares), owners, nil
}
