// Package demo shows trickle at work on embedded parts: two real Postgres servers, a Kafka broker, change data capture between them under a
// write load, and drift that somebody puts into the replica.
//
// It decides what happens when, and whether it went well. What always holds: the publisher and the consumer run as they are, only with
// shorter times in their policy; drift is put only into rows that the load leaves alone, so nothing but trickle can make it go away; the
// verdict comes from the journal and from a comparison that does not use trickle's digests; what was started is stopped and its folders
// are removed, also after an interrupt. When a part fails the demo ends with its error, and the log of the parts is kept and named.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"github.com/trickle-verify/trickle/ledger"
)

// MinDuration is the shortest demo there is, MaxDuration the longest.
const (
	MinDuration = 20 * time.Second
	MaxDuration = time.Hour
)

// Options say how long the demo takes and where its progress goes.
type Options struct {
	// Duration scales how long each phase lasts at least. A phase lasts longer where what it waits for takes longer.
	Duration time.Duration
	// Progress gets a live view where it is a terminal, else a line for each event.
	Progress io.Writer
	// Listen is the address of the live page; empty for none.
	Listen string
	// Rows in all three tables together; 0 for the usual number.
	Rows int
}

// Result is what a demo came to, as `trickle demo --format json` prints it.
type Result struct {
	DriftInjected    ledger.Kinds `json:"drift_injected"`
	Corrected        ledger.Kinds `json:"corrected"`         // of the injected ones, as the journal has it, confirmed
	FalseCorrections int          `json:"false_corrections"` // journal entries that no injected drift explains
	Resyncs          Resyncs      `json:"resyncs"`
	Identical        bool         `json:"identical"` // by a full comparison of both databases
	SourceWrites     int64        `json:"source_writes"`
	Seconds          float64      `json:"seconds"`

	differences []string
	falses      []string
	unmet       []string // what a phase waited for in vain
	rows        int64    // compared
}

// Resyncs counts those that were done, by scope.
type Resyncs struct {
	Partial int `json:"partial"`
	Full    int `json:"full"`
}

// Faults says what did not hold, one line each; none: all is well.
func (r Result) Faults() []string {
	faults := append([]string{}, r.unmet...)
	if !r.Identical {
		faults = append(faults, "the databases differ: "+strings.Join(r.differences, ", "))
	}
	if r.Corrected != r.DriftInjected {
		faults = append(faults, fmt.Sprintf("%d rows were made wrong and %d corrected", sum(r.DriftInjected), sum(r.Corrected)))
	}
	if r.FalseCorrections != 0 {
		faults = append(faults, fmt.Sprintf("%d corrections of rows that nobody made wrong: %s", r.FalseCorrections, strings.Join(r.falses, ", ")))
	}
	if r.Resyncs.Partial == 0 {
		faults = append(faults, "there was no partial resync")
	}
	if r.Resyncs.Full == 0 {
		faults = append(faults, "there was no full resync")
	}
	return faults
}

// Run plays the demo to its end. An error means that it could not be played; whether it went well is in the result's Faults. With an
// error or a fault the log of the parts is kept, and Run says where on Progress.
func Run(ctx context.Context, o Options) (r Result, err error) {
	if o.Duration < MinDuration || o.Duration > MaxDuration {
		return r, fmt.Errorf("--duration %s: give a time from %s to %s", o.Duration, MinDuration, MaxDuration)
	}
	if o.Rows == 0 {
		o.Rows = defaultRows
	}
	begin := time.Now()
	work, err := newWorkspace()
	if err != nil {
		return r, err
	}
	defer func() {
		if ctx.Err() == nil && (err != nil || len(r.Faults()) > 0) {
			kept, keepErr := work.keepLog()
			if kept != "" {
				fmt.Fprintf(o.Progress, "the log of all parts: %s\n", kept)
			}
			err = errors.Join(err, keepErr)
		}
		err = errors.Join(err, work.close())
	}()
	screen := newScreen(o.Progress, os.Getenv)
	board := newBoard(begin, o.Duration)
	playing, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	stopShowing := board.showOn(screen)
	r, err = play(playing, fail, production{options: o, work: work, board: board})
	stopShowing()
	screen.Close()
	r.Seconds = math.Round(time.Since(begin).Seconds()*10) / 10
	if err != nil {
		return r, err
	}
	_, err = io.WriteString(o.Progress, summary(r))
	return r, err
}

// errInterrupted ends a demo that a person stopped.
var errInterrupted = errors.New("interrupted; what was started is stopped and removed")

// partError is the end of a part that should have gone on.
type partError struct {
	name string
	err  error
}

func (e *partError) Error() string {
	if e.err == nil {
		return e.name + " ended unasked"
	}
	return e.name + ": " + e.err.Error()
}

func (e *partError) Unwrap() error { return e.err }

// ended is why the context ended: a part's failure, or a person.
func ended(ctx context.Context) error {
	if part := (*partError)(nil); errors.As(context.Cause(ctx), &part) {
		return part
	}
	return errInterrupted
}

func sum(k ledger.Kinds) int { return k.Missing + k.Mismatched + k.Extra }
