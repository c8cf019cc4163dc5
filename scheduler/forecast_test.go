package scheduler

import (
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/policy"
)

func TestForesee(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	const cycle = "schedule: {cycle: 24h}\n"
	for _, c := range []struct {
		name, lines string
		size        Size
		want        Forecast // what is not zero is compared
		reason      string
	}{
		{"a cycle sets the pace", cycle, Size{Rows: 8_640_000, RowBytes: 100},
			Forecast{Ranges: 1728, Interval: 50 * time.Second, Open: 1, RowsPerSecond: 100, ReadBytesPerSecond: 10_000, MessagesPerSecond: 0.02, SentBytesPerSecond: 4, SourceShare: 0.00012, Pass: 24 * time.Hour,
				Expected: 12*time.Hour + 5*time.Second, Worst: 24*time.Hour + 5*time.Second, ExpectedFresh: 12*time.Hour + 605*time.Second, WorstFresh: 24*time.Hour + 605*time.Second, Hot: 8*24*time.Hour + 5*time.Second,
				WindowRows: 60_000, FullAt: 500. / 60_000, PartialAt: 20. / 15_000}, "schedule.cycle"},
		{"a window", cycle[:len(cycle)-2] + `, windows: [{start: "0 22 * * *", for: 8h}]}`, Size{Rows: 8_640_000},
			Forecast{Ranges: 1728, Open: 1. / 3, RowsPerSecond: 300, Pass: 24 * time.Hour}, "schedule.cycle"},
		{"a ceiling that the cycle stays below", cycle + "rate: {rows_per_second: 200}", Size{Rows: 8_640_000}, Forecast{RowsPerSecond: 100, Pass: 24 * time.Hour}, "schedule.cycle"},
		{"a ceiling that is too low for the cycle", cycle + "rate: {rows_per_second: 50}", Size{Rows: 8_640_000}, Forecast{Interval: 100 * time.Second, RowsPerSecond: 50, Pass: 48 * time.Hour, Late: true, Expected: 24*time.Hour + 5*time.Second}, "rate.rows_per_second 50"},
		{"and under a window", cycle[:len(cycle)-2] + `, windows: [{start: "0 0 * * *", for: 12h}]}` + "\nrate: {rows_per_second: 50}", Size{Rows: 8_640_000}, Forecast{Open: 0.5, RowsPerSecond: 50, Pass: 96 * time.Hour, Late: true}, "rate.rows_per_second 50"},
		{"a share of the source", cycle + "rate: {source_share: 1%}", Size{Rows: 8_640_000_000}, Forecast{Interval: 600 * time.Millisecond, SourceShare: 0.01, Late: true}, "rate.source_share 1%"},
		{"the source itself", cycle, Size{Rows: 864_000_000_000}, Forecast{Interval: 6 * time.Millisecond, SourceShare: 1, Late: true}, "the source"},
		{"bytes of rows", cycle + "rate: {bytes_per_second: 1kB}", Size{Rows: 8_640_000, RowBytes: 160, Mode: policy.ModeRows}, Forecast{SentBytesPerSecond: 1000, Late: true}, "rate.bytes_per_second"},
		{"one range", "schedule: {cycle: 1h}", Size{Rows: 36}, Forecast{Ranges: 1, Interval: time.Hour, RowsPerSecond: 0.01, Pass: time.Hour, WindowRows: 6}, "schedule.cycle"},
		{"nothing", cycle, Size{}, Forecast{Ranges: 1, Interval: 24 * time.Hour}, "schedule.cycle"},
	} {
		if c.size.Cost == 0 {
			c.size.Cost = SourceSecondsPerMillion
		}
		f, err := Foresee(parsed(t, c.lines), c.size, now)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !strings.HasPrefix(f.Reason, c.reason) || f.Late != c.want.Late {
			t.Errorf("%s: late %t, %q", c.name, f.Late, f.Reason)
		}
		for what, v := range map[string][2]float64{
			"ranges": {float64(f.Ranges), float64(c.want.Ranges)}, "interval": {f.Interval.Seconds(), c.want.Interval.Seconds()}, "open": {f.Open, c.want.Open}, "rows a second": {f.RowsPerSecond, c.want.RowsPerSecond},
			"read": {f.ReadBytesPerSecond, c.want.ReadBytesPerSecond}, "messages": {f.MessagesPerSecond, c.want.MessagesPerSecond}, "sent": {f.SentBytesPerSecond, c.want.SentBytesPerSecond}, "share": {f.SourceShare, c.want.SourceShare},
			"pass": {f.Pass.Seconds(), c.want.Pass.Seconds()}, "expected": {f.Expected.Seconds(), c.want.Expected.Seconds()}, "worst": {f.Worst.Seconds(), c.want.Worst.Seconds()}, "fresh": {f.ExpectedFresh.Seconds(), c.want.ExpectedFresh.Seconds()},
			"worst fresh": {f.WorstFresh.Seconds(), c.want.WorstFresh.Seconds()}, "hot": {f.Hot.Seconds(), c.want.Hot.Seconds()}, "window": {f.WindowRows, c.want.WindowRows}, "full": {f.FullAt, c.want.FullAt}, "partial": {f.PartialAt, c.want.PartialAt},
		} {
			if v[1] != 0 && math.Abs(v[0]-v[1]) > 0.01*v[1] {
				t.Errorf("%s: %s is %v, want %v", c.name, what, v[0], v[1])
			}
		}
	}
	if _, err := Foresee(parsed(t, `schedule: {cycle: 24h, windows: [{start: "0 0 1 6 *", for: 1h}]}`), Size{Rows: 1}, now); err == nil || !strings.Contains(err.Error(), "no window") {
		t.Errorf("a window that never opens in time: %v", err)
	}
	// Whenever it is asked, the answer is one: of windows that do not repeat within a cycle too.
	for _, lines := range []string{`schedule: {cycle: 12h, windows: [{start: "0 22 * * *", for: 8h}]}` + "\nrate: {rows_per_second: 4000}", `schedule: {windows: [{start: "0 3 * * 6", for: 10h}]}`} {
		var first Forecast
		for hour := 0; hour < 24*7; hour += 7 {
			f, err := Foresee(parsed(t, lines), Size{Rows: 100_000_000, Cost: SourceSecondsPerMillion}, now.Add(time.Duration(hour)*time.Hour+13*time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			if hour == 0 {
				first = f
			}
			if !f.Late || math.Abs(f.Pass.Seconds()-first.Pass.Seconds()) > 1 {
				t.Fatalf("%s: %d hours on a pass takes %s, before %s", lines, hour, f.Pass, first.Pass)
			}
		}
	}
	if f, err := Foresee(parsed(t, "rate: {rows_per_second: 100}"), Size{Rows: 1e12, Cost: SourceSecondsPerMillion}, now); err != nil || !f.Late || f.Pass < 300*24*time.Hour {
		t.Errorf("what takes centuries: %+v, %v", f, err)
	}
}

// What is foreseen is what the scheduler does.
func TestWhatIsForeseenComes(t *testing.T) {
	t.Parallel()
	for _, lines := range []string{"schedule: {cycle: 100s}", "schedule: {cycle: 100s}\nrate: {rows_per_second: 250}", "schedule: {cycle: 100s}\nrate: {source_share: 5%}", "schedule: {cycle: 5s}"} {
		t.Run(lines, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFake(map[string]int{"public.a": 10})
				f.took = 2 * time.Second
				p := parsed(t, lines)
				running(t, Config{Policy: p, Scanner: f})
				want, err := Foresee(p, Size{Rows: 10 * 5000, Cost: 400}, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				after(3*want.Pass - time.Millisecond)
				scans := f.seen()
				if len(scans) != 30 {
					t.Errorf("%d scans in three passes of %s", len(scans), want.Pass)
				}
				for i, s := range scans {
					if due := time.Duration(i) * want.Interval; (s.at - due).Abs() > time.Duration(i+1)*time.Millisecond {
						t.Fatalf("scan %d began at %s and not at %s", i, s.at, due)
					}
				}
			})
		})
	}
}
