package gate

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func at(s int) time.Time {
	return time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(s) * time.Second)
}

// The world as the gate sees it through slot and group: transactions commit at the source, CDC's reader brings them in commit order to the partitions of several
// topics, and then confirms them; the sink applies each partition at a pace of its own and commits its offsets now and then. Whatever the interleaving, what the
// gate takes for applied has been applied.
func TestMarksClaimNoMoreThanIsApplied(t *testing.T) {
	t.Parallel()
	type event struct {
		tx     int // its number
		offset int64
	}
	rapid.Check(t, func(t *rapid.T) {
		partitions := []Partition{{"a", 0}, {"a", 1}, {"b", 0}}
		var (
			now       int
			commits   []time.Time   // of transaction i
			of        [][]Partition // the partitions that transaction i has events for
			logs      = map[Partition][]event{}
			ends      = map[Partition]int64{}
			produced  int                     // transactions
			confirmed int                     // of these, by CDC's reader to the slot
			applied   = map[Partition]int64{} // offset behind the last record that is in the replica
			committed = map[Partition]int64{}
			through   time.Time // as the publisher says
			m         marks
		)
		for _, p := range partitions {
			ends[p], applied[p], committed[p] = 0, 0, 0
		}
		// left is the offset of the first record that is not committed yet: markers have none.
		left := func(p Partition) int64 {
			for _, e := range logs[p] {
				if e.offset >= committed[p] {
					return e.offset
				}
			}
			return ends[p]
		}
		t.Repeat(map[string]func(*rapid.T){
			"commit": func(t *rapid.T) {
				now++
				commits = append(commits, at(now))
				of = append(of, rapid.SliceOfN(rapid.SampledFrom(partitions), 1, 3).Draw(t, "rows"))
			},
			"produce": func(t *rapid.T) {
				if produced == len(commits) {
					t.Skip("nothing to produce")
				}
				for _, p := range of[produced] {
					logs[p] = append(logs[p], event{produced, ends[p]})
					ends[p]++
				}
				produced++
			},
			"marker":  func(t *rapid.T) { ends[rapid.SampledFrom(partitions).Draw(t, "partition")]++ },
			"confirm": func(t *rapid.T) { confirmed = rapid.IntRange(confirmed, produced).Draw(t, "confirmed") },
			"publisher looks": func(t *rapid.T) {
				now++
				through = at(now)
				if confirmed < len(commits) {
					through = commits[confirmed] // all before the first that is not confirmed
				}
			},
			"apply": func(t *rapid.T) {
				p := rapid.SampledFrom(partitions).Draw(t, "partition")
				applied[p] = rapid.Int64Range(applied[p], ends[p]).Draw(t, "applied")
			},
			"commit offsets": func(t *rapid.T) {
				p := rapid.SampledFrom(partitions).Draw(t, "partition")
				committed[p] = rapid.Int64Range(committed[p], applied[p]).Draw(t, "committed")
			},
			"detector looks": func(t *rapid.T) {
				next, done := mark{at: at(now), through: through, ends: map[Partition]int64{}}, map[Partition]int64{}
				// What the group committed may be older than what the log ends with: reading takes time.
				for _, p := range partitions {
					next.ends[p], done[p] = ends[p], left(p)
				}
				m.add(next, done)
			},
			"": func(t *rapid.T) {
				for tx, when := range commits {
					if !when.Before(m.passed.through) {
						continue
					}
					if tx >= produced {
						t.Fatalf("transaction %d is taken for applied, and is not even in a topic", tx)
					}
					for _, p := range of[tx] {
						for _, e := range logs[p] {
							if e.tx == tx && e.offset >= applied[p] {
								t.Fatalf("transaction %d is taken for applied, and its record %v[%d] is not", tx, p, e.offset)
							}
						}
					}
				}
			},
		})
	})
}

func TestMarks(t *testing.T) {
	t.Parallel()
	a, b := Partition{"t", 0}, Partition{"t", 1}
	reading := func(s int, endA, endB, doneA, doneB int64) func(*marks) {
		return func(m *marks) {
			m.add(mark{at: at(s), through: at(s - 1), ends: map[Partition]int64{a: endA, b: endB}}, map[Partition]int64{a: doneA, b: doneB})
		}
	}
	one := func(s int, end, done int64) func(*marks) {
		return func(m *marks) {
			m.add(mark{at: at(s), through: at(s - 1), ends: map[Partition]int64{a: end}}, map[Partition]int64{a: done})
		}
	}
	for name, c := range map[string]struct {
		readings []func(*marks)
		passed   int // seconds; negative: none
	}{
		"nothing left":                       {[]func(*marks){reading(1, 5, 5, 5, 5)}, 1},
		"one partition is behind":            {[]func(*marks){reading(1, 5, 5, 5, 4)}, -1},
		"it has come up since":               {[]func(*marks){reading(1, 5, 5, 5, 4), reading(2, 9, 9, 6, 5)}, 1},
		"the newest that it passed":          {[]func(*marks){reading(1, 5, 5, 0, 0), reading(2, 6, 6, 0, 0), reading(3, 9, 9, 8, 8)}, 2},
		"nothing comes in":                   {[]func(*marks){reading(1, 5, 5, 0, 0), reading(2, 5, 5, 0, 0), reading(3, 6, 6, 5, 5)}, 2},
		"the sink is set back":               {[]func(*marks){reading(1, 5, 5, 5, 5), reading(2, 5, 5, 3, 5)}, -1},
		"and has come up again":              {[]func(*marks){reading(1, 5, 5, 5, 5), reading(2, 5, 5, 3, 5), reading(3, 6, 6, 5, 5)}, 2},
		"a partition more":                   {[]func(*marks){one(1, 5, 5), reading(2, 5, 5, 5, 4)}, -1},
		"which has come up":                  {[]func(*marks){one(1, 5, 5), reading(2, 5, 5, 5, 4), reading(3, 5, 6, 5, 5)}, 2},
		"a mark of before the new partition": {[]func(*marks){one(1, 5, 4), reading(2, 6, 9, 5, 0)}, -1},
		"a partition less":                   {[]func(*marks){reading(1, 5, 5, 5, 4), one(2, 5, 5)}, 2},
	} {
		var m marks
		for _, r := range c.readings {
			r(&m)
		}
		if c.passed < 0 && m.passed.at.IsZero() && m.passed.through.IsZero() {
			continue
		}
		if !m.passed.at.Equal(at(c.passed)) || !m.passed.through.Equal(at(c.passed-1)) {
			t.Errorf("%s: passed %s through %s", name, m.passed.at, m.passed.through)
		}
	}
}

// Memory is bounded, and what is left out of it only makes it claim less.
func TestMarksThin(t *testing.T) {
	t.Parallel()
	var m marks
	p := Partition{"t", 0}
	const n = 4 * mostMarks
	for i := range n {
		m.add(mark{at: at(i), through: at(i), ends: map[Partition]int64{p: int64(10 * (i + 1))}}, map[Partition]int64{p: 0})
	}
	if len(m.list) > mostMarks {
		t.Errorf("%d marks", len(m.list))
	}
	for _, i := range []int{10, n / 2, n - 100} {
		m.add(mark{at: at(n), ends: map[Partition]int64{p: 10 * n}}, map[Partition]int64{p: int64(10 * (i + 1))})
		if m.passed.through.After(at(i)) || m.passed.through.Before(at(i-16)) {
			t.Errorf("with everything before mark %d done it passed %s", i, m.passed.through)
		}
	}
	if !m.passed.through.Equal(at(n - 100)) {
		t.Errorf("what is new is remembered as %s", m.passed.through)
	}
}
