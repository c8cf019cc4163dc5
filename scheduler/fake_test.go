package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/internal/testbed/loop"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
)

// parsed returns a policy with these lines added.
func parsed(t testing.TB, lines string) *policy.Policy {
	t.Helper()
	p, _, err := policy.Parse("test", []byte("pipeline: test\ntables: [{table: public.*}]\n"+lines))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// cut returns n ranges with bounds 1, 2, …, n-1.
func cut(n int) []cursor.Range {
	out := make([]cursor.Range, n)
	for i := range n {
		if i > 0 {
			out[i].Bounds.Lo = message.Key{strconv.Itoa(i)}
		}
		if i < n-1 {
			out[i].Bounds.Hi = message.Key{strconv.Itoa(i + 1)}
		}
	}
	return out
}

type scan struct {
	at  time.Duration // since the fake began
	job Job
}

// fake is a source whose tables have a number of ranges; a scan of it takes some time and finds rows.
type fake struct {
	began time.Time
	took  time.Duration
	bytes int64
	guess int // how many times as large a table seems as it is

	mu     sync.Mutex
	rows   int
	onJob  func(Job) ([]cursor.Range, error) // nil: the range itself
	tables map[string]int                    // ranges
	paused map[string]string                 // reasons
	scans  []scan
	xmin   uint64
	missed string // a table that this publisher does not find
	blunt  bool   // this publisher can't cut tables
	news   []news // that replicas were told
	mute   bool   // they can't be told
	tries  int    // to tell them
}

func newFake(tables map[string]int) *fake {
	return &fake{began: time.Now(), tables: tables, paused: map[string]string{}, rows: 5000, bytes: 100}
}

func (f *fake) Tables(context.Context) ([]TableStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []TableStatus
	for name := range f.tables {
		out = append(out, TableStatus{name, f.paused[name]})
	}
	return out, nil
}

func (f *fake) Divide(_ context.Context, table string, most, rows int) (Division, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.tables[table]
	if n == 0 {
		return Division{}, errors.New("no permission")
	}
	d := Division{Rows: uint64(n * f.rows * max(1, f.guess))}
	pieces := max(1, min(most, n*f.rows/max(1, rows)))
	ranges := cut(n)
	for i := range pieces {
		d.Pieces = append(d.Pieces, message.Range{Lo: ranges[i*n/pieces].Bounds.Lo, Hi: ranges[(i+1)*n/pieces-1].Bounds.Hi})
	}
	return d, nil
}

func (f *fake) Plan(_ context.Context, table string, within message.Range) ([]cursor.Range, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tables[table] == 0 {
		return nil, errors.New("no permission")
	}
	var out []cursor.Range
	for _, r := range cut(f.tables[table]) {
		if (r.Bounds.Hi == nil || within.Lo == nil || number(r.Bounds.Hi) > number(within.Lo)) &&
			(within.Hi == nil || r.Bounds.Hi != nil && number(r.Bounds.Hi) <= number(within.Hi)) {
			out = append(out, r)
		}
	}
	return out, nil
}

func number(k message.Key) int {
	n, err := strconv.Atoi(k[0])
	if err != nil {
		panic(err)
	}
	return n
}

func (f *fake) Scan(ctx context.Context, job Job) (Scanned, error) {
	f.mu.Lock()
	f.scans = append(f.scans, scan{time.Since(f.began), job})
	rows, onJob := f.rows, f.onJob
	f.mu.Unlock()
	if f.took > 0 {
		select {
		case <-ctx.Done():
			return Scanned{}, ctx.Err()
		case <-time.After(f.took):
		}
	}
	r := job.Range
	r.Rows, r.VerifiedAt = uint64(rows), time.Now()
	ranges := []cursor.Range{r}
	if onJob != nil {
		var err error
		if ranges, err = onJob(job); err != nil {
			return Scanned{}, err
		}
	}
	return Scanned{Ranges: ranges, Rows: rows, Bytes: f.bytes, SourceTime: f.took}, nil
}

func (f *fake) Sample(context.Context) (cursor.Sample, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.xmin++
	return cursor.Sample{At: time.Now(), Xmin: f.xmin}, nil
}

// news is what replicas were told of a table.
type news struct {
	at     time.Duration // since the fake began
	table  string
	paused string
}

func (f *fake) Announce(_ context.Context, tables []TableStatus) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tries++
	if f.mute {
		return errors.New("no broker")
	}
	for _, t := range tables {
		f.news = append(f.news, news{time.Since(f.began).Truncate(time.Second), t.Name, t.Paused})
	}
	return nil
}

// heard takes what replicas were told since it was called last.
func (f *fake) heard() []news {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.news
	f.news = nil
	return all
}

// set changes the source, or how it can be reached.
func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fake) seen() []scan {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.scans)
}

// count is the number of scans of a table, "" for all of them.
func (f *fake) count(table string) int {
	n := 0
	for _, s := range f.seen() {
		if table == "" || s.job.Table == table {
			n++
		}
	}
	return n
}

// running starts a scheduler and returns it with what ends it.
func running(t *testing.T, c Config) (*Scheduler, func()) {
	t.Helper()
	return runningIn(t.Context(), t, c)
}

func runningIn(ctx context.Context, t *testing.T, c Config) (*Scheduler, func()) {
	t.Helper()
	if c.Store == nil {
		c.Store = cursor.Sole{Single: new(cursor.Memory)}
	}
	c.Source = "source"
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s, loop.Start(ctx, t, s.Run)
}

// after lets d pass and everything come to rest.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func wholeChain(ranges []cursor.Range) error {
	chain, stale := chainOf(ranges, everything)
	if chain == nil || len(stale) > 0 {
		return fmt.Errorf("stored ranges are no chain: %v", ranges)
	}
	return verifyChain(chain, everything)
}
