package resync

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/gate"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/telemetry/pulse"
)

// away is a ledger in a database that is down.
type away struct {
	Ledger
	asked int
}

func (a *away) Running(context.Context) ([]entry.Resync, error) {
	a.asked++
	return nil, errors.New("connection refused")
}

// While the replica's database is down it is asked ever more seldom, and the log tells what fails: no resync does.
func TestALedgerThatIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		ledger := new(away)
		r := New(Parts{Ledger: ledger, Gate: gate.New(policy.Gate{}, gate.Parts{}), Log: slog.New(slog.NewTextHandler(&log, nil))})
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Minute)
		defer stop()
		if err := r.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if ledger.asked < 60 || ledger.asked > 70 {
			t.Errorf("it was asked %d times in ten minutes, want once in ten seconds after the first few", ledger.asked)
		}
		if got := log.String(); strings.Contains(got, "resync failed") || !strings.Contains(got, "looking after resyncs failed") {
			t.Errorf("the log says %.400s", got)
		}
	})
}

// connected is a connector that nobody has to listen to.
type connected struct{ Debezium }

// What Debezium says is followed, and listed as a loop, where resyncs go through it.
func TestNobodyListensUnasked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := pulse.New(pulse.Bound)
		r := New(Parts{Debezium: connected{}, Log: slog.New(slog.DiscardHandler), Policy: func() *policy.Policy { return new(policy.Policy) }})
		ctx, stop := context.WithTimeout(m.In(t.Context()), time.Minute)
		defer stop()
		time.AfterFunc(30*time.Second+lookAround/2, func() {
			if s := m.State(); len(s.Loops) > 0 {
				t.Errorf("loops %v", s.Loops)
			}
		})
		if err := r.Listen(ctx); err != nil {
			t.Fatal(err)
		}
	})
}
