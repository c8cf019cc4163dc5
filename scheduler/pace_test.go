package scheduler

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/policy"
)

func TestCyclePacing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.a": 10})
		f.took = 100 * time.Millisecond
		s, _ := running(t, Config{Policy: parsed(t, "schedule: {cycle: 10s}"), Scanner: f})
		after(999 * time.Millisecond)
		if n := f.count(""); n != 1 {
			t.Errorf("just before the tick: %d scans", n)
		}
		if st := s.Status(); !strings.HasPrefix(st.Waiting, "cycle") || st.Tables[0].Done != 1 || st.Tables[0].Ranges != 10 {
			t.Errorf("status: %+v", st)
		}
		after(time.Millisecond)
		if n := f.count(""); n != 2 {
			t.Errorf("at the tick: %d scans", n)
		}
		after(8 * time.Second)
		if n := f.count(""); n != 10 {
			t.Errorf("after 9 s: %d scans", n)
		}
		after(999 * time.Millisecond)
		if n := f.count(""); n != 10 {
			t.Errorf("just before the next cycle: %d scans", n)
		}
		after(time.Millisecond)
		if scans := f.seen(); len(scans) != 11 || scans[10].job.Cycle != 2 || scans[9].job.Cycle != 1 {
			t.Errorf("the next cycle: %+v", scans)
		}
	})
}

func TestCeilings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		lines, reason string
		interval      time.Duration
	}{
		{"rate: {rows_per_second: 1000}", "rate.rows_per_second 1000", 5 * time.Second},
		{"rate: {bytes_per_second: 10B}", "rate.bytes_per_second 10 B", 10 * time.Second},
		{"rate: {source_share: 10%}", "rate.source_share 10%", time.Second},
		{"rate: {rows_per_second: 1000, bytes_per_second: 10B, source_share: 10%}", "rate.bytes_per_second 10 B", 10 * time.Second},
	} {
		t.Run(c.lines, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFake(map[string]int{"public.a": 100})
				f.took = 100 * time.Millisecond
				s, _ := running(t, Config{Policy: parsed(t, "schedule: {cycle: 1s}\n"+c.lines), Scanner: f})
				after(c.interval - time.Millisecond)
				if n := f.count(""); n != 1 {
					t.Errorf("just before the tick: %d scans", n)
				}
				if st := s.Status(); st.Waiting != c.reason {
					t.Errorf("waiting because of %q", st.Waiting)
				}
				after(time.Millisecond)
				if n := f.count(""); n != 2 {
					t.Errorf("at the tick: %d scans", n)
				}
			})
		})
	}
}

// A cycle that takes longer than it should is followed by the next at once, and rests nowhere.
func TestLateCycle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.a": 4})
		f.took = time.Second
		running(t, Config{Policy: parsed(t, "schedule: {cycle: 1s}"), Scanner: f})
		after(8*time.Second + 500*time.Millisecond)
		if scans := f.seen(); len(scans) != 9 || scans[8].job.Cycle != 3 {
			t.Errorf("%d scans, the last %+v", len(scans), scans[len(scans)-1])
		}
	})
}

func TestWindowsHoldTheScan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // time begins at midnight UTC
		f := newFake(map[string]int{"public.a": 1000})
		f.took = time.Second
		s, _ := running(t, Config{Policy: parsed(t, `schedule: {cycle: 1s, windows: [{start: "0 22 * * *", for: 1m}]}`), Scanner: f})
		after(22*time.Hour - time.Millisecond)
		if n := f.count(""); n != 0 {
			t.Errorf("%d scans while the window is closed", n)
		}
		if st := s.Status(); !strings.HasPrefix(st.Waiting, "window closed until 2000-01-01T22:00:00Z") {
			t.Errorf("waiting because of %q", st.Waiting)
		}
		after(time.Millisecond)
		if n := f.count(""); n != 1 {
			t.Errorf("%d scans as the window opens", n)
		}
		after(time.Hour)
		if n := f.count(""); n != 60 {
			t.Errorf("%d scans in a window of 60 s", n)
		}
	})
}

func TestReloadWakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.a": 100})
		s, _ := running(t, Config{Policy: parsed(t, "rate: {rows_per_second: 1}"), Scanner: f})
		after(time.Minute)
		if n := f.count(""); n != 1 {
			t.Fatalf("%d scans", n)
		}
		if err := s.SetPolicy(parsed(t, "schedule: {cycle: 1s}\nrate: {rows_per_second: 100}")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := f.count(""); n != 2 {
			t.Errorf("%d scans after the reload", n)
		}
	})
}

// busy is a source with a latency.
type busy struct{ latency atomic.Int64 }

func (b *busy) SourceLoad(context.Context) (Load, error) {
	return Load{Latency: time.Duration(b.latency.Load())}, nil
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.a": 100})
		f.took = 100 * time.Millisecond
		b := new(busy)
		b.latency.Store(int64(80 * time.Millisecond))
		s, _ := running(t, Config{Policy: parsed(t, "schedule: {cycle: 1s}\nbackoff: {source_latency: 50ms}"), Scanner: f, Load: b})
		after(time.Minute)
		was := f.count("")
		after(time.Minute)
		if n := f.count("") - was; n < 8 || n > 11 { // 100 ms of work every 6.4 s
			t.Errorf("%d scans in a minute of a busy source", n)
		}
		if st := s.Status(); st.Waiting != "source busy: latency 80ms is above 50ms" || st.Speed != slowest {
			t.Errorf("status: %q at speed %v", st.Waiting, st.Speed)
		}
		b.latency.Store(int64(time.Millisecond))
		after(time.Minute)
		was = f.count("")
		after(time.Minute)
		if n := f.count("") - was; n < 590 {
			t.Errorf("%d scans in a minute of an idle source", n)
		}
	})
}

func TestBusyReasons(t *testing.T) {
	t.Parallel()
	limits := policy.Backoff{ReplicationLag: policy.Duration(time.Second), ActiveSessions: 4}
	for _, c := range []struct {
		l    Load
		err  error
		want string
	}{
		{Load{Latency: time.Hour, ReplicationLag: time.Second, ActiveSessions: 4}, nil, ""},
		{Load{ReplicationLag: 2 * time.Second}, nil, "replication lag 2s is above 1s"},
		{Load{ActiveSessions: 5}, nil, "5 active sessions are more than 4"},
		{Load{}, errors.New("timeout"), "its load is unknown: timeout"},
	} {
		if got := busyWith(limits, c.l, c.err); got != c.want {
			t.Errorf("%+v: %q, want %q", c.l, got, c.want)
		}
	}
}
