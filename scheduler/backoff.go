package scheduler

import (
	"context"
	"fmt"
	"time"

	"github.com/trickle-verify/trickle/policy"
)

// Load is how busy the source is.
type Load struct {
	Latency        time.Duration // of a trivial query
	ReplicationLag time.Duration // of the source's own standbys
	ActiveSessions int
}

// LoadMeter tells how busy the source is.
type LoadMeter interface {
	SourceLoad(ctx context.Context) (Load, error)
}

const (
	loadEvery = 2 * time.Second
	slowest   = 1.0 / 64
	faster    = 1.0 / 16
	leastWork = 50 * time.Millisecond // a range that took no time still has to slow down
)

// backoff is the share of the time that may be spent scanning: halved whenever the source is busy, a little more whenever it is not.
type backoff struct {
	speed  float64 // 0 < speed <= 1
	reason string  // why speed is below 1
	asked  time.Time
}

// observe takes one measurement in.
func (b *backoff) observe(limits policy.Backoff, l Load, err error) {
	switch busy := busyWith(limits, l, err); {
	case busy != "":
		b.speed, b.reason = max(slowest, b.speed/2), "source busy: "+busy
	case b.speed < 1:
		b.speed = min(1, b.speed+faster)
	}
}

func busyWith(limits policy.Backoff, l Load, err error) string {
	latency, lag := time.Duration(limits.SourceLatency), time.Duration(limits.ReplicationLag)
	switch {
	case err != nil: // what cannot be measured may be on its knees
		return "its load is unknown: " + err.Error()
	case latency > 0 && l.Latency > latency:
		return fmt.Sprintf("latency %s is above %s", l.Latency, latency)
	case lag > 0 && l.ReplicationLag > lag:
		return fmt.Sprintf("replication lag %s is above %s", l.ReplicationLag, lag)
	case limits.ActiveSessions > 0 && l.ActiveSessions > limits.ActiveSessions:
		return fmt.Sprintf("%d active sessions are more than %d", l.ActiveSessions, limits.ActiveSessions)
	default:
		return ""
	}
}

// hold stretches the interval after w until scanning takes only its share of the time, of which part is w's own.
func (b *backoff) hold(w work, d decision, part float64) decision {
	if b.speed >= 1 {
		return d
	}
	took := max(leastWork, w.end.Sub(w.start))
	return d.later(decision{w.start.Add(time.Duration(float64(took) / (b.speed * part))), ByBusy, b.reason})
}
