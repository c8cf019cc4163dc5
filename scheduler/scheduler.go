// Package scheduler decides what to scan next, when, and how fast.
//
// It decides which range of which table is next (the span furthest behind its cycle, its first range in key order that this cycle has not
// verified), whether scanning is allowed now (windows), and how long to rest after each range (the slowest of the policy's ceilings, the
// cycle's own pace, and a backoff while the source is busy).
//
// Several publishers divide a table among them: a plan cuts its key into spans, and whoever owns a span's share scans it. The owner of the first
// share makes the plans. A table's next cycle begins when every span has ended the last one, so that cycles count for the table.
//
// What always holds: a table's spans cover every key once, from -infinity to +infinity, in each version of its plan, and a span's ranges cover
// the span, through every split, merge, restart and change of owner; what is in memory was saved before; a range is scanned by whoever owns
// its span, and twice in a cycle only where an owner died or was cut off between sending and saving; the ceilings are those of all publishers
// together; each wait has a reason, which Status shows; of a table that is not scanned one publisher tells the replicas why. When a span fails, it is paused with the reason and tried again later, and the
// others go on. When the store fails, the range in flight is scanned again. After a kill, scanning resumes with that range.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/measure"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/telemetry/pulse"
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
	// Divide cuts a table into pieces of about equal size by a sample of it: at most most, of at least about rows rows each.
	Divide(ctx context.Context, table string, most, rows int) (Division, error)
	// Plan cuts a piece of a table into ranges, in key order and at least one, that cover it.
	Plan(ctx context.Context, table string, within message.Range) ([]cursor.Range, error)
	// Scan verifies one range. It returns once the message about it is durable.
	Scan(ctx context.Context, job Job) (Scanned, error)
	// Announce tells replicas why tables are not scanned, or, without a reason, that they are. It returns once that is durable.
	Announce(ctx context.Context, tables []TableStatus) error
	// Sample reads the source's oldest running transaction.
	Sample(ctx context.Context) (cursor.Sample, error)
}

// Division is how a table may be cut.
type Division struct {
	Rows   uint64 // as many as there seem to be
	Pieces []message.Range
}

// Store keeps the cursor, in shares. Save is called by one goroutine at a time.
type Store interface {
	// Shares says how the work is divided now. It costs nothing.
	Shares() (cursor.Shares, error)
	// Load takes a share over, or fails with cursor.ErrNotMine.
	Load(ctx context.Context, share int) (cursor.State, error)
	// Save changes a share that was loaded.
	Save(ctx context.Context, share int, change cursor.Change) error
	// Follow returns what is known of everybody's work.
	Follow(ctx context.Context) (cursor.Board, error)
	// Report tells everybody of ours.
	Report(ctx context.Context, reports ...cursor.Report) error
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

	mu         sync.Mutex // guards what follows; only Run's goroutine, SetPolicy and Beside write it
	policy     *policy.Policy
	windows    Windows
	tables     map[string]*table
	discovered time.Time // zero: look now
	shares     cursor.Shares
	held       map[int]*share // that were loaded
	spans      map[spanID]*span
	unsettled  bool // spans may not be those of the plans and shares
	board      cursor.Board
	followed   time.Time
	part       float64 // of everybody's work that is ours
	last       work    // the zero value before the first range
	loads      []load
	backoff    backoff
	rate       float64 // rows a second, smoothed
	waiting    Result
	told       map[string]told // to replicas, of the tables that are ours to tell of
	telling    trial

	beside      *Beside   // nil: none is under way
	heard       time.Time // when another publisher was last heard to be building
	besideUntil time.Time // until then what is over by now has its share
	besideWaits string

	spent  map[string]*spending     // by table, in all since the process began
	waited map[string]time.Duration // by what it was for
	labels measure.Tables
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
		wake: make(chan struct{}, 1), policy: c.Policy, windows: windows, backoff: backoff{speed: 1},
		tables: map[string]*table{}, held: map[int]*share{}, spans: map[spanID]*span{}, told: map[string]told{}, part: 1,
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
	By      string    // what holds it: one of By…
	Reason  string    // why not
}

// Run scans until ctx ends and returns ctx's error.
func (s *Scheduler) Run(ctx context.Context) error {
	ctx, end := pulse.Loop(ctx, "the scan")
	defer end()
	var sampler sync.WaitGroup
	sampler.Go(func() { s.sample(ctx) })
	defer sampler.Wait()

	retry := firstRetry
	for ctx.Err() == nil {
		pulse.Beat(ctx)
		result, err := s.runOnce(ctx)
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			s.log.Error("the scan can't go on and is tried again", "err", err, "retry_in", retry)
			result = Result{Until: time.Now().Add(retry), By: ByFailure, Reason: err.Error()}
			retry = min(2*retry, lastRetry)
		} else {
			retry = firstRetry
		}
		s.mu.Lock()
		s.waiting = result
		if !result.Until.IsZero() && s.shares.Of > 1 { // others may have something to tell
			result.Until = earliest(result.Until, s.followed.Add(followEvery))
		}
		changed := s.shares.Changed
		s.mu.Unlock()
		asleep := time.Now()
		s.sleep(ctx, result.Until, changed)
		s.rested(result.By, time.Since(asleep))
	}
	return context.Cause(ctx)
}

func (s *Scheduler) sleep(ctx context.Context, until time.Time, changed <-chan struct{}) {
	wait := time.Until(until)
	if until.IsZero() || wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-s.wake:
		case <-changed:
		case <-beat.C: // a window may be closed for days
			pulse.Beat(ctx)
			continue
		}
		return
	}
}

// beatEvery is how often a scheduler that rests shows that it is alive.
const beatEvery = 30 * time.Second

func (s *Scheduler) save(ctx context.Context, share int, change cursor.Change) error {
	defer pulse.Away(ctx)() // whoever saves now may wait for a broker that is away
	s.saving.Lock()
	defer s.saving.Unlock()
	if err := s.store.Save(ctx, share, change); err != nil {
		return fmt.Errorf("saving the cursor: %w", err)
	}
	return nil
}

// sample takes samples until ctx ends.
func (s *Scheduler) sample(ctx context.Context) {
	ctx, end := pulse.Loop(ctx, "sampling the source's transactions")
	defer end()
	var saved time.Time
	failing := false
	for ctx.Err() == nil {
		pulse.Beat(ctx)
		s.mu.Lock()
		quiet := time.Duration(s.policy.Quiet)
		shares := slices.Sorted(maps.Keys(s.held))
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
		// The memory is written as a whole, so the longer it is the less often; and into one share, as it serves for any.
		if all := s.samples.all(); len(all) > 0 && len(shares) > 0 && time.Since(saved) >= max(10*time.Second, quiet/20) {
			saved = time.Now()
			if err := s.save(ctx, shares[0], cursor.Change{Samples: all}); err != nil && ctx.Err() == nil && !errors.Is(err, cursor.ErrNotMine) {
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
