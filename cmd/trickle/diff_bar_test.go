package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/diff"
)

func TestTheBar(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		state diff.State
		took  time.Duration
		want  string
	}{
		{diff.State{Table: "public.t", Total: 2000}, 0, "public.t [........................]   0 %, 0 rows/s"},
		{diff.State{Table: "public.t", Rows: 500, Total: 2000}, time.Second, "public.t [######..................]  25 %, 250 rows/s, 3s left"},
		{diff.State{Table: "public.t", Rows: 2_000_000, Total: 4_000_000}, time.Second, "public.t [############............]  50 %, 1 M rows/s, 1s left"},
		{diff.State{Table: "public.t", Rows: 1000, Total: 4000, Differences: 1234}, 10 * time.Second, "public.t [######..................]  25 %, 50 rows/s, 30s left, 1,234 differ"},
		// The total is an estimate: what is beyond it stays within the bar.
		{diff.State{Table: "public.t", Rows: 3000, Total: 2000}, time.Second, "public.t [########################] 100 %, 1.5 k rows/s"},
		{diff.State{Table: "public.t", Rows: 2000, Total: 2000, Waiting: 7}, time.Second, "public.t [########################] 100 %, 1 k rows/s, 7 to look at again"},
		{diff.State{Table: "public.t"}, time.Second, "public.t [........................]   0 %, 0 rows/s"},
	} {
		if got := line(c.state, c.took); got != c.want {
			t.Errorf("%+v after %s: %q, want %q", c.state, c.took, got, c.want)
		}
	}
}

// Where no terminal is nothing is drawn, and what is printed goes straight on.
func TestNoBarWithoutATerminal(t *testing.T) {
	t.Parallel()
	var drawn, printed bytes.Buffer
	b := newBar(&drawn, &diff.Progress{})
	stop := b.start(t.Context())
	if out := b.above(&printed); out != &printed {
		t.Errorf("what is printed takes a detour over %T", out)
	}
	stop()
	if drawn.Len() > 0 {
		t.Errorf("drew %q", drawn.String())
	}
}

// On a terminal a printed line takes the bar's place, and the bar comes back below it.
func TestPrintingAboveTheBar(t *testing.T) {
	t.Parallel()
	var screen bytes.Buffer
	b := &bar{out: &screen, terminal: true, progress: &diff.Progress{}, shown: true}
	if _, err := b.above(&screen).Write([]byte("a line\n")); err != nil {
		t.Fatal(err)
	}
	if got := screen.String(); got != "\r\x1b[Ka line\n" || b.shown {
		t.Errorf("the screen got %q", got)
	}
	b.draw(time.Now()) // no table yet
	if got := screen.String(); strings.Contains(got, "[.") {
		t.Errorf("drew a bar of no table: %q", got)
	}
}
