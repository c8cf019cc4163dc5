package scheduler

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/cursor"
)

// wantNews takes what replicas were told since it was called last.
func (f *fake) wantNews(t *testing.T, when string, want ...string) {
	t.Helper()
	var got []string
	for _, n := range f.heard() {
		got = append(got, fmt.Sprintf("%s: %s", n.table, n.paused))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s replicas were told %q, want %q", when, got, want)
	}
}

// Replicas are told that a table is not scanned when that begins, changes and ends, and once more in a cycle.
func TestReplicasAreToldOfPauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.on": 2, "public.off": 2})
		f.paused["public.off"] = "it has no key"
		store := cursor.Sole{Single: new(cursor.Memory)}
		c := Config{Policy: parsed(t, "schedule: {cycle: 10m}\n"), Scanner: f, Store: store}
		_, stop := running(t, c)
		after(5 * time.Minute)
		f.wantNews(t, "at first", "public.off: it has no key")
		after(6 * time.Minute)
		f.wantNews(t, "a cycle later", "public.off: it has no key")
		f.set(func() { f.paused["public.off"] = "no right to it" })
		after(time.Minute)
		f.wantNews(t, "of the other reason", "public.off: no right to it")
		f.set(func() { f.paused["public.off"] = "" })
		after(time.Minute)
		f.wantNews(t, "of the end", "public.off: ")
		after(time.Hour)
		f.wantNews(t, "later")

		// It is mended, or left out of the policy, while no publisher runs.
		f.set(func() { f.paused["public.off"], f.paused["public.on"] = "it has no key", "it has none either" })
		after(time.Minute)
		f.wantNews(t, "again", "public.off: it has no key", "public.on: it has none either")
		stop()
		f.set(func() { delete(f.tables, "public.off"); f.paused["public.on"] = "" })
		_, stop = running(t, c)
		after(time.Minute)
		f.wantNews(t, "by the next process", "public.off: ", "public.on: ")

		// One that can't tell does so when it can, and scans all the while.
		f.set(func() { f.paused["public.on"], f.mute = "it has no key", true; f.tables["public.other"] = 2 })
		after(20 * time.Minute)
		f.wantNews(t, "by one that can't")
		if n := f.count("public.other"); n < 2 || f.tries > 40 {
			t.Errorf("meanwhile it scanned %d ranges, and tried to tell %d times", n, f.tries)
		}
		f.set(func() { f.mute = false })
		after(2 * time.Minute)
		f.wantNews(t, "by one that can again", "public.on: it has no key")
		stop()
	})
}

// A scan that fails once is no news; one that fails again and again is.
func TestReplicasAreToldOfLastingFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.t": 2})
		failures := 3
		f.onJob = func(j Job) ([]cursor.Range, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if failures--; failures >= 0 {
				return nil, errors.New("permission denied")
			}
			j.Range.VerifiedAt = time.Now()
			return []cursor.Range{j.Range}, nil
		}
		_, stop := running(t, Config{Policy: parsed(t, "schedule: {cycle: 1m}\n"), Scanner: f})
		after(90 * time.Second)
		f.wantNews(t, "of a passing failure")
		f.set(func() { failures = 100 })
		after(3 * time.Minute)
		if told := f.heard(); len(told) < 2 || len(told) > 4 || told[0].paused != "permission denied" {
			t.Errorf("of a lasting failure replicas were told %v", told)
		}
		f.set(func() { failures = 0 })
		after(2 * time.Minute)
		if told := f.heard(); len(told) == 0 || told[len(told)-1].paused != "" {
			t.Errorf("of its end replicas were told %v", told)
		}
		stop()
	})
}

// Of several publishers one tells, and another one when that is gone.
func TestOnePublisherTellsReplicas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string]int{"public.never": 2, "public.t": 40})
		f.paused["public.never"] = "it has no key"
		c := newCrew(t, f, "schedule: {cycle: 10m}\nrange_rows: 5000\n")
		members := []*member{c.hire(), c.hire(), c.hire()}
		after(5 * time.Minute)
		f.wantNews(t, "at first", "public.never: it has no key")
		f.set(func() { f.paused["public.t"] = "no right to it" }) // each of them scans some of it
		after(time.Minute)
		f.wantNews(t, "of a table that all scan", "public.t: no right to it")
		for _, m := range members {
			if shares, err := m.store.Shares(); err == nil && shares.Mine[cursor.BoardShare] != 0 {
				m.stop()
				m.leave()
				break
			}
		}
		after(time.Minute)
		told := map[string]bool{}
		for _, n := range f.heard() {
			told[n.table] = true
		}
		if !told["public.never"] {
			t.Errorf("whoever has the first share now told %v", told)
		}
	})
}
