package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/output"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/ledger"
)

// terminal is a real one of 80 by 24, of which the test has the other end.
type terminal struct {
	own, theirs *os.File
	shown       output.Buffer
	reading     sync.WaitGroup
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	own, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(f *os.File, request uintptr, what unsafe.Pointer) {
		t.Helper()
		raw, err := f.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		err = raw.Control(func(fd uintptr) {
			if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(what)); errno != 0 {
				t.Fatal(errno)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var number, unlocked int32
	ask(own, syscall.TIOCGPTN, unsafe.Pointer(&number))
	ask(own, syscall.TIOCSPTLCK, unsafe.Pointer(&unlocked))
	theirs, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	size := [4]uint16{24, 80}
	ask(own, syscall.TIOCSWINSZ, unsafe.Pointer(&size))
	term := &terminal{own: own, theirs: theirs}
	term.reading.Go(func() { _, _ = io.Copy(&term.shown, own) })
	t.Cleanup(func() {
		theirs.Close()
		own.Close()
		term.reading.Wait()
	})
	return term
}

// shows waits until the newest picture has all of these, and none of those behind a minus.
func (term *terminal) shows(t *testing.T, texts ...string) {
	t.Helper()
	picture := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(pollEvery) {
		pictures := strings.Split(term.shown.String(), "\x1b[?2026h")
		if len(pictures) < 2 {
			continue
		}
		if picture = pictures[len(pictures)-1]; !strings.Contains(picture, "\x1b[?2026l") {
			picture = pictures[len(pictures)-2]
		}
		all := true
		for _, text := range texts {
			not, unwanted := strings.CutPrefix(text, "-")
			all = all && strings.Contains(picture, not) != unwanted
		}
		if all {
			return
		}
	}
	t.Fatalf("never showed %q, but\n%s", texts, picture)
}

func (term *terminal) press(t *testing.T, keys string) {
	t.Helper()
	if _, err := term.own.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

// Status goes on by itself, on a terminal and elsewhere, whatever becomes of the database meanwhile, and ends as whoever stops it says.
func TestStatusIsWatched(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, testbed.Options{})
	admin, replica := connect(t, server.DSN("postgres")), connect(t, pgtest.DatabaseOn(t, server))
	l := ledger.New(replica.pool, "watched")
	if err := l.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Table(t.Context(), "public.t", "cache.t"); err != nil {
		t.Fatal(err)
	}
	policy := writeFile(t, "policy.yaml", "pipeline: watched\ntables: [{table: public.t, replica: cache.t}]\ngate: {assume_lag: 1m}\n")
	args := []string{"status", "--policy", policy, "--replica", replica.dsn, "--watch", "--interval", "200ms"}

	term := newTerminal(t)
	c := trickleConsumer(args...)
	c.tty = term.theirs
	watch := start(t, c)
	lines := start(t, trickleConsumer(append(args, "--format", "json")...))
	text := start(t, trickleConsumer(args...))
	term.shows(t, "pipeline", "watched", "public.t", "q quits", "\x1b[31mclosed: ", "-can't be read")

	name := pgx.Identifier{value[string](t, replica, `SELECT current_database()::text`)}.Sanitize()
	replica.pool.Close()
	admin.exec(t, `ALTER DATABASE `+name+` ALLOW_CONNECTIONS false`, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = `+"'"+strings.Trim(name, `"`)+"'")
	term.shows(t, "can't be read since", "what follows is of", "public.t")
	admin.exec(t, `ALTER DATABASE `+name+` ALLOW_CONNECTIONS true`)
	term.shows(t, "public.t", "-can't be read")
	await(t, patience, "a line of each kind after the outage", func() bool {
		_, after, away := strings.Cut(lines.stdout.String(), `"error":`)
		_, told, _ := strings.Cut(text.stdout.String(), "can't be read")
		return away && strings.Contains(after, `"pipeline":"watched"`) && strings.Contains(told, "pipeline  watched")
	})
	term.press(t, "q")
	if code := watch.wait(t, graceful); code != 0 {
		t.Errorf("q: exit status %d: %s", code, watch.stderr.String())
	}
	if s := term.shown.String(); !strings.Contains(s, "\x1b[?1049h") || !strings.HasSuffix(s, "\x1b[?25h\x1b[?1049l") {
		t.Errorf("the terminal is not given back: %q", tail(s)[max(0, len(tail(s))-60):])
	}
	for line := range strings.Lines(lines.stdout.String()) {
		var one struct{ At time.Time }
		if err := json.Unmarshal([]byte(line), &one); err != nil || one.At.IsZero() {
			t.Errorf("%v: %s", err, line)
		}
	}
	for _, p := range []*process{lines, text} {
		if code := p.stop(t, syscall.SIGINT); code != 130 {
			t.Errorf("interrupted: exit status %d", code)
		}
	}

	// The publisher's status the same, with a broker that is not there and Ctrl-C.
	term = newTerminal(t)
	c = trickle("status", "--policy", policy, "--brokers", "127.0.0.1:1", "--watch")
	c.tty = term.theirs
	watch = start(t, c)
	term.shows(t, "can't be read since", "127.0.0.1:1")
	term.press(t, "\x03")
	if code := watch.wait(t, graceful); code != 130 {
		t.Errorf("Ctrl-C: exit status %d: %s", code, watch.stderr.String())
	}
}
