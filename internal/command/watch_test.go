package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/status"
)

// server is what a look reads: up, then away, then up again.
func server(away, back int) func(context.Context) (Picture, error) {
	n := 0
	return func(context.Context) (Picture, error) {
		if n++; n > away && n <= back {
			return Picture{}, errors.New("the replica\ncan't be reached")
		}
		text := fmt.Sprintf("look %d\n", n)
		return Picture{JSON: map[string]int{"look": n}, Text: func(status.Look) string { return text }}, nil
	}
}

// Not on a terminal there is a report every interval, whatever became of the server, until somebody stops it.
func TestWatchInLines(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		show func(io.Writer, seen) error
		want string
	}{
		"json": {jsonLine, `{"at":"2000-01-01T00:00:00Z","look":1}|{"at":"2000-01-01T00:00:05Z","error":"the replica\ncan't be reached"}|{"at":"2000-01-01T00:00:10Z","look":3}|`},
		"text": {textBlock, "-- 2000-01-01T00:00:00Z|look 1||-- 2000-01-01T00:00:05Z|can't be read: the replica can't be reached||-- 2000-01-01T00:00:10Z|look 3||"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				stopped := errors.New("stopped")
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(12*time.Second, func() { cancel(stopped) })
				var out bytes.Buffer
				w := &Watching{every: 5 * time.Second, Read: server(1, 2)}
				if err := w.lines(ctx, &out, c.show); !errors.Is(err, stopped) {
					t.Errorf("ended with %v", err)
				}
				if got := strings.ReplaceAll(out.String(), "\n", "|"); got != c.want {
					t.Errorf("got  %s\nwant %s", got, c.want)
				}
				if name == "json" {
					for line := range strings.Lines(out.String()) {
						if !json.Valid([]byte(line)) {
							t.Errorf("no JSON: %s", line)
						}
					}
				}
			})
		})
	}
}

// terminal is one that a test looks at.
type terminal struct {
	width, height int

	mu      sync.Mutex
	written bytes.Buffer
}

func (t *terminal) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.written.Write(p)
}

func (t *terminal) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.written.String()
}

// picture is what stands on it after the last drawing.
func (t *terminal) picture() []string {
	s := t.String()
	s = s[strings.LastIndex(s, begin)+len(begin):]
	lines := strings.Split(strings.TrimSuffix(s, restBelow), "\r\n")
	for i, l := range lines {
		lines[i] = strings.TrimSuffix(l, restOf)
	}
	return lines
}

func (t *terminal) screen(keys <-chan key) *screen {
	return &screen{out: t, size: func() (int, int) { return t.width, t.height }, keys: keys, undo: func() error { return nil }}
}

// On a terminal the newest picture stands in place, a server that is away is told above the last one, and q ends it.
func TestWatchOnATerminal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		term := &terminal{width: 60, height: 8}
		keys := make(chan key)
		w := &Watching{every: 2 * time.Second, Read: server(2, 3)}
		ended := make(chan error, 1)
		go func() { ended <- w.onScreen(t.Context(), term.screen(keys)) }()
		wait := func(d time.Duration) string {
			time.Sleep(d)
			synctest.Wait()
			return strings.Join(term.picture(), "|")
		}
		if got := wait(0); !strings.Contains(got, "every 2s; q quits|look 1") {
			t.Errorf("at first: %s", got)
		}
		if got := wait(3 * time.Second); !strings.HasSuffix(got, "|look 2") || strings.Contains(got, "can't") {
			t.Errorf("then: %s", got)
		}
		if got := wait(2 * time.Second); !strings.Contains(got, "can't be read since") || !strings.Contains(got, "the replica can't be reached|what follows is of") || !strings.HasSuffix(got, "|look 2") {
			t.Errorf("away: %s", got)
		}
		if got := wait(2 * time.Second); strings.Contains(got, "can't") || !strings.HasSuffix(got, "|look 4") {
			t.Errorf("back: %s", got)
		}
		keys <- quit
		if err := <-ended; err != nil {
			t.Errorf("q: %v", err)
		}
		if strings.Contains(term.String(), "\x1b[2J") {
			t.Error("the screen is cleared between two pictures, which flickers")
		}
	})
}

// Whatever the size of a terminal, a picture fits, and what does not can be scrolled to.
func TestAPictureFits(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a wide line ", 20)
	for _, size := range [][2]int{{80, 24}, {20, 5}, {10, 2}, {1, 1}} {
		term := &terminal{width: size[0], height: size[1]}
		s := term.screen(nil)
		s.colour = true
		top := 0
		f := frame{top: &top, head: func(status.Look) string { return "head\n" }, body: func(l status.Look) string {
			return l.Paint(status.Bad, long) + "\n" + strings.Repeat("x\ty\n", 50) + "last\n"
		}}
		for _, at := range []int{0, 3, 1000} {
			top = at
			if err := s.draw(f); err != nil {
				t.Fatal(err)
			}
			lines := term.picture()
			if len(lines) > size[1] {
				t.Errorf("%v: %d lines", size, len(lines))
			}
			for _, l := range lines {
				if plain := strings.NewReplacer("\x1b[31m", "", "\x1b[2m", "", "\x1b[0m", "").Replace(l); len([]rune(plain)) > size[0] || strings.ContainsAny(plain, "\t\x1b") {
					t.Errorf("%v: %q", size, l)
				}
			}
			if at == 1000 && size[1] > 2 && lines[len(lines)-1] != "last" {
				t.Errorf("%v: scrolled to the end it shows %q", size, lines)
			}
			if at == 0 && size[1] > 2 && !strings.Contains(lines[len(lines)-1], "…") {
				t.Errorf("%v: nothing says that there is more: %q", size, lines)
			}
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	keys := make(chan key, 20)
	interrupts := 0
	readKeys(strings.NewReader("jk b\x1b[A\x1b[B\x1b[5~\x1b[6~\x03q\x1b"), keys, func() { interrupts++ })
	close(keys)
	var got []key
	for k := range keys {
		got = append(got, k)
	}
	if want := fmt.Sprint([]key{down, up, pageDown, pageUp, up, down, pageUp, pageDown, other, quit, other}); fmt.Sprint(got) != want || interrupts != 1 {
		t.Errorf("got %v, %d interrupts, want %v", got, interrupts, want)
	}
}
