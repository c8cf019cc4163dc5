package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"

	"github.com/trickle-verify/trickle/internal/app"
)

const (
	drawEvery = 200 * time.Millisecond
	lineEvery = 10 * time.Second
)

// restoreBar shows how far a restore is: on a terminal in one line that is drawn again, else in a line of its own now and then.
type restoreBar struct {
	out      io.Writer
	terminal bool
	now      func() time.Time

	mu    sync.Mutex
	shown bool
	phase string // the one that is shown
	began time.Time
	last  time.Time
}

func newRestoreBar(out io.Writer) *restoreBar {
	f, ok := out.(*os.File)
	return &restoreBar{out: out, terminal: ok && term.IsTerminal(int(f.Fd())), now: time.Now}
}

// tell shows a step, unless one was shown just now.
func (b *restoreBar) tell(p app.RestoreProgress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if p.Phase == app.PhasePlay { // it goes on behind what follows it
		switch b.phase {
		case app.PhaseProve:
			return
		case app.PhaseFollow:
			p.Phase = app.PhaseFollow
		}
	}
	if p.Phase != b.phase {
		b.phase, b.began, b.last = p.Phase, now, time.Time{}
	}
	every := lineEvery
	if b.terminal {
		every = drawEvery
	}
	if now.Sub(b.last) < every {
		return
	}
	b.last = now
	text := restoreLine(p, now.Sub(b.began))
	if !b.terminal {
		fmt.Fprintln(b.out, text)
		return
	}
	b.clear()
	fmt.Fprint(b.out, b.fit(text))
	b.shown = true
}

func (b *restoreBar) clear() {
	if b.shown {
		fmt.Fprint(b.out, "\r\x1b[K")
		b.shown = false
	}
}

// end takes the line away.
func (b *restoreBar) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clear()
}

// fit cuts a line that would wrap: only the last row of it could be cleared.
func (b *restoreBar) fit(text string) string {
	f, ok := b.out.(*os.File)
	if !ok {
		return text
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if r := []rune(text); err == nil && width > 1 && len(r) >= width {
		return string(r[:width-1])
	}
	return text
}

// above writes whole lines where the bar is, which comes back below.
func (b *restoreBar) above() io.Writer { return aboveRestore{b} }

type aboveRestore struct{ *restoreBar }

// Terminal tells how a log is best written here.
func (a aboveRestore) Terminal() bool { return a.terminal }

func (a aboveRestore) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.clear()
	return a.out.Write(p)
}

// restoreLine is one picture.
func restoreLine(p app.RestoreProgress, took time.Duration) string {
	speed := func(n int64) string {
		if took < time.Second { // too short to tell
			return ""
		}
		return ", " + strings.TrimSpace(humanize.SIWithDigits(float64(n)/took.Seconds(), 1, "")) + "/s"
	}
	switch p.Phase {
	case app.PhaseLoad:
		l := p.Load
		share := float64(l.BytesDone) / float64(max(l.Bytes, 1))
		text := fmt.Sprintf("loading %s %3.0f %%, %d of %d ranges, %s of %s rows", picture(share), share*100, l.RangesDone, l.Ranges, humanize.Comma(l.RowsDone), humanize.Comma(l.Rows))
		if l.Doing != "" {
			text += ", " + l.Doing
		}
		return text
	case app.PhasePlay:
		if p.Left > 0 {
			return fmt.Sprintf("your sink has %s records to go", humanize.Comma(p.Left))
		}
		return fmt.Sprintf("playing forward: %s events%s, %s records to go", humanize.Comma(int64(p.Play.Applied)), speed(int64(p.Play.Applied)), humanize.Comma(p.Play.Behind))
	case app.PhaseFinish:
		return p.Load.Doing
	case app.PhaseProve:
		return fmt.Sprintf("proving: %s rows in %d ranges looked at, %s corrected", humanize.Comma(p.Proof.Rows), p.Proof.Done, humanize.Comma(p.Proof.Corrected))
	case app.PhaseFollow:
		return fmt.Sprintf("following: %s events applied", humanize.Comma(int64(p.Play.Applied)))
	}
	return ""
}

// picture is a bar.
func picture(share float64) string {
	const width = 24
	full := int(min(max(share, 0), 1) * width)
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "]"
}
