package scheduler

import (
	"fmt"
	"time"

	"github.com/trickle-verify/trickle/policy"
)

// work is what the last range cost.
type work struct {
	start, end time.Time
	rows       int
	bytes      int64
	source     time.Duration // a query of ours ran on the source
}

// obligations are what a publisher has to do, and how much of all publishers' work that is.
type obligations struct {
	loads []load
	part  float64 // 0 < part <= 1
}

// load is one span's part of the pacing by cycle, as it was when the last range began.
type load struct {
	left    int       // ranges still to be scanned after it
	started time.Time // when the cycle began
}

// decision says when the next range may begin and what holds it until then.
type decision struct {
	at     time.Time
	by     string // one of By…
	reason string
}

// later keeps the decision that holds longer.
func (d decision) later(o decision) decision {
	if o.at.After(d.at) {
		return o
	}
	return d
}

// pace is when the range after w may begin: the slowest of the ceilings, of which this publisher has its part, and of the cycle. Each counts from the beginning of w, so that
// the time w itself took is part of the interval and nothing is ever saved up for a burst; that is why no token bucket is needed.
func pace(w work, p *policy.Policy, windows Windows, o obligations) decision {
	d := ceilings(w, p.Rate, o.part)
	return d.later(decision{w.start.Add(spread(w.start, time.Duration(p.Schedule.Cycle), windows, o.loads)), ByCycle, "cycle: spread over the time that is left"})
}

// ceilings is when the next piece of work may begin for them alone, if part of them is its own.
func ceilings(w work, rate policy.Rate, part float64) decision {
	d := decision{at: w.start}
	if r := rate.RowsPerSecond; r > 0 {
		d = d.later(decision{w.start.Add(seconds(float64(w.rows) / (float64(r) * part))), ByRows, fmt.Sprintf("rate.rows_per_second %d", r)})
	}
	if r := rate.BytesPerSecond; r > 0 {
		d = d.later(decision{w.start.Add(seconds(float64(w.bytes) / (float64(r) * part))), ByBytes, fmt.Sprintf("rate.bytes_per_second %s", r)})
	}
	if r := rate.SourceShare; r > 0 {
		d = d.later(decision{w.start.Add(seconds(w.source.Seconds() / (float64(r) * part))), ByShare, fmt.Sprintf("rate.source_share %s", r)})
	}
	return d
}

// spread is the interval between ranges that ends every cycle in time: each span needs so many ranges a second, and one loop serves
// them all. The range just done counts too: it had its own share of what was left when it began. A cycle that is late asks for no pause.
func spread(start time.Time, cycle time.Duration, windows Windows, loads []load) time.Duration {
	var perSecond float64
	for _, l := range loads {
		if l.left == 0 {
			continue
		}
		open := windows.Between(start, l.started.Add(cycle))
		if open <= 0 {
			return 0
		}
		perSecond += float64(l.left+1) / open.Seconds()
	}
	if perSecond == 0 {
		return 0
	}
	return seconds(1 / perSecond)
}

// seconds bounds what a division may come to: nobody waits for more than the horizon.
func seconds(s float64) time.Duration {
	return time.Duration(min(s, horizon.Seconds()) * float64(time.Second))
}
