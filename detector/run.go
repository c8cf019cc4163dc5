package detector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/telemetry/pulse"
)

// Delivery is one verification message as it came in.
type Delivery struct {
	Where string // topic, partition and offset
	// Headers that it came with, and when the transport took it: for traces, and may be left out.
	Headers  map[string]string
	At       time.Time
	Envelope *tricklepb.Envelope
	Err      error // why it can't be read or believed; the envelope is nil then
}

// Inbox gives verification messages.
type Inbox interface {
	// Fetch waits for messages.
	Fetch(ctx context.Context) ([]Delivery, error)
	// Commit says that everything fetched so far is dealt with.
	Commit(ctx context.Context) error
}

const (
	retryFirst = 200 * time.Millisecond
	retryMost  = 10 * time.Second
	idle       = 250 * time.Millisecond
	tries      = 3               // at a message whose table is at fault
	patience   = 2 * time.Minute // with a publisher that can't read its source
	atOnce     = 4               // messages handled at the same time
)

// Run verifies until the context ends: one loop over messages, one over suspects, one that keeps the gate's verdict where status
// finds it. All have returned when Run does.
func (d *Detector) Run(ctx context.Context, inbox Inbox) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.receive(ctx, inbox) })
	g.Go(func() error { return d.loop(ctx, "settling suspects", d.Settle) })
	g.Go(func() error { return d.loop(ctx, "confirming abandoned corrections", d.Resume) })
	g.Go(func() error { return d.loop(ctx, "keeping the ledger", d.keep) })
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// loop calls once until the context ends: at once again while there is work, after a pause when there is none or it fails.
func (d *Detector) loop(ctx context.Context, what string, once func(context.Context) (int, error)) error {
	ctx, end := pulse.Loop(ctx, what)
	defer end()
	wait := retryFirst
	for {
		pulse.Beat(ctx)
		n, err := once(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			d.Log.Warn(what+" failed; trying again", "err", err, "retry_in", wait)
		case n > 0:
			wait = retryFirst
			continue
		default:
			wait = retryFirst
		}
		pause := idle
		if err != nil {
			pause, wait = wait, min(2*wait, retryMost)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// receive handles messages, a few at a time, and commits their offsets after the work.
func (d *Detector) receive(ctx context.Context, inbox Inbox) error {
	ctx, end := pulse.Loop(ctx, "reading verification messages")
	defer end()
	for {
		pulse.Beat(ctx)
		if err := d.hold(ctx); err != nil {
			return err
		}
		deliveries, err := inbox.Fetch(ctx)
		if err != nil {
			return fmt.Errorf("reading verification messages: %w", err)
		}
		// Ranges don't depend on each other, and most of the time goes into waiting for answers.
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(atOnce)
		for _, m := range deliveries {
			g.Go(func() error { return d.handleUntilDone(gctx, m) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
		if err := inbox.Commit(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			d.Log.Warn("committing offsets failed; the messages will be seen again", "err", err)
		}
	}
}

// hold waits while the replica is known to be too far behind, or too many suspects wait: the messages stay in the topic.
func (d *Detector) hold(ctx context.Context) error {
	for {
		pulse.Beat(ctx) // a closed gate is waited for, however long
		pending, err := d.Ledger.Suspects(ctx, "")
		state := d.Gate.Check(ctx)
		// Suspects that nothing can be proven about stay: waiting for them would stop the verification of every table.
		if err == nil && (pending < d.Pending || !state.Open) && !state.Behind() {
			return nil
		}
		if err := sleep(ctx, 2*idle); err != nil {
			return err
		}
	}
}

func (d *Detector) handleUntilDone(ctx context.Context, m Delivery) error {
	wait, began := retryFirst, time.Now()
	receipt := d.receipt(m, began)
	for try := 1; ; try++ {
		pulse.Beat(ctx)
		var err error
		if m.Err != nil {
			err = d.Refuse(ctx, m.Where, m.Err)
		} else {
			err = d.handle(ctx, m.Envelope, receipt)
		}
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if try >= tries && d.ofTable(err) && (!mayPass(err) || time.Since(began) > patience) {
			// One table must not keep the others waiting. The range counts as not verified, and its turn comes again with the next cycle.
			d.logOnce("a table is paused", slog.String("table", m.Envelope.GetTable()), err)
			if err = d.Ledger.Pause(ctx, m.Envelope.GetTable(), err.Error()); err == nil {
				return nil
			}
		}
		d.Log.Warn("a verification message can't be dealt with yet; trying again", "err", err, "message", m.Where, "table", m.Envelope.GetTable(), "retry_in", wait)
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, retryMost)
	}
}

// mayPass tells a refusal that waiting may end, such as a source that is down, from one that needs somebody.
func mayPass(err error) bool {
	var refusal Refusal
	if !errors.As(err, &refusal) {
		return false
	}
	code := refusal.Refused()
	return code == tricklepb.ErrorCode_ERROR_CODE_FAILED || code == tricklepb.ErrorCode_ERROR_CODE_UNSTABLE
}

// keep writes the gate's verdict to the ledger and forgets what no window needs.
func (d *Detector) keep(ctx context.Context) (int, error) {
	s := d.Gate.Check(ctx)
	window := time.Duration(d.rules().Detect.Window)
	saved := entry.Gate{Open: s.Open, Lag: s.Lag, Reason: s.Reason}
	for _, m := range s.Measures {
		saved.Sources = append(saved.Sources, entry.GateSource{Name: m.By, Lag: m.Lag, Reason: m.Reason})
	}
	err := d.Ledger.SaveGate(ctx, saved, window, s.Source)
	return 0, errors.Join(err, d.Ledger.Forget(ctx, window))
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
