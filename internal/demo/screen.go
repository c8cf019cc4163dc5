package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// screen shows states as they come. Close comes after the last Show.
type screen interface {
	Show(State)
	Close()
}

// newScreen takes a terminal over and writes lines to anything else.
func newScreen(out io.Writer, env func(string) string) screen {
	file, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) || env("TERM") == "dumb" {
		return &lines{out: out}
	}
	p := colored
	if env("NO_COLOR") != "" {
		p = monochrome
	}
	l := &live{out: out, palette: p, size: func() size {
		width, height, err := term.GetSize(int(file.Fd()))
		if err != nil || width <= 0 || height <= 0 {
			return size{80, 24}
		}
		return size{width, height}
	}}
	fmt.Fprint(out, "\x1b[?1049h\x1b[?25l") // another page, no cursor
	return l
}

// live redraws a terminal in place.
type live struct {
	out     io.Writer
	palette palette
	size    func() size
	last    State
}

func (l *live) Show(s State) {
	l.last = s
	var b strings.Builder
	b.WriteString("\x1b[H")
	for i, line := range render(s, l.size(), l.palette) {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(line + "\x1b[K")
	}
	b.WriteString("\x1b[J")
	fmt.Fprint(l.out, b.String())
}

// Close gives the terminal back and leaves on it what happened.
func (l *live) Close() {
	fmt.Fprint(l.out, "\x1b[?25h\x1b[?1049l")
	(&lines{out: l.out}).Show(l.last)
}

// progressEvery is how often lines tell how things stand while nothing happens.
const progressEvery = 5 * time.Second

// lines writes one line for each event and now and then one about progress.
type lines struct {
	out   io.Writer
	shown int // events
	last  time.Duration
}

func (l *lines) Show(s State) {
	for _, e := range s.Events[min(l.shown, len(s.Events)):] {
		fmt.Fprintf(l.out, "%s  %s\n", clock(e.At), e.Text)
		l.last = s.Elapsed
	}
	l.shown = max(l.shown, len(s.Events))
	if s.Elapsed-l.last < progressEvery || !s.Ready {
		return
	}
	l.last = s.Elapsed
	fmt.Fprintf(l.out, "%s  … %s\n", clock(s.Elapsed), progress(s))
}

func (l *lines) Close() {}

// progress is the state in one line.
func progress(s State) string {
	var done, ranges int
	for _, t := range s.Tables {
		done, ranges = done+t.Done, ranges+t.Ranges
	}
	lag := "unknown"
	if s.Gate.LagSeconds != nil {
		lag = fmt.Sprintf("%.1f s", *s.Gate.LagSeconds)
	}
	text := fmt.Sprintf("%.0f writes/s, lag %s, cycle %d of %d ranges, drift %d injected %d found %d corrected, window %d/%d and %d/%d",
		s.WritesPerSecond, lag, done, ranges, sum(s.Drift.Injected), sum(s.Drift.Found), sum(s.Drift.Corrected),
		s.Partial.Count, s.Partial.Limit, s.Full.Count, s.Full.Limit)
	if s.resyncing() {
		text += fmt.Sprintf(", %s resync %d of %d ranges", s.Resync.Scope, s.Resync.RangesDone, s.Resync.Ranges)
	}
	return text
}

// summary is the end of the demo in words.
func summary(r Result) string {
	var b strings.Builder
	same := "identical"
	if !r.Identical {
		same = "DIFFERENT"
	}
	fmt.Fprintf(&b, "\n%d rows made wrong in the replica: %d missing, %d mismatched, %d extra\n", sum(r.DriftInjected),
		r.DriftInjected.Missing, r.DriftInjected.Mismatched, r.DriftInjected.Extra)
	fmt.Fprintf(&b, "%d of them corrected and confirmed: %d missing, %d mismatched, %d extra\n", sum(r.Corrected),
		r.Corrected.Missing, r.Corrected.Mismatched, r.Corrected.Extra)
	fmt.Fprintf(&b, "%d corrections of rows that nobody made wrong, while the source was written %s times\n", r.FalseCorrections, comma(r.SourceWrites))
	fmt.Fprintf(&b, "%d partial and %d full resyncs\n", r.Resyncs.Partial, r.Resyncs.Full)
	fmt.Fprintf(&b, "full comparison of %s rows, column by column: %s\n", comma(r.rows), same)
	fmt.Fprintf(&b, "%.1f seconds\n", r.Seconds)
	return b.String()
}
