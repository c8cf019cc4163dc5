package command

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/trickle-verify/trickle/status"
)

// key is what somebody pressed, as far as it matters.
type key int

const (
	other key = iota
	quit
	up
	down
	pageUp
	pageDown
)

// screen is a terminal that is drawn anew in place: over its other buffer, so that what was there before comes back. A picture is one write, over the last one, which is
// never cleared first: so nothing flickers.
type screen struct {
	out    io.Writer
	size   func() (width, height int)
	colour bool
	keys   <-chan key
	undo   func() error
}

// frame is a picture.
type frame struct {
	head, body func(status.Look) string
	top        *int // how many lines of the body are scrolled out; bounded when it is drawn
}

const (
	enter     = "\x1b[?1049h\x1b[?25l\x1b[H\x1b[2J" // the other buffer, no cursor
	leave     = "\x1b[?25h\x1b[?1049l"
	begin     = "\x1b[?2026h\x1b[H" // terminals that know of it show nothing before the end
	restOf    = "\x1b[K"
	restBelow = "\x1b[J\x1b[?2026l"
)

// openScreen takes a terminal over.
func openScreen(c *cobra.Command) (*screen, error) {
	out, _ := c.OutOrStdout().(*os.File)
	s := &screen{out: out, colour: os.Getenv("NO_COLOR") == "", undo: func() error { return nil }, size: func() (int, int) { return sizeOf(out) }}
	if in, ok := c.InOrStdin().(*os.File); ok && OnTerminal(in) {
		before, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return nil, fmt.Errorf("taking the terminal over: %w", err)
		}
		s.undo = func() error { return term.Restore(int(in.Fd()), before) }
		keys := make(chan key)
		go readKeys(in, keys, interrupt) // a read from a terminal can't be broken off: it ends with the process
		s.keys = keys
	}
	_, err := io.WriteString(out, enter)
	return s, err
}

// close gives it back.
func (s *screen) close() error {
	_, err := io.WriteString(s.out, leave)
	if uerr := s.undo(); err == nil {
		err = uerr
	}
	return err
}

// interrupt is Ctrl-C where a terminal does not make a signal of it.
func interrupt() {
	if self, err := os.FindProcess(os.Getpid()); err == nil {
		_ = self.Signal(os.Interrupt)
	}
}

// readKeys reads what is pressed until the input ends, which stops nothing.
func readKeys(in io.Reader, keys chan<- key, interrupted func()) {
	r := bufio.NewReader(in)
	for {
		b, err := r.ReadByte()
		if err != nil {
			return
		}
		k := other
		switch b {
		case 3:
			interrupted()
		case 'q', 'Q':
			k = quit
		case 'j':
			k = down
		case 'k':
			k = up
		case ' ', 'f':
			k = pageDown
		case 'b':
			k = pageUp
		case 0x1b:
			k = escaped(r)
		}
		keys <- k
	}
}

// escaped reads the rest of a key that comes as several bytes, all of which are there already.
func escaped(r *bufio.Reader) key {
	if r.Buffered() < 2 {
		return other
	}
	if b, _ := r.ReadByte(); b != '[' {
		return other
	}
	switch b, _ := r.ReadByte(); b {
	case 'A':
		return up
	case 'B':
		return down
	case '5', '6':
		if r.Buffered() > 0 {
			_, _ = r.Discard(1)
		}
		if b == '5' {
			return pageUp
		}
		return pageDown
	}
	return other
}

// sizeOf is a terminal's, or what most have.
func sizeOf(f *os.File) (width, height int) {
	if width, height, err := term.GetSize(int(f.Fd())); err == nil && width > 0 && height > 0 {
		return width, height
	}
	return 80, 24
}

// draw shows a picture, cut to what the terminal holds.
func (s *screen) draw(f frame) error {
	width, height := s.size()
	look := status.Look{Width: width, Colour: s.colour, Now: time.Now()}
	lines := split(f.head(look))
	body := split(f.body(look))
	room := max(height-len(lines), 1)
	*f.top = max(0, min(*f.top, len(body)-room))
	body = body[min(*f.top, len(body)):]
	if len(body) > room {
		left := len(body) - room + 1
		body = append(body[:room-1:room-1], look.Paint(status.Subdued, fmt.Sprintf("… %d lines more: j and k scroll", left)))
	}
	lines = append(lines, body...)
	if len(lines) > height {
		lines = lines[:height]
	}
	var b strings.Builder
	b.WriteString(begin)
	for i, line := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		if text.StringWidthWithoutEscSequences(line) > width {
			line = text.Trim(line, width)
			if s.colour {
				line += "\x1b[0m"
			}
		}
		b.WriteString(line + restOf)
	}
	b.WriteString(restBelow)
	_, err := io.WriteString(s.out, b.String())
	return err
}

// split is a text's lines, with nothing in them that a terminal would obey but colours.
func split(s string) []string {
	s = strings.Map(func(r rune) rune {
		if r == '\r' || r == '\t' || r == '\a' || r == '\b' {
			return ' '
		}
		return r
	}, s)
	return strings.Split(strings.TrimRight(s, "\n"), "\n")
}
