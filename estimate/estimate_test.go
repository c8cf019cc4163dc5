package estimate

import (
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

// tail is P(X <= x), in exact arithmetic.
func tail(x, marked, drawn, population int64) float64 {
	all := new(big.Int).Binomial(population, drawn)
	sum := new(big.Int)
	for k := int64(0); k <= x; k++ {
		if k > marked || drawn-k > population-marked {
			continue
		}
		term := new(big.Int).Mul(new(big.Int).Binomial(marked, k), new(big.Int).Binomial(population-marked, drawn-k))
		sum.Add(sum, term)
	}
	f, _ := new(big.Rat).SetFrac(sum, all).Float64()
	return f
}

func TestKnownBounds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sample Sample
		want   int64
	}{
		"nothing is unseen":                        {Sample{Looked: 1000, Found: 3}, 0},
		"nothing was looked at":                    {Sample{Unseen: 77}, 77},
		"half was looked at, nothing found":        {Sample{Looked: 500_000, Unseen: 500_000}, 4},            // 2^-4 is more than 5 %, 2^-5 less
		"the steady state":                         {Sample{Looked: 1_000_000, Unseen: 500_000}, 2},          // 3^-2 and 3^-3
		"a hundredth of it":                        {Sample{Looked: 10_000, Unseen: 990_000}, 298},           // the rule of three
		"all that was looked at was wrong":         {Sample{Looked: 10, Found: 10, Unseen: 50}, 50},          //
		"more found than looked at counts as that": {Sample{Looked: 10, Found: 99, Unseen: 50}, 50},          //
		"a population beyond the exact ones":       {Sample{Looked: 5e11, Unseen: 5e11}, 4},                  //
		"half a look counts as one":                {Sample{Looked: 1000, Unseen: 0.5}, 0},                   // one of a thousand would have been seen
		"what makes no sense counts as nothing":    {Sample{Looked: 1000, Found: -3, Unseen: -1}, 0},         //
		"many found":                               {Sample{Looked: 100_000, Found: 5000, Unseen: 1}, 1},     //
		"as many again":                            {Sample{Looked: 1e6, Found: 10_000, Unseen: 1e6}, 10233}, // 10 000 and 1.645 of its deviations
	} {
		if got := c.sample.AtMost(0.95); got != c.want {
			t.Errorf("%s: at most %d, want %d", name, got, c.want)
		}
	}
}

// The bound is the one of exact arithmetic.
func TestExactly(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		looked := rapid.Int64Range(1, 60).Draw(t, "looked")
		unseen := rapid.Int64Range(1, 60).Draw(t, "unseen")
		found := rapid.Int64Range(0, looked).Draw(t, "found")
		want := int64(0)
		for more := int64(1); more <= unseen; more++ {
			if p := tail(found, found+more, looked, looked+unseen); math.Abs(p-0.05) < 1e-9 {
				t.SkipNow() // which side it falls on is a matter of rounding
			} else if p >= 0.05 {
				want = more
			}
		}
		if got := (Sample{float64(looked), float64(found), float64(unseen)}).AtMost(0.95); got != want {
			t.Fatalf("at most %d, want %d", got, want)
		}
	})
}

// However many are drifted, the chance that those unseen are more than the bound says is at most one in twenty.
func TestTheConfidenceHolds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		looked := rapid.Int64Range(1, 150).Draw(t, "looked")
		unseen := rapid.Int64Range(1, 150).Draw(t, "unseen")
		drifted := rapid.Int64Range(0, looked+unseen).Draw(t, "drifted")
		missed := 0.0
		for found := max(0, drifted-unseen); found <= min(drifted, looked); found++ {
			if drifted-found > (Sample{float64(looked), float64(found), float64(unseen)}).AtMost(0.95) {
				missed += tail(found, drifted, looked, looked+unseen) - tail(found-1, drifted, looked, looked+unseen)
			}
		}
		if missed > 0.05+1e-9 {
			t.Fatalf("the bound is broken in %.4f of all cases", missed)
		}
	})
}

func TestBoundsOnlyGrow(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := Sample{
			Looked: math.Round(math.Exp(rapid.Float64Range(0, 30).Draw(t, "ln looked"))),
			Unseen: math.Round(math.Exp(rapid.Float64Range(0, 30).Draw(t, "ln unseen"))),
		}
		s.Found = math.Floor(min(s.Looked, 1e6) * rapid.Float64Range(0, 1).Draw(t, "found"))
		bound := s.AtMost(0.95)
		if bound < 0 || float64(bound) > s.Unseen {
			t.Fatalf("%+v: at most %d", s, bound)
		}
		more := s
		more.Found = min(s.Found+rapid.Float64Range(1, 1000).Draw(t, "more found"), s.Looked)
		// Where rounding decides, a bound may be off by as little as the logarithms are.
		slack := 1 + float64(bound)*1e-5
		if got := more.AtMost(0.95); float64(got) < float64(bound)-slack {
			t.Fatalf("%+v gives %d, %+v gives %d", s, bound, more, got)
		}
		more = s
		more.Unseen *= rapid.Float64Range(1, 10).Draw(t, "more unseen")
		if got := more.AtMost(0.95); float64(got) < float64(bound)-slack {
			t.Fatalf("%+v gives %d, %+v gives %d", s, bound, more, got)
		}
		if got := s.AtMost(0.99); float64(got) < float64(bound)-slack {
			t.Fatalf("%+v gives %d at 95 %% and %d at 99 %%", s, bound, got)
		}
	})
}

func TestTables(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		table Table
		want  int64
	}{
		"nothing is known of it":               {Table{}, 0},
		"never verified":                       {Table{Total: 500, Rows: Sample{Unseen: 500}, Ranges: Sample{Unseen: 5}}, 500},
		"steady, nothing found":                {Table{Total: 1e6, Rows: Sample{Looked: 1e6, Unseen: 5e5}, Ranges: Sample{Looked: 200, Unseen: 100}}, 2},
		"what is known to be drifted is added": {Table{Total: 1e6, Known: 7, Rows: Sample{Looked: 1e6, Unseen: 5e5}, Ranges: Sample{Looked: 200, Unseen: 100}}, 9},
		"drift in one cluster": {Table{ // 3 more may be unseen, with 100 rows each
			Total: 1e6, Rows: Sample{Looked: 1e6, Found: 100, Unseen: 5e5}, Ranges: Sample{Looked: 200, Found: 1, Unseen: 100},
		}, 300},
		"the same spread out":             {Table{Total: 1e6, Rows: Sample{Looked: 1e6, Found: 100, Unseen: 5e5}, Ranges: Sample{Looked: 200, Found: 100, Unseen: 100}}, 65},
		"no more than there are":          {Table{Total: 10, Known: 4, Rows: Sample{Unseen: 10}, Ranges: Sample{Unseen: 1}}, 10},
		"extra rows are beyond the total": {Table{Total: 10, Known: 40, Rows: Sample{Looked: 10}, Ranges: Sample{Looked: 1}}, 40},
	} {
		if got := c.table.AtMost(0.95); got != c.want {
			t.Errorf("%s: at most %d, want %d", name, got, c.want)
		}
	}
}
