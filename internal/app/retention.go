package app

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/telemetry/pulse"
)

const (
	trimNext  = time.Second // between two times that something was taken away: a replica of much drift has better to do
	trimPause = time.Minute // where nothing was left, or it failed
)

// trimmer takes what is older than detect.journal out of the ledger, little by little.
type trimmer struct {
	ledger interface {
		Trim(ctx context.Context, keep time.Duration) (int, error)
	}
	policy func() *policy.Policy
	log    *slog.Logger
}

func (t trimmer) run(ctx context.Context) error {
	ctx, end := pulse.Loop(ctx, "taking old lines out of the journal")
	defer end()
	for {
		pulse.Beat(ctx)
		timer := time.NewTimer(t.runOnce(ctx))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// runOnce returns when to do it again.
func (t trimmer) runOnce(ctx context.Context) time.Duration {
	keep := t.policy().Detect.Journal
	if keep == policy.Forever {
		return trimPause
	}
	n, err := t.ledger.Trim(ctx, time.Duration(keep))
	switch {
	case err != nil && ctx.Err() == nil:
		t.log.Warn("old lines stay in the journal for now", "err", err, "retry_in", trimPause)
	case n >= ledger.TrimMost:
		return trimNext
	case n > 0:
		t.log.Debug("old lines were taken out of the journal", "rows", n)
	}
	return trimPause
}

// gone says that something older than the journal goes back may have been asked for; empty where all that was ever written is there.
func gone(kept ledger.JournalReport, keep policy.Retention) string {
	if kept.From == nil {
		return ""
	}
	oldest := "there is none now"
	if kept.Oldest != nil {
		oldest = "the oldest there is of " + kept.Oldest.Format(shownTime)
	}
	if keep == policy.Forever {
		return fmt.Sprintf("the journal has lost what was written until %s, before detect.journal was %s; %s", kept.From.Format(shownTime), keep, oldest)
	}
	return fmt.Sprintf("the journal keeps %s (detect.journal): what was written until %s has left it; %s", keep, kept.From.Format(shownTime), oldest)
}

const shownTime = "2006-01-02 15:04:05 UTC"
