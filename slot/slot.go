// Package slot is how far whoever reads the source's replication slot has confirmed, as a time of the source's clock.
//
// It decides Through: every transaction that committed before it has been confirmed by the slot's reader, and Debezium confirms only what Kafka has
// acknowledged. What always holds: Through never claims more than positions that were taken after their times prove, all on the timeline that the server is on
// now. A slot that is missing, is of another database, lost its log or is read by nobody comes with the reason. It only reads, and by what everybody may
// see. When the source can't be asked there is an error and no claim.
//
// A slot's confirmed position moves only when its reader confirms something. On a database that nobody writes to, in a server whose log grows all the same, it
// stands still although nothing is pending, and looks ever older; a heartbeat, trickle's or the connector's own, is what moves it.
package slot

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/telemetry/pulse"
)

// every is how often the end of the log is looked at: lag is known no better than that.
const every = time.Second

// Source is where the slot is: a primary.
type Source interface {
	// Tip reads the clock, and then the end of the log.
	Tip(ctx context.Context) (postgres.Tip, error)
	// Slot reads a slot, false where there is none.
	Slot(ctx context.Context, name string) (postgres.Slot, bool, error)
}

// Watch remembers where the log ended when. It is safe for concurrent use.
type Watch struct {
	source Source

	mu     sync.Mutex
	memory memory
}

// New watches a source.
func New(source Source) *Watch { return &Watch{source: source} }

// State is how a slot stands.
type State struct {
	Clock    time.Time // the source's, now
	Timeline uint32    // of its log; 0: unknown
	// Through: every transaction that committed before it has been confirmed. Zero: unknown.
	Through time.Time
	// Reason is why nothing is known, or why what is known can't be relied upon; empty: somebody reads the slot.
	Reason string
}

// Lag is how far the slot is behind; negative where unknown.
func (s State) Lag() time.Duration {
	if s.Through.IsZero() {
		return -1
	}
	return s.Clock.Sub(s.Through)
}

// Run looks at the end of the log every second, while wanted says so, until the context ends. Failures are logged once in a row: what they leave out makes lag
// known less finely, never shorter.
func (w *Watch) Run(ctx context.Context, wanted func() bool, log *slog.Logger) error {
	ctx, end := pulse.Loop(ctx, "following the replication slot")
	defer end()
	tick := time.NewTicker(every)
	defer tick.Stop()
	failing := false
	for {
		var err error
		if wanted() {
			pulse.Beat(ctx)
			_, err = w.tip(ctx)
		} else {
			pulse.Idle(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !failing {
			log.Warn("the lag of the replication slot can't be followed", "err", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (w *Watch) tip(ctx context.Context) (postgres.Tip, error) {
	t, err := w.source.Tip(ctx)
	if err != nil || t.Standby {
		return t, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.memory.add(t)
	return t, nil
}

// Look reads the slot afresh. An empty name asks for the clock and the timeline alone.
func (w *Watch) Look(ctx context.Context, name string) (State, error) {
	var v postgres.Slot
	var there bool
	var err error
	if name != "" {
		if v, there, err = w.source.Slot(ctx, name); err != nil {
			return State{}, err
		}
	}
	t, err := w.tip(ctx) // after the slot, so that what is confirmed lies below it
	if err != nil {
		return State{}, err
	}
	s := State{Clock: t.At, Timeline: t.Timeline}
	switch {
	case name == "":
	case t.Standby:
		s.Reason = fmt.Sprintf("replication slot %s can't be followed on a standby: name the primary in TRICKLE_PRIMARY_DSN", name)
	case !there:
		s.Reason = fmt.Sprintf("the source has no replication slot %s: check gate.slot, and that the connector reads this server", name)
	case !v.Logical:
		s.Reason = fmt.Sprintf("replication slot %s is a physical one: name the one that CDC reads under gate.slot", name)
	case v.Database != v.Here:
		s.Reason = fmt.Sprintf("replication slot %s is of database %s, not of %s: name the one that CDC reads under gate.slot", name, v.Database, v.Here)
	case v.Lost != "":
		s.Reason = fmt.Sprintf("replication slot %s is lost (%s), and with it what it had not delivered: have the connector make a new one", name, v.Lost)
	default:
		w.judge(&s, name, v, t)
	}
	return s, nil
}

// judge turns the confirmed position into a time.
func (w *Watch) judge(s *State, name string, v postgres.Slot, t postgres.Tip) {
	if v.Confirmed > t.LSN {
		// Its reader brought the position along from a server that had come further. What lies below it is skipped, so nothing can be told by it.
		s.Reason = fmt.Sprintf("replication slot %s is confirmed beyond the end of the source's log, by a reader of another timeline", name)
		return
	}
	w.mu.Lock()
	through, ok := w.memory.before(v.Confirmed)
	oldest := w.memory.tips[0]
	w.mu.Unlock()
	if through.After(s.Clock) { // another look was faster
		through = s.Clock
	}
	switch {
	case !ok:
		s.Reason = fmt.Sprintf("replication slot %s is %s behind, from before the publisher began to look %s ago: no time is known for that yet", name,
			humanize.IBytes(t.LSN-v.Confirmed), max(0, t.At.Sub(oldest.At)).Round(time.Second))
	case !v.Active:
		s.Through = through
		s.Reason = fmt.Sprintf("nobody reads replication slot %s: is the connector running?", name)
	default:
		s.Through = through
	}
}
