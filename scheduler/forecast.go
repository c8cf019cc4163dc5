package scheduler

import (
	"fmt"
	"math"
	"time"

	"github.com/trickle-verify/trickle/policy"
)

// What a range costs where nobody says otherwise: the benchmark's figures (bench/RESULTS.md).
const (
	SourceSecondsPerMillion = 1.2 // of one core, to digest a million rows in ranges
	thumbprintBytes         = 200 // a message of a range that agrees
	rowsOverhead            = 40  // of a row in a message, beside its values
)

// Size is what is to be verified.
type Size struct {
	Rows     int64
	RowBytes int64
	Mode     string  // policy.ModeThumbprints or policy.ModeRows
	Cost     float64 // seconds that the source takes for a million rows
}

// Forecast is what a policy comes to for so many rows, as pace goes by it.
type Forecast struct {
	Ranges   int64         // of a cycle
	Interval time.Duration // between the beginnings of two ranges, while scanning is allowed
	Reason   string        // what sets it
	Open     float64       // share of the time in which scanning is allowed

	// While scanning is allowed.
	RowsPerSecond, ReadBytesPerSecond, MessagesPerSecond, SentBytesPerSecond float64
	SourceShare                                                              float64 // of the time, in which a query of a scan is running

	// Pass is how long one over everything takes, closed windows included. A policy asks for one in Cycle; Late tells that it can't be had.
	Pass, Cycle time.Duration
	Late        bool

	// From when drift is in the replica until it is proven: on average, and at worst. Of a row that was written just before, the time that it has to be quiet comes first.
	Expected, Worst           time.Duration
	ExpectedFresh, WorstFresh time.Duration
	// Hot is the worst of a row that is never quiet.
	Hot time.Duration

	// WindowRows are verified within detect.window. FullAt is the share of rows that has to differ for a full resync, PartialAt that within one range's neighbourhood for a partial one; above 1: none comes of it.
	WindowRows        float64
	FullAt, PartialAt float64
}

// Foresee works out what one publisher, or several together, will do under a policy, from a moment on. The same arithmetic as pace: the slowest of the ceilings, the cycle
// and the source itself. Backoff, which nobody can foresee, makes it slower.
func Foresee(p *policy.Policy, s Size, now time.Time) (Forecast, error) {
	windows, err := NewWindows(p.Schedule.Windows)
	if err != nil {
		return Forecast{}, err
	}
	f := Forecast{Cycle: time.Duration(p.Schedule.Cycle), Ranges: max(1, int64(math.Ceil(float64(s.Rows)/float64(max(1, p.RangeRows)))))}
	rows := float64(s.Rows) / float64(f.Ranges)
	source := seconds(rows / 1e6 * s.Cost)
	sent := float64(thumbprintBytes)
	if s.Mode == policy.ModeRows {
		sent += rows * float64(s.RowBytes+rowsOverhead)
	}
	w := work{start: now, end: now.Add(source), rows: int(math.Round(rows)), bytes: int64(sent), source: source}
	d := ceilings(w, p.Rate, 1)
	fastest := d.later(decision{w.end, BySource, "the source: ranges are read one after the other"}) // without a cycle to spread over
	// The cycle that has the least open time in it asks for the most; the share of time that is open is taken over all of them.
	least, share := openTime(windows, now, f.Cycle)
	if share == 0 {
		return f, fmt.Errorf("no window of schedule.windows opens within %s: nothing would ever be verified", lookedOver)
	}
	f.Open = share
	even := least.Seconds() / float64(f.Ranges)
	chosen := fastest.later(decision{at: now.Add(seconds(even)), by: ByCycle, reason: fmt.Sprintf("schedule.cycle %s: spread evenly", p.Schedule.Cycle)})
	f.Interval, f.Reason = chosen.at.Sub(now), chosen.reason
	needed := fastest.at.Sub(now).Seconds() * float64(f.Ranges) // in float64: it may be longer than a Duration holds
	f.Late = needed > least.Seconds()
	f.Pass = f.Cycle
	if f.Late {
		f.Pass = seconds(math.Max(needed/f.Open, f.Cycle.Seconds()))
	}
	per := f.Interval.Seconds()
	f.RowsPerSecond, f.MessagesPerSecond, f.SentBytesPerSecond = rows/per, 1/per, sent/per
	f.ReadBytesPerSecond = f.RowsPerSecond * float64(s.RowBytes)
	f.SourceShare = math.Min(1, source.Seconds()/per)
	f.detect(p)
	f.WindowRows = math.Min(f.RowsPerSecond*time.Duration(p.Detect.Window).Seconds(), float64(s.Rows))
	f.FullAt = passedAt(p.Resync.Full, f.WindowRows)
	f.PartialAt = passedAt(p.Resync.Partial, math.Min(f.WindowRows, neighbourhood*rows))
	return f, nil
}

// neighbourhood is a range and the two that touch it.
const neighbourhood = 3

// passedAt is the share of so many verified rows that has to differ for a threshold to be passed.
func passedAt(t policy.Threshold, rows float64) float64 {
	at := math.Inf(1)
	if t.Discrepancies > 0 && rows > 0 {
		at = float64(t.Discrepancies) / rows
	}
	if t.Ratio > 0 && rows >= float64(t.MinRows) {
		at = math.Min(at, float64(t.Ratio))
	}
	return at
}

// lookedOver is what windows are looked at over: of those that anybody writes, each repeats within it.
const lookedOver = 4 * 7 * 24 * time.Hour

// openTime is how long scanning is allowed within a cycle at the least, whenever it begins, and the share of all time in which it is.
func openTime(w Windows, now time.Time, cycle time.Duration) (least time.Duration, share float64) {
	from := now.UTC().Truncate(24 * time.Hour)
	stretch := max(lookedOver, cycle)
	share = w.Between(from, from.Add(stretch)).Seconds() / stretch.Seconds()
	least = cycle
	if len(w.windows) == 0 {
		return least, share
	}
	for at := from; at.Before(from.Add(lookedOver)); at = at.Add(time.Hour) {
		least = min(least, w.Between(at, at.Add(cycle)))
	}
	return least, share
}

// detect is how long drift stays unseen: each row's turn comes once in a pass, at a time that has nothing to do with the drift; then a suspect is looked at again.
func (f *Forecast) detect(p *policy.Policy) {
	again := time.Duration(p.Detect.Confirm.Delay)
	quiet := time.Duration(p.Quiet)
	f.Expected, f.Worst = f.Pass/2+again, f.Pass+again
	f.ExpectedFresh, f.WorstFresh = quiet+f.Expected, quiet+f.Worst
	f.Hot = time.Duration(p.MaxStaleness) + f.Pass + again
}
