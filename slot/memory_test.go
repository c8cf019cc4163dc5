package slot

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/postgres"
)

func at(s int) time.Time {
	return time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(s) * time.Second)
}

// Whatever is logged and however the clock is set, no transaction that committed before the time that is claimed lies above the position.
func TestMemoryClaimsNoMoreThanIsTrue(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		type commit struct {
			at  time.Time
			lsn uint64 // where its record ends
		}
		var m memory
		var commits []commit
		clock, end := 0, uint64(100)
		steps := map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) { clock += rapid.IntRange(0, 5).Draw(t, "seconds") },
			"clock is set": func(t *rapid.T) {
				clock = max(0, clock-rapid.IntRange(0, 20).Draw(t, "back"))
				m.add(postgres.Tip{At: at(clock), LSN: end, Timeline: 1}) // that it was set back by less than the time between two looks would go unnoticed
			},
			"commit": func(t *rapid.T) {
				end += rapid.Uint64Range(1, 10).Draw(t, "bytes")
				commits = append(commits, commit{at(clock), end})
			},
			"other log": func(t *rapid.T) { end += rapid.Uint64Range(0, 10).Draw(t, "bytes") },
			"look":      func(*rapid.T) { m.add(postgres.Tip{At: at(clock), LSN: end, Timeline: 1}) },
			"claim": func(t *rapid.T) {
				m.add(postgres.Tip{At: at(clock), LSN: end, Timeline: 1}) // as Look does
				confirmed := rapid.Uint64Range(90, end).Draw(t, "confirmed")
				through, ok := m.before(confirmed)
				if !ok {
					return
				}
				if through.After(at(clock)) {
					t.Fatalf("claims the future: %s, it is %s", through, at(clock))
				}
				for _, c := range commits {
					if c.at.Before(through) && c.lsn > confirmed {
						t.Fatalf("confirmed up to %d is said to hold all before %s, and not a commit at %s that ends at %d", confirmed, through, c.at, c.lsn)
					}
				}
			},
		}
		t.Repeat(steps)
	})
}

func TestMemory(t *testing.T) {
	t.Parallel()
	tip := func(s int, lsn uint64, timeline uint32) postgres.Tip {
		return postgres.Tip{At: at(s), LSN: lsn, Timeline: timeline}
	}
	for name, c := range map[string]struct {
		tips   []postgres.Tip
		lsn    uint64
		want   int // seconds
		absent bool
	}{
		"nothing yet":               {nil, 5, 0, true},
		"older than all":            {[]postgres.Tip{tip(1, 10, 1)}, 9, 0, true},
		"exactly there":             {[]postgres.Tip{tip(1, 10, 1), tip(2, 20, 1)}, 10, 1, false},
		"between":                   {[]postgres.Tip{tip(1, 10, 1), tip(2, 20, 1)}, 19, 1, false},
		"nothing is logged":         {[]postgres.Tip{tip(1, 10, 1), tip(2, 10, 1), tip(9, 10, 1)}, 10, 9, false},
		"told in the wrong order":   {[]postgres.Tip{tip(1, 10, 1), tip(3, 30, 1), tip(2, 20, 1)}, 30, 3, false},
		"the clock is set back":     {[]postgres.Tip{tip(1, 10, 1), tip(30, 20, 1), tip(2, 30, 1)}, 20, 1, false},
		"after a failover":          {[]postgres.Tip{tip(1, 10, 1), tip(2, 20, 2)}, 10, 0, true},
		"a crash that lost the end": {[]postgres.Tip{tip(1, 10, 1), tip(2, 20, 1), tip(3, 15, 1)}, 14, 0, true},
	} {
		var m memory
		for _, t := range c.tips {
			m.add(t)
		}
		got, ok := m.before(c.lsn)
		if ok == c.absent || ok && !got.Equal(at(c.want)) {
			t.Errorf("%s: %s, %t", name, got, ok)
		}
	}
}

// Memory is bounded, and what is left out of it only makes it claim less.
func TestMemoryThins(t *testing.T) {
	t.Parallel()
	var m memory
	const n = 10 * mostTips
	for i := range n {
		m.add(postgres.Tip{At: at(i), LSN: uint64(10 * i), Timeline: 1})
	}
	if len(m.tips) > mostTips {
		t.Errorf("%d tips", len(m.tips))
	}
	for i := range n {
		if got, ok := m.before(uint64(10 * i)); !ok || got.After(at(i)) {
			t.Fatalf("%d: %s, %t", i, got, ok)
		}
	}
	if got, _ := m.before(10 * (n - 100)); !got.Equal(at(n - 100)) {
		t.Errorf("what is new is remembered as %s, want %s", got, at(n-100))
	}
}
