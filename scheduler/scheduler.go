// Package scheduler decides what to scan next, when, and how fast.
//
// It decides which range of which table is next (the table furthest behind its cycle, its first range in key order that this cycle has not
// verified), whether scanning is allowed now (windows), and how long to rest after each range (the slowest of the policy's ceilings, the
// cycle's own pace, and a backoff while the source is busy). What always holds: a table's ranges cover every key once, from -infinity to
// +infinity, through every split, merge and restart; what is in memory was saved before; each wait has a reason, which Status shows.
// When a table fails, it is paused with the reason and tried again later, and the others go on. When the store fails, the range in
// flight is scanned again. After a kill, scanning resumes with that range.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/policy"
)

// TableStatus is one table that the policy names, as the source has it now.
type TableStatus struct {
	Name   string
	Paused string // why it can't be scanned; empty when it can
}

// Job is one range to scan.
type Job struct {
	Table    string
	Cycle    uint64
	Ranges   int // of the table
	Range    cursor.Range
	Complete bool // leave no row out, quiet or not: the range has not been read completely for max_staleness
}

// Scanned is what came of a Job.
type Scanned struct {
	// Ranges replace the job's range and cover the same keys: the range itself with its new reading, or its pieces. A piece that was
	// verified carries the job's cycle, one that has yet to be carries an older one. Ids are given by the scheduler, as RangeID does.
	Ranges     []cursor.Range
	Rows       int           // read
	Bytes      int64         // sent
	SourceTime time.Duration // for which a query was running on the source
}

// Scanner reads the source and sends what it found. Its calls come one at a time, except Sample.
type Scanner interface {
	// Tables lists the tables to verify, paused ones too.
	Tables(ctx context.Context) ([]TableStatus, error)
	// Plan cuts a table into ranges, in key order and at least one: the first begins at -infinity, the last ends at +infinity.
	Plan(ctx context.Context, table string) ([]cursor.Range, error)
	// Scan verifies one range. It returns once the message about it is durable.
	Scan(ctx context.Context, job Job) (Scanned, error)
	// Sample reads the source's oldest running transaction.
	Sample(ctx context.Context) (cursor.Sample, error)
}

// Store keeps the cursor. Save is called by one goroutine at a time.
type Store interface {
	Load(ctx context.Context) (cursor.State, error)
	Save(ctx context.Context, change cursor.Change) error
}

// Config is what New needs. Load, Samples and Log may be nil.
type Config struct {
	Policy  *policy.Policy
	Source  string // the source's identity; a cursor about another source is dropped
	Scanner Scanner
	Store   Store
	Load    LoadMeter // nil: the source is never busy
	Samples *Samples  // shared with the scanner
	Log     *slog.Logger
}

// Scheduler runs the scan. Its methods may be called from any goroutine; Run once only.
type Scheduler struct {
	source  string
	scanner Scanner
	store   Store
	meter   LoadMeter
	samples *Samples
	log     *slog.Logger

	wake   chan struct{} // the policy has changed
	saving sync.Mutex

	mu         sync.Mutex // guards what follows; only Run's goroutine and SetPolicy write it
	policy     *policy.Policy
	windows    Windows
	tables     map[string]*table
	stored     cursor.State // tables that were loaded and not yet discovered
	discovered time.Time    // zero: look now
	last       work         // the zero value before the first range
	loads      []load
	backoff    backoff
	rate       float64 // rows a second, smoothed
	waiting    Result
}

