package demo

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/ledger"
)

var update = flag.Bool("update", false, "write the golden files again")

func midway() State {
	lag := 0.31
	return State{
		Phase: "spoil a whole table: a full resync", Step: 5, Steps: 6, Elapsed: 47 * time.Second, Duration: time.Minute,
		Ready: true, Writes: 15_000, WritesPerSecond: 412.4, Gate: ledger.GateReport{Open: true, LagSeconds: &lag},
		Tables: []Table{{"public.customers", 6, 2, 10, 50_000}, {"public.orders", 5, 31, 38, 180_000}, {"public.order_items", 5, 48, 48, 230_000}},
		Drift: verdict{
			Injected: ledger.Kinds{Missing: 670, Mismatched: 470, Extra: 260}, Found: ledger.Kinds{Missing: 400, Mismatched: 300, Extra: 200},
			Corrected: ledger.Kinds{Missing: 380, Mismatched: 290, Extra: 180},
		},
		Partial: Level{84, 20, "public.orders (29012, 32012]"}, Full: Level{212, 300, "public.orders"},
		Resync:  &ledger.ResyncReport{Scope: entry.Full, Table: "public.orders", State: "running", Rows: 14_000, Corrected: 310, Ranges: 38, RangesDone: 14},
		Resyncs: Resyncs{Partial: 2},
		Events:  []Event{{43 * time.Second, "made 1200 rows wrong in public.orders"}, {46 * time.Second, "full resync of public.orders asked for: 309 discrepancies within 1m0s"}},
	}
}

func TestRender(t *testing.T) {
	t.Parallel()
	closed := midway()
	closed.Gate, closed.Resync, closed.Drift.False = ledger.GateReport{Reason: "no heartbeat has come through CDC yet"}, nil, []string{"public.orders 8 missing"}
	for name, c := range map[string]struct {
		state   State
		size    size
		palette palette
	}{
		"begin":   {State{Phase: "build", Step: 1, Steps: 6, Duration: time.Minute}, size{80, 24}, monochrome},
		"midway":  {midway(), size{120, 40}, monochrome},
		"narrow":  {midway(), size{60, 24}, monochrome},
		"colored": {midway(), size{100, 30}, colored},
		"closed":  {closed, size{100, 30}, monochrome},
	} {
		got := strings.Join(render(c.state, c.size, c.palette), "\n") + "\n"
		file := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s is not as in %s (go test ./internal/demo -update writes it again):\n%s", name, file, got)
		}
	}
}

func TestRenderFitsAnyTerminal(t *testing.T) {
	t.Parallel()
	for width := range 150 {
		for _, height := range []int{0, 1, 5, 24, 60} {
			rows := render(midway(), size{width, height}, monochrome)
			if len(rows) > height {
				t.Errorf("%dx%d: %d rows", width, height, len(rows))
			}
			for _, r := range rows {
				if n := utf8.RuneCountInString(r); n > width {
					t.Errorf("%dx%d: a row of %d characters: %q", width, height, n, r)
				}
			}
		}
	}
}

func TestLiveGivesTheTerminalBack(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := &live{out: &out, palette: monochrome, size: func() size { return size{80, 24} }}
	l.Show(midway())
	if text := out.String(); strings.Contains(text, "\x1b[2J") || !strings.HasPrefix(text, "\x1b[H") {
		t.Errorf("it redraws otherwise than in place: %q", text)
	}
	out.Reset()
	l.Close()
	if text := out.String(); !strings.HasPrefix(text, "\x1b[?25h\x1b[?1049l") || !strings.Contains(text, "00:46  full resync") {
		t.Errorf("closing wrote %q", text)
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := &lines{out: &out}
	s := midway()
	for range 3 {
		l.Show(s)
	}
	s.Elapsed += progressEvery
	l.Show(s)
	l.Show(s)
	want := `00:43  made 1200 rows wrong in public.orders
00:46  full resync of public.orders asked for: 309 discrepancies within 1m0s
00:52  … 412 writes/s, lag 0.3 s, cycle 81 of 96 ranges, drift 1400 injected 900 found 850 corrected, window 84/20 and 212/300, full resync 14 of 38 ranges
`
	if got := out.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestOnlyATerminalIsTakenOver(t *testing.T) {
	t.Parallel()
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, ok := newScreen(file, os.Getenv).(*lines); !ok {
		t.Error("a file is taken for a terminal")
	}
}
