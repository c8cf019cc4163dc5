// Package estimate says how many rows of a table may be drifted now, from what was looked at.
//
// It decides how many drifted rows are still compatible with what was found, at a confidence that the caller names. The model: drift strikes every row, and
// every stretch of time, alike. Each row that was verified is one look, at what may have befallen it since it was verified before, a cycle earlier. A row that
// was verified some time ago has waited for part of its next look: a quarter of a cycle after it, for a quarter of one; a row that nobody has verified yet
// waits for a whole one. So there are looks that were taken (Looked), drift that they found (Found), and looks that are still to come (Unseen). If there are D
// drifted ones among all of them, then the number that the taken ones find is distributed hypergeometrically, and the largest D under which finding as few as
// were found is not less likely than 1 - confidence is a bound that holds with at least that confidence:
//
//	P(X <= Found | Looked + Unseen, D, Looked) >= 1 - confidence
//
// Drift comes in clusters: a lost event is one row, a lost partition thousands side by side. Rows are then no independent looks, but ranges nearly are. So the
// same is reckoned over ranges, a drifted one weighed with as many rows as drifted ones held on average, and the larger of both counts.
//
// What always holds: a bound never falls when more was found or more is unseen, is zero where nothing is unseen, and is everything where nothing was looked at.
// What it does not see: drift that comes more often now than it did in what was looked at. There is no I/O and nothing to fail.
package estimate

import "math"

// Sample is what was looked at, and what was not.
type Sample struct {
	Looked float64 // looks taken
	Found  float64 // of these, how many found drift
	Unseen float64 // looks still to come
}

// exact is the population up to which the hypergeometric distribution is reckoned. Beyond it the logarithms of factorials are too coarse, and the binomial one,
// which gives no smaller bound, tells no difference.
const exact = 1e9

// AtMost is how many of the unseen may be drifted, at a confidence between 0.5 and 1.
func (s Sample) AtMost(confidence float64) int64 {
	looked, unseen := math.Floor(max(s.Looked, 0)), math.Ceil(max(s.Unseen, 0))
	found := min(math.Ceil(max(s.Found, 0)), looked)
	if unseen == 0 {
		return 0
	}
	if looked == 0 {
		return int64(unseen)
	}
	likely := func(more float64) bool { return lower(found, found+more, looked, looked+unseen) >= 1-confidence }
	// The likelihood falls as more are assumed: find where it crosses, from below, so that the usual small bounds cost little.
	low, high := 0.0, 1.0
	for high < unseen && likely(high) {
		low, high = high, 2*high
	}
	if high >= unseen {
		high = unseen
		if likely(high) {
			return int64(unseen)
		}
	}
	for high-low > 1 {
		if mid := math.Floor((low + high) / 2); likely(mid) {
			low = mid
		} else {
			high = mid
		}
	}
	return int64(low)
}

// lower is P(X <= x) where drawn of a population are taken that holds marked ones. Where it is surely above a half, one half is returned.
func lower(x, marked, drawn, population float64) float64 {
	if x >= marked*drawn/population+1 { // the median is within one of the mean
		return 0.5
	}
	if population > exact {
		return lowerBinomial(x, marked, drawn/population)
	}
	rest := population - marked
	least := max(0, drawn-rest)
	if x < least {
		return 0
	}
	term := math.Exp(choose(marked, x) + choose(rest, drawn-x) - choose(population, drawn))
	sum := term
	for k := x; k > least && term > sum*1e-13; k-- {
		term *= k * (rest - drawn + k) / ((marked - k + 1) * (drawn - k + 1))
		sum += term
	}
	return min(sum, 1)
}

func lowerBinomial(x, n, p float64) float64 {
	term := math.Exp(choose(n, x) + x*math.Log(p) + (n-x)*math.Log1p(-p))
	sum := term
	for k := x; k > 0 && term > sum*1e-13; k-- {
		term *= k * (1 - p) / ((n - k + 1) * p)
		sum += term
	}
	return min(sum, 1)
}

// choose is the logarithm of n over k.
func choose(n, k float64) float64 {
	a, _ := math.Lgamma(n + 1)
	b, _ := math.Lgamma(k + 1)
	c, _ := math.Lgamma(n - k + 1)
	return a - b - c
}

// Table is what is known of one table.
type Table struct {
	Total  float64 // rows, as many as there seem to be
	Rows   Sample
	Ranges Sample  // Found: those in which a row had drifted
	Known  float64 // rows known to be drifted now
}

// AtMost is how many rows of the table may be drifted now: those known to be, and those that nobody has seen.
func (t Table) AtMost(confidence float64) int64 {
	size := 1.0
	if t.Ranges.Found > 0 {
		size = max(1, t.Rows.Found/t.Ranges.Found)
	}
	clustered := math.Ceil(float64(t.Ranges.AtMost(confidence)) * size)
	unseen := max(float64(t.Rows.AtMost(confidence)), min(clustered, math.Ceil(t.Rows.Unseen)))
	known := math.Ceil(max(t.Known, 0))
	return int64(max(known, min(known+unseen, math.Ceil(t.Total)))) // what only the replica has is beyond the total
}
