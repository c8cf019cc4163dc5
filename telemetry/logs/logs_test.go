package logs_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed/output"
	"github.com/trickle-verify/trickle/telemetry/logs"
)

// However many mismatches there are: they are a few lines, and then one a second, which tell how many they were.
func TestAFloodIsOneLineASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out output.Buffer
		h := logs.New(&out, logs.JSON, slog.LevelInfo)
		log := slog.New(h)
		const seconds, each = 5, 20_000
		for range seconds {
			for i := range each {
				log.With("part", "detector").Warn("drift found", "table", "public.t", "rows", 3, "correction", i, "err", fmt.Errorf("key %d", i))
			}
			log.Info("something else", "table", "public.t")
			log.Debug("nobody wants it")
			time.Sleep(time.Second)
			synctest.Wait()
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		got := strings.Split(strings.TrimSpace(out.String()), "\n")
		var drift, other, folded, repeated, rows int
		for _, line := range got {
			switch {
			case strings.Contains(line, "something else"):
				other++
			case strings.Contains(line, `"repeated":`):
				var n, r int
				_, after, _ := strings.Cut(line, `"table":"public.t","rows":`)
				if _, err := fmt.Sscanf(after, `%d,"err":"key 19999","repeated":%d}`, &r, &n); err != nil || !strings.Contains(line, `"part":"detector"`) {
					t.Fatalf("%s: %v", line, err)
				}
				folded, repeated, rows = folded+1, repeated+n, rows+r
			default:
				drift++
			}
		}
		if other != seconds || drift != 10 || folded != seconds || repeated+drift != seconds*each || rows != 3*repeated {
			t.Errorf("%d lines: %d single ones, %d for %d others with %d rows, and %d that are something else", len(got), drift, folded, repeated, rows, other)
		}
		// Once it is over, the next one begins anew.
		out.Reset()
		log.Warn("drift found", "table", "public.t", "rows", 3)
		if !strings.Contains(out.String(), "drift found") {
			t.Errorf("a line after the flood is not written: %q", out.String())
		}
	})
}

// Who asks for debug wants every line.
func TestDebugIsNotFolded(t *testing.T) {
	t.Parallel()
	var out output.Buffer
	h := logs.New(&out, logs.Text, slog.LevelDebug)
	for range 50 {
		slog.New(h).Debug("a range differs")
	}
	if n := strings.Count(out.String(), "\n"); n != 50 {
		t.Errorf("%d of 50 lines", n)
	}
}

// What comes again and again for hours, a few a second, is a line in ten seconds.
func TestWhatGoesOnIsALineInTenSeconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out output.Buffer
		log := slog.New(logs.New(&out, logs.JSON, slog.LevelInfo))
		for range 3 * 3600 {
			log.Warn("the replica is away")
			time.Sleep(time.Second / 3)
		}
		synctest.Wait()
		if n := strings.Count(out.String(), "\n"); n < 360 || n > 390 {
			t.Errorf("%d lines in an hour", n)
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
	})
}

// What is still being counted when the process ends is written, and one line alone is written as it is.
func TestFlush(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out output.Buffer
		h := logs.New(&out, logs.Text, slog.LevelInfo)
		log := slog.New(h)
		for i := range 11 {
			log.Info("alone", "n", i)
		}
		for i := range 13 {
			log.WithGroup("g").Info("several", "n", i, "took", 1500*time.Millisecond)
		}
		if err := h.Flush(); err != nil {
			t.Error(err)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 22 || !strings.HasSuffix(lines[20], "msg=alone n=10") || !strings.HasSuffix(lines[21], "msg=several g.took=1.5s g.repeated=3") {
			t.Errorf("%d lines, the last:\n%s", len(lines), strings.Join(lines[max(0, len(lines)-3):], "\n"))
		}
		out.Reset()
		if err := h.Flush(); err != nil || out.String() != "" {
			t.Errorf("flushed twice: %q, %v", out.String(), err)
		}
		time.Sleep(time.Minute)
	})
}

// Nothing is lost and nothing is torn where many write at the same time.
func TestManyWriters(t *testing.T) {
	t.Parallel()
	var out output.Buffer
	h := logs.New(&out, logs.JSON, slog.LevelInfo)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 1000 {
				slog.New(h).With("writer", i).Info("written", "rows", 1)
			}
		})
	}
	all.Wait()
	if err := h.Flush(); err != nil {
		t.Fatal(err)
	}
	total := 0
	for line := range strings.Lines(out.String()) {
		n := 1
		if _, after, ok := strings.Cut(line, `"repeated":`); ok {
			if _, err := fmt.Sscanf(after, "%d}", &n); err != nil {
				t.Fatal(err)
			}
		}
		total += n
	}
	if total != 8000 {
		t.Errorf("%d of 8000 lines are accounted for", total)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("the disk is full") }

func TestAFullDisk(t *testing.T) {
	t.Parallel()
	h := logs.New(broken{}, logs.Text, slog.LevelInfo)
	for range 20 {
		slog.New(h).Info("lost")
	}
	if err := h.Flush(); err == nil {
		t.Error("Flush does not say that it could not write")
	}
}