// New returns a scheduler that has done nothing yet.
func New(c Config) (*Scheduler, error) {
	if c.Policy == nil || c.Scanner == nil || c.Store == nil {
		return nil, errors.New("scheduler: Policy, Scanner and Store are required")
	}
	windows, err := NewWindows(c.Policy.Schedule.Windows)
	if err != nil {
		return nil, err
	}
	s := &Scheduler{
		source: c.Source, scanner: c.Scanner, store: c.Store, meter: c.Load, samples: c.Samples, log: c.Log,
		wake: make(chan struct{}, 1), policy: c.Policy, windows: windows, tables: map[string]*table{}, backoff: backoff{speed: 1},
	}
	if s.samples == nil {
		s.samples = new(Samples)
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

// SetPolicy takes effect at once: the wait that is under way is reckoned again.
func (s *Scheduler) SetPolicy(p *policy.Policy) error {
	windows, err := NewWindows(p.Schedule.Windows)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.policy, s.windows, s.discovered = p, windows, time.Time{}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default: // it is being woken already
	}
	return nil
}

// Result is what one step came to.
type Result struct {
	Scanned bool      // a range was scanned, or tried
	Until   time.Time // nothing happens before; the zero time for at once
	Reason  string    // why not
}

// Run scans until ctx ends and returns ctx's error, or why the cursor couldn't be loaded.
func (s *Scheduler) Run(ctx context.Context) error {
	if err := s.load(ctx); err != nil {
		return err
	}
	var sampler sync.WaitGroup
	sampler.Go(func() { s.sample(ctx) })
	defer sampler.Wait()

	retry := firstRetry
	for ctx.Err() == nil {
		result, err := s.runOnce(ctx)
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			s.log.Error("the scan can't go on and is tried again", "err", err, "in", retry)
			result = Result{Until: time.Now().Add(retry), Reason: err.Error()}
			retry = min(2*retry, lastRetry)
		} else {
			retry = firstRetry
		}
		s.mu.Lock()
		s.waiting = result
		s.mu.Unlock()
		s.sleep(ctx, result.Until)
	}
	return context.Cause(ctx)
}

func (s *Scheduler) sleep(ctx context.Context, until time.Time) {
	wait := time.Until(until)
	if until.IsZero() || wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-s.wake:
	}
}

// load takes in what the store remembers, unless it is about another source.
func (s *Scheduler) load(ctx context.Context) error {
	state, err := s.store.Load(ctx)
	if err != nil {
		return fmt.Errorf("loading the cursor: %w", err)
	}
	if state.Source != "" && state.Source != s.source {
		s.log.Warn("the cursor is about another source and is dropped", "was", state.Source, "is", s.source)
		change := cursor.Change{DroppedTables: storedNames(state), Samples: []cursor.Sample{}}
		if err := s.save(ctx, change); err != nil {
			return err
		}
		state = cursor.State{}
	}
	if err := s.save(ctx, cursor.Change{Source: s.source}); err != nil {
		return err
	}
	s.samples.restore(state.Samples)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stored = state
	return nil
}

func (s *Scheduler) save(ctx context.Context, change cursor.Change) error {
	s.saving.Lock()
	defer s.saving.Unlock()
	if err := s.store.Save(ctx, change); err != nil {
		return fmt.Errorf("saving the cursor: %w", err)
	}
	return nil
}

// sample takes samples until ctx ends.
func (s *Scheduler) sample(ctx context.Context) {
	var saved time.Time
	failing := false
	for ctx.Err() == nil {
		s.mu.Lock()
		quiet := time.Duration(s.policy.Quiet)
		s.mu.Unlock()
		sample, err := s.scanner.Sample(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			failing = true
			s.log.Warn("no sample of the source's transactions: what is written now counts as quiet late", "err", err)
		case err == nil:
			failing = false
			s.samples.add(sample, quiet+sampleSlack)
		}
		// The memory is written as a whole, so the longer it is the less often.
		if all := s.samples.all(); len(all) > 0 && time.Since(saved) >= max(10*time.Second, quiet/20) {
			saved = time.Now()
			if err := s.save(ctx, cursor.Change{Samples: all}); err != nil && ctx.Err() == nil {
				s.log.Warn("the samples are not stored", "err", err)
			}
		}
		timer := time.NewTimer(min(max(quiet/120, time.Second), 10*time.Second))
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}
