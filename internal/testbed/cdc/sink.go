package cdc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Sink applies the topic to the replica. All its methods may be called while it runs.
type Sink struct {
	cfg Config

	mu      sync.Mutex
	change  chan struct{} // closed and replaced whenever something below changes
	paused  bool
	delay   time.Duration
	drop    func(Event) bool
	skip    map[string]int
	marks   map[string]struct{}
	applied int64
	dropped int64
	err     error
}

// NewSink returns a sink; Prepare must have run.
func NewSink(cfg Config) *Sink {
	return &Sink{cfg: cfg.withDefaults(), change: make(chan struct{}), skip: map[string]int{}, marks: map[string]struct{}{}}
}

// SinkStats counts since the sink was made.
type SinkStats struct {
	Applied int64 // events, those that came again included
	Dropped int64 // by SkipNext or a filter
	Err     error // what the sink is stuck on; nil when it gets on
}

// Stats returns the counts so far.
func (s *Sink) Stats() SinkStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return SinkStats{Applied: s.applied, Dropped: s.dropped, Err: s.err}
}

// Pause stops applying after the transaction that is under way; the sink stays in its group.
func (s *Sink) Pause() { s.update(func() { s.paused = true }) }

// Resume ends a pause.
func (s *Sink) Resume() { s.update(func() { s.paused = false }) }

// SetDelay makes every event wait until it is that old.
func (s *Sink) SetDelay(d time.Duration) { s.update(func() { s.delay = d }) }

// SkipNext loses the next n events of a table, named as at the source.
func (s *Sink) SkipNext(table string, n int) { s.update(func() { s.skip[table] += n }) }

// SetFilter loses every event for which drop is true; nil loses none. An event that comes again is asked about again.
func (s *Sink) SetFilter(drop func(Event) bool) { s.update(func() { s.drop = drop }) }

func (s *Sink) update(set func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set()
	close(s.change)
	s.change = make(chan struct{})
}

// Run applies until the context ends; what was not committed by then comes again in the next Run. It may be called again after it has
// returned.
func (s *Sink) Run(ctx context.Context) {
	failed := func(err error) {
		s.update(func() { s.err = err })
		s.cfg.Log.Warn("cdc sink starts over", "err", err)
	}
	retry(ctx, failed, s.consume)
}

// consume applies batches until something fails. The group's offsets then send it back to what it has not applied.
func (s *Sink) consume(ctx context.Context) (err error) {
	client, err := kgo.NewClient(append([]kgo.Opt{
		kgo.ConsumeTopics(s.cfg.Topic),
		kgo.ConsumerGroup(s.cfg.Group),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.FetchMaxPartitionBytes(2 * maxMessageBytes),
	}, s.cfg.Kafka...)...)
	if err != nil {
		return err
	}
	defer client.CloseAllowingRebalance()
	conn, err := pgx.Connect(ctx, s.cfg.Replica)
	if err != nil {
		return fmt.Errorf("cdc replica: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	// As Postgres's own apply worker: foreign keys and triggers acted at the source already.
	if _, err := conn.Exec(ctx, "SET session_replication_role = replica"); err != nil {
		return err
	}
	a := &applier{conn: conn, rename: s.cfg.Rename, tables: map[string]*table{}}
	for {
		if err := s.awaitRunning(ctx); err != nil {
			return err
		}
		if err := s.applyOnce(ctx, client, a); err != nil {
			return err
		}
		client.AllowRebalance()
	}
}

// applyOnce takes what the topic has, applies it, and commits the offsets after.
func (s *Sink) applyOnce(ctx context.Context, client *kgo.Client, a *applier) error {
	fetches := client.PollRecords(ctx, s.cfg.ApplyAtOnce)
	if err := fetches.Err0(); err != nil {
		return err
	}
	var failures []error
	fetches.EachError(func(_ string, _ int32, err error) { failures = append(failures, err) })
	if err := errors.Join(failures...); err != nil {
		return err
	}
	records := fetches.Records()
	for len(records) > 0 {
		due, err := s.awaitDue(ctx, records)
		if err != nil {
			return err
		}
		if err := s.applyRecords(ctx, a, records[:due]); err != nil {
			return err
		}
		if err := client.CommitRecords(ctx, records[:due]...); err != nil {
			return err
		}
		records = records[due:]
	}
	return nil
}

func (s *Sink) applyRecords(ctx context.Context, a *applier, records []*kgo.Record) error {
	events := make([]Event, 0, len(records))
	for _, record := range records {
		var e Event
		if err := json.Unmarshal(record.Value, &e); err != nil {
			return fmt.Errorf("cdc event at offset %d of %s: %w", record.Offset, record.Topic, err)
		}
		if !s.loses(e) {
			events = append(events, e)
		}
	}
	if err := a.apply(ctx, events); err != nil {
		return err
	}
	s.update(func() {
		s.err = nil
		s.applied += int64(len(events))
		for _, e := range events {
			if e.Op == Mark {
				s.marks[e.Mark] = struct{}{}
			}
		}
	})
	return nil
}

// loses tells whether a fault takes this event.
func (s *Sink) loses(e Event) bool {
	if e.Op == Mark {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.skip[e.Table] > 0:
		s.skip[e.Table]--
	case s.drop == nil || !s.drop(e):
		return false
	}
	s.dropped++
	return true
}

// awaitRunning waits out a pause.
func (s *Sink) awaitRunning(ctx context.Context) error {
	for {
		s.mu.Lock()
		paused, change := s.paused, s.change
		s.mu.Unlock()
		if !paused {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-change:
		}
	}
}

// awaitDue waits until at least one record is old enough and the sink is not paused, and returns how many are.
func (s *Sink) awaitDue(ctx context.Context, records []*kgo.Record) (int, error) {
	for {
		if err := s.awaitRunning(ctx); err != nil {
			return 0, err
		}
		s.mu.Lock()
		delay, change := s.delay, s.change
		s.mu.Unlock()
		now, due := time.Now(), 0
		for due < len(records) && !records[due].Timestamp.Add(delay).After(now) {
			due++
		}
		if delay == 0 {
			due = len(records)
		}
		if due > 0 {
			return due, nil
		}
		timer := time.NewTimer(records[0].Timestamp.Add(delay).Sub(now))
		select {
		case <-ctx.Done():
		case <-change:
		case <-timer.C:
		}
		timer.Stop()
	}
}
