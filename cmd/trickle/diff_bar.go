package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"

	"github.com/trickle-verify/trickle/diff"
)

// bar shows on a terminal how far the current table is; anywhere else it shows nothing.
type bar struct {
	out      io.Writer
	terminal bool
	progress *diff.Progress

	mu    sync.Mutex
	shown bool
	table string
	began time.Time
}

func newBar(out io.Writer, p *diff.Progress) *bar {
	return &bar{out: out, terminal: onTerminal(out), progress: p}
}

func onTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// start draws until the returned function is called.
func (b *bar) start(ctx context.Context) (stop func()) {
	if !b.terminal {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case now := <-tick.C:
				b.draw(now)
			case <-ctx.Done():
				b.mu.Lock()
				b.clear()
				b.mu.Unlock()
				return
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

func (b *bar) clear() {
	if b.shown {
		fmt.Fprint(b.out, "\r\x1b[K")
		b.shown = false
	}
}

func (b *bar) draw(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.progress.Now()
	if s.Table != b.table {
		b.table, b.began = s.Table, now
	}
	b.clear()
	if s.Table == "" || s.Total == 0 {
		return
	}
	fmt.Fprint(b.out, b.fit(line(s, now.Sub(b.began))))
	b.shown = true
}

// fit cuts a line that would wrap: only the last row of it could be cleared.
func (b *bar) fit(text string) string {
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

// line is one picture of the bar. Rows are counted on both sides, so a pair of rows is two.
func line(s diff.State, took time.Duration) string {
	const width = 24
	share := min(float64(s.Rows)/float64(max(s.Total, 1)), 1)
	full := int(share * width)
	speed := float64(s.Rows) / 2 / max(took.Seconds(), 0.001)
	left := ""
	if share > 0 && share < 1 {
		left = ", " + (time.Duration(float64(took) * (1 - share) / share)).Round(time.Second).String() + " left"
	}
	differ := ""
	if s.Waiting > 0 {
		left = ", " + humanize.Comma(s.Waiting) + " to look at again"
	}
	if s.Differences > 0 {
		differ = ", " + humanize.Comma(s.Differences) + " differ"
	}
	return fmt.Sprintf("%s [%s%s] %3.0f %%, %s rows/s%s%s", s.Table, strings.Repeat("#", full), strings.Repeat(".", width-full), share*100, strings.TrimSpace(humanize.SIWithDigits(speed, 1, "")), left, differ)
}

// above writes whole lines where the bar is, and lets it come back below.
func (b *bar) above(out io.Writer) io.Writer {
	if !b.terminal {
		return out
	}
	return aboveBar{b, out}
}

type aboveBar struct {
	*bar
	to io.Writer
}

func (a aboveBar) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.clear()
	return a.to.Write(p)
}
