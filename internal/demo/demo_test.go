package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/trickle-verify/trickle/internal/testbed/browser"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/policy"
)

// testRows are fewer than usual: with the race detector everything takes several times as long.
const testRows = 45_000

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tempFolder makes a folder that takes the place of the system's, so that what is left behind shows. Servers may run as another user.
func tempFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "demo-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	return dir
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// output is written by one goroutine and read by another.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
	on  func(text string) // called with each write
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(p)
	if o.on != nil {
		o.on(string(p))
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

//nolint:paralleltest // it replaces the system's temporary folder
func TestWholeDemo(t *testing.T) {
	tab := browser.Start(t).Open(t)
	dir := tempFolder(t)
	o := Options{Duration: MinDuration, Listen: "127.0.0.1:0", Rows: testRows}
	if *screenshots != "" {
		o.Duration, o.Rows = 90*time.Second, 0
	}
	var out output
	o.Progress = &out
	address, seen, watched := make(chan string, 1), make(chan string, len(sights())), make(chan error, 1)
	told(&out, address)
	over := make(chan struct{})
	go func() { watched <- watch(tab, address, seen, over) }()
	r, err := Run(t.Context(), o)
	close(over)
	why := <-watched
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	shown := []string{}
	for len(seen) > 0 {
		shown = append(shown, <-seen)
	}
	if len(shown) < len(sights()) {
		t.Errorf("of the whole demo the page showed no more than %v: %v; in the end it says %q", shown, why, browser.Eval[string](tab, `document.body.innerText`))
	}
	for _, f := range tab.Faults() {
		if !strings.Contains(f, "503") && !strings.Contains(f, "net::ERR_") { // before it begins, and once it has gone
			t.Errorf("the page made an error: %s", f)
		}
	}
	if faults := r.Faults(); len(faults) > 0 {
		t.Fatalf("faults: %v\n%s", faults, out.String())
	}
	wantEmpty(t, dir)
	if n := sum(r.DriftInjected); n != 1400 {
		t.Errorf("%d rows were made wrong, want 1400", n)
	}
	if r.SourceWrites < 1000 {
		t.Errorf("only %d rows were written under it", r.SourceWrites)
	}
	if r.rows < testRows*9/10 {
		t.Errorf("only %d rows were compared", r.rows)
	}
	for _, want := range []string{"one whole cycle", "partial resync of public.order_items: done", "full resync of public.orders: done", "identical"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the progress lacks %q:\n%s", want, out.String())
		}
	}
	wantShape(t, r)
}

// wantShape checks that the JSON has the keys of the design and no others.
func wantShape(t *testing.T, r Result) {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	type kinds struct{ Missing, Mismatched, Extra *int }
	var shape struct {
		DriftInjected    kinds                        `json:"drift_injected"`
		Corrected        kinds                        `json:"corrected"`
		FalseCorrections *int                         `json:"false_corrections"`
		Resyncs          struct{ Partial, Full *int } `json:"resyncs"`
		Identical        *bool                        `json:"identical"`
		SourceWrites     *int64                       `json:"source_writes"`
		Seconds          *float64                     `json:"seconds"`
	}
	strict := json.NewDecoder(bytes.NewReader(text))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&shape); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if shape.DriftInjected.Extra == nil || shape.Corrected.Mismatched == nil || shape.FalseCorrections == nil || shape.Resyncs.Partial == nil ||
		shape.Resyncs.Full == nil || shape.Identical == nil || shape.SourceWrites == nil || shape.Seconds == nil {
		t.Errorf("keys are missing: %s", text)
	}
}

//nolint:paralleltest // it replaces the system's temporary folder
func TestInterruptedDemoLeavesNothing(t *testing.T) {
	dir := tempFolder(t)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out := output{on: func(text string) {
		if strings.Contains(text, "2/6") {
			interrupt()
		}
	}}
	_, err := Run(ctx, Options{Duration: MinDuration, Progress: &out})
	if err == nil || err.Error() != errInterrupted.Error() {
		t.Errorf("error %v, want %v\n%s", err, errInterrupted, out.String())
	}
	wantEmpty(t, dir)
}

func TestWithoutPostgresThereIsOneClearLine(t *testing.T) {
	dir := tempFolder(t)
	t.Setenv("PG_BIN", dir)
	_, err := Run(t.Context(), Options{Duration: MinDuration, Progress: &output{}})
	if err == nil || !strings.Contains(err.Error(), "PG_BIN") || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v, want one line about PG_BIN", err)
	}
	wantEmpty(t, dir)
}

func TestTheLogOutlivesItsFolder(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	w, err := newWorkspace()
	if err != nil {
		t.Fatal(err)
	}
	w.log.Info("what went wrong")
	kept, err := w.keepLog()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(kept)
	if err != nil || !strings.Contains(string(text), "what went wrong") {
		t.Errorf("kept %q, error %v", text, err)
	}
	if _, err := os.Stat(w.dir); !os.IsNotExist(err) {
		t.Errorf("the folder is still there: %v", err)
	}
}

func TestThePolicyIsValid(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	w, err := newWorkspace()
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	for _, cycle := range []time.Duration{5 * time.Second, 8100 * time.Millisecond, 30 * time.Second} {
		file, err := w.policy(cycle)
		if err != nil {
			t.Fatal(err)
		}
		p, warnings, err := policy.Load(file)
		if err != nil || len(warnings) > 0 {
			t.Fatalf("cycle %s: %v, warnings %v", cycle, err, warnings)
		}
		if got := time.Duration(p.Schedule.Cycle); got != cycle {
			t.Errorf("cycle %s came out as %s", cycle, got)
		}
	}
}

func TestAPartThatEndsFailsTheDemo(t *testing.T) {
	t.Parallel()
	ctx, fail := context.WithCancelCause(t.Context())
	stop := start(ctx, fail, []part{{"the publisher", func(context.Context) error { return context.DeadlineExceeded }}})
	<-ctx.Done()
	stop()
	if err := ended(ctx); err.Error() != "the publisher: context deadline exceeded" {
		t.Errorf("error %v", err)
	}
}

func TestDurationsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	for _, d := range []time.Duration{-time.Second, 0, MinDuration - 1, MaxDuration + 1} {
		_, err := Run(t.Context(), Options{Duration: d, Progress: &output{}})
		if err == nil || !strings.Contains(err.Error(), "from 20s to 1h0m0s") {
			t.Errorf("%s: error %v, want one that says what is allowed", d, err)
		}
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	fine := Result{DriftInjected: ledger.Kinds{Missing: 2, Extra: 1}, Corrected: ledger.Kinds{Missing: 2, Extra: 1}, Resyncs: Resyncs{1, 1}, Identical: true}
	if faults := fine.Faults(); len(faults) > 0 {
		t.Fatalf("a fine demo has faults: %v", faults)
	}
	for want, spoil := range map[string]func(*Result){
		"differ":             func(r *Result) { r.Identical = false },
		"3 rows were made":   func(r *Result) { r.Corrected.Extra = 0 },
		"1 corrections of":   func(r *Result) { r.FalseCorrections = 1 },
		"no partial resync":  func(r *Result) { r.Resyncs.Partial = 0 },
		"no full resync":     func(r *Result) { r.Resyncs.Full = 0 },
		"waited for in vain": func(r *Result) { r.unmet = []string{"waited for in vain"} },
	} {
		r := fine
		spoil(&r)
		if faults := r.Faults(); len(faults) != 1 || !strings.Contains(faults[0], want) {
			t.Errorf("faults %v, want one with %q", faults, want)
		}
	}
}
