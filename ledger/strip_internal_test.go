package ledger

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/message"
)

// short reads "lo-hi@cycle", with nothing for infinity.
func short(t *testing.T, text string) (out []stretch) {
	t.Helper()
	for i, f := range strings.Fields(text) {
		at, cycle, _ := strings.Cut(f, "@")
		lo, hi, _ := strings.Cut(at, "-")
		n, err := strconv.ParseInt(cycle, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		s := stretch{id: int64(i + 1), cycle: n, rows: 10, equal: true, verified: time.Unix(n, 0)}
		if lo != "" {
			s.bounds.Lo = message.Key{lo}
		}
		if hi != "" {
			s.bounds.Hi = message.Key{hi}
		}
		out = append(out, s)
	}
	return out
}

func told(chain []stretch) string {
	var out []string
	for _, s := range chain {
		text := ""
		if s.bounds.Lo != nil {
			text = s.bounds.Lo[0]
		}
		text += "-"
		if s.bounds.Hi != nil {
			text += s.bounds.Hi[0]
		}
		if s.verified.IsZero() {
			out = append(out, fmt.Sprintf("%s:%d", text, s.ranges))
		} else {
			out = append(out, fmt.Sprintf("%s@%d", text, s.cycle))
		}
	}
	return strings.Join(out, " ")
}

func TestChains(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ranges string
		total  int
		want   string
	}{
		"nothing is known":                     {"", 7, "-:7"},
		"nor how many there are":               {"", 0, "-:1"},
		"one range":                            {"-@1", 1, "-@1"},
		"out of order":                         {"20-@1 -10@1 10-20@1", 3, "-10@1 10-20@1 20-@1"},
		"the first cycle, half way":            {"-10@1 10-20@1", 6, "-10@1 10-20@1 20-:4"},
		"two publishers":                       {"-10@1 500-600@1", 8, "-10@1 10-500:3 500-600@1 600-:3"},
		"only the middle":                      {"9-10@1 10-11@1", 4, "-9:1 9-10@1 10-11@1 11-:1"},
		"runs go by number":                    {"100-200@1 9-10@1", 4, "-9:1 9-10@1 10-100:1 100-200@1 200-:1"},
		"a range was cut":                      {"-10@5 10-20@5 20-@5 10-15@6 15-20@6", 4, "-10@5 10-15@6 15-20@6 20-@5"},
		"and only one piece is known":          {"-10@5 10-20@5 20-@5 10-15@6", 4, "-10@5 10-15@6 15-20@5 20-@5"},
		"the last range was cut":               {"-10@5 10-@5 10-15@6", 3, "-10@5 10-15@6 15-@5"},
		"two became one":                       {"-10@5 10-20@5 20-30@5 30-@5 10-30@6", 3, "-10@5 10-30@6 30-@5"},
		"a circle, which there can't be, ends": {"5-6@1 6-5@1", 2, "-:2"},
	} {
		if got := told(chain(short(t, c.ranges), c.total)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// However a table was cut and however much of it is known, cells are bounded, follow each other from end to end and lose no range.
func TestCellsCoverEverything(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 300).Draw(t, "ranges")
		most := rapid.IntRange(1, 50).Draw(t, "most")
		var ranges []stretch
		byID := map[int64]*found{}
		for i := range n {
			if rapid.IntRange(0, 9).Draw(t, "known") == 0 {
				continue
			}
			s := stretch{id: int64(i), cycle: 1, rows: 1, equal: true, verified: time.Unix(int64(1+i), 0)}
			if i > 0 {
				s.bounds.Lo = message.Key{strconv.Itoa(i)}
			}
			if i < n-1 {
				s.bounds.Hi = message.Key{strconv.Itoa(i + 1)}
			}
			ranges = append(ranges, s)
			byID[s.id] = &found{drift: Kinds{Missing: 1}}
		}
		known := len(ranges)
		out := cells(chain(ranges, n), most, byID, nil)
		if len(out) == 0 || len(out) > most {
			t.Fatalf("%d cells, allowed are %d", len(out), most)
		}
		var units, verified, missing int
		for _, c := range out {
			units, verified, missing = units+c.Ranges, verified+c.Verified, missing+c.Drift.Missing
			if c.Ranges < c.Verified || (c.Verified > 0) == c.Oldest.IsZero() {
				t.Fatalf("a cell is %+v", c)
			}
		}
		if units != n || verified != known || missing != known {
			t.Fatalf("%d ranges in cells of %d, %d of %d known ones, with drift of %d", units, n, verified, known, missing)
		}
		if first, last := out[0].Range.Lo, out[len(out)-1].Range.Hi; first != nil || last != nil {
			t.Fatalf("cells go from %v to %v", first, last)
		}
	})
}
