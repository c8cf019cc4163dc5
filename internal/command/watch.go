package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/status"
)

const (
	leastInterval = 100 * time.Millisecond
	lookWithin    = 10 * time.Second // a server that has not answered by then is away
)

// Picture is how things stand at one moment.
type Picture struct {
	JSON any
	Text func(status.Look) string
}

// Watching shows how things stand, once or again and again.
type Watching struct {
	again bool
	every time.Duration
	// Read takes a look.
	Read func(ctx context.Context) (Picture, error)
}

// WatchFlags adds --watch and --interval.
func WatchFlags(c *cobra.Command) *Watching {
	w := &Watching{}
	c.Flags().BoolVar(&w.again, "watch", false, "go on showing it: on a terminal in place, until q or Ctrl-C; elsewhere a report every --interval, with --format json an object in each line")
	c.Flags().DurationVar(&w.every, "interval", 2*time.Second, "the time between two looks, with --watch")
	return w
}

// Settled refuses flags that make no sense.
func (w *Watching) Settled(c *cobra.Command) error {
	switch {
	case c.Flags().Changed("interval") && !w.again:
		return errors.New("--interval is the time between two looks of --watch: give --watch too")
	case w.every < leastInterval:
		return fmt.Errorf("--interval %s: give at least %s", w.every, leastInterval)
	}
	return nil
}

// Log is where a log may go while this is shown: nowhere, where it would spoil the picture.
func (w *Watching) Log(c *cobra.Command) io.Writer {
	if w.again && OnTerminal(c.OutOrStdout()) {
		return io.Discard
	}
	return os.Stderr
}

// Run shows it.
func (w *Watching) Run(c *cobra.Command, f *Flags) error {
	out := c.OutOrStdout()
	switch {
	case !w.again:
		p, err := w.Read(c.Context())
		if err != nil {
			return err
		}
		if f.JSON() {
			return PrintJSON(out, p.JSON)
		}
		_, err = io.WriteString(out, p.Text(lookOf(out)))
		return err
	case f.JSON():
		return w.lines(c.Context(), out, jsonLine)
	case OnTerminal(out):
		s, err := openScreen(c)
		if err != nil {
			return err
		}
		return errors.Join(w.onScreen(c.Context(), s), s.close())
	default:
		return w.lines(c.Context(), out, textBlock)
	}
}

// lookOf is what a terminal can show.
func lookOf(out io.Writer) status.Look {
	l := status.Look{Now: time.Now()}
	if f, ok := out.(*os.File); ok && OnTerminal(f) {
		l.Width, _ = sizeOf(f)
		l.Colour = os.Getenv("NO_COLOR") == ""
	}
	return l
}

// seen is what came of a look.
type seen struct {
	picture Picture
	err     error
	at      time.Time
}

// look takes one within a bound.
func (w *Watching) look(ctx context.Context) seen {
	bounded, cancel := context.WithTimeout(ctx, max(lookWithin, w.every))
	defer cancel()
	p, err := w.Read(bounded)
	return seen{picture: p, err: err, at: time.Now().UTC()}
}

// lines shows one look after the other, whatever came of it, until the context ends.
func (w *Watching) lines(ctx context.Context, out io.Writer, show func(io.Writer, seen) error) error {
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		s := w.look(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := show(out, s); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// jsonLine is a look as one line: the object of a single report, with the time first; or the time and the error.
func jsonLine(out io.Writer, s seen) error {
	head := struct {
		At    time.Time `json:"at"`
		Error string    `json:"error,omitempty"`
	}{At: s.at}
	if s.err != nil {
		head.Error = s.err.Error()
		return json.NewEncoder(out).Encode(head)
	}
	begin, err := json.Marshal(head)
	if err != nil {
		return err
	}
	rest, err := json.Marshal(s.picture.JSON)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s,%s\n", begin[:len(begin)-1], rest[1:])
	return err
}

// textBlock is a look as a report under its time.
func textBlock(out io.Writer, s seen) error {
	text := ""
	if s.err != nil {
		text = "can't be read: " + oneLine(s.err.Error()) + "\n"
	} else {
		text = s.picture.Text(status.Look{Now: s.at})
	}
	_, err := fmt.Fprintf(out, "-- %s\n%s\n", s.at.Format(time.RFC3339), text)
	return err
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// onScreen shows the newest look in place until somebody quits or the context ends. What can't be read stays as it was, under a line that says so.
func (w *Watching) onScreen(ctx context.Context, s *screen) error {
	looking, stop := context.WithCancel(ctx)
	looks := make(chan seen)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			l := w.look(looking)
			select {
			case looks <- l:
			case <-looking.Done():
				return
			}
			select {
			case <-time.After(w.every):
			case <-looking.Done():
				return
			}
		}
	}()
	defer func() { stop(); <-ended }()
	var v viewed
	if err := s.draw(v.frame(w.every)); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case l := <-looks:
			v.take(l)
		case k := <-s.keys:
			if k == quit {
				return nil
			}
			v.scroll(k)
		}
		if err := s.draw(v.frame(w.every)); err != nil {
			return err
		}
	}
}

// viewed is what has been seen so far.
type viewed struct {
	good   seen // the newest that could be read
	failed error
	since  time.Time // when it began to fail
	top    int       // lines that are scrolled out
}

func (v *viewed) take(s seen) {
	if s.err == nil {
		v.good, v.failed = s, nil
		return
	}
	if v.failed == nil {
		v.since = s.at
	}
	v.failed = s.err
}

func (v *viewed) scroll(k key) {
	switch k {
	case up:
		v.top--
	case down:
		v.top++
	case pageUp:
		v.top -= 10
	case pageDown:
		v.top += 10
	}
	v.top = max(v.top, 0)
}

// frame is what is to be drawn: a head that stays, and what scrolls below it.
func (v *viewed) frame(every time.Duration) frame {
	return frame{top: &v.top, head: func(l status.Look) string {
		at := "nothing seen yet"
		if !v.good.at.IsZero() {
			at = v.good.at.Local().Format("15:04:05")
		}
		head := l.Paint(status.Subdued, fmt.Sprintf("%s, every %s; q quits", at, every)) + "\n"
		if v.failed != nil {
			head += l.Paint(status.Bad, fmt.Sprintf("can't be read since %s: %s", v.since.Local().Format("15:04:05"), oneLine(v.failed.Error()))) + "\n"
			if !v.good.at.IsZero() {
				head += l.Paint(status.Bad, "what follows is of "+at+"; tried again every "+every.String()) + "\n"
			}
		}
		return head
	}, body: func(l status.Look) string {
		if v.good.picture.Text == nil {
			return ""
		}
		return v.good.picture.Text(l)
	}}
}
