// Package browser runs a real Chromium for tests of pages.
//
// It decides how the browser is started: without a window, with a folder of its own, and without a word to anybody but the page under test. What always holds: a
// tab notes every error that its page makes, of scripts, of what a policy forbids and of what could not be loaded, and fails its test by them. Where there is no
// Chromium the test fails and names what installs it.
package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// Browser is a running one. Tabs share it.
type Browser struct{ ctx context.Context } //nolint:containedctx // chromedp's browsers are contexts

// Start starts one, which ends with the test.
func Start(t testing.TB) *Browser {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Fatal("there is no Chromium: make test installs it (scripts/prerequisites), or: apt-get install chromium")
	}
	folder, err := os.MkdirTemp("", "trickle-browser-")
	if err != nil {
		t.Fatal(err)
	}
	flags := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.UserDataDir(folder), chromedp.NoSandbox, chromedp.Headless, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.NoDefaultBrowserCheck, chromedp.WSURLReadTimeout(time.Minute), chromedp.WindowSize(1280, 1000),
	}
	for _, f := range []string{
		"disable-quic", "disable-background-networking", "disable-component-update", "disable-sync", "disable-extensions", "disable-default-apps", "hide-scrollbars",
		"disable-dev-shm-usage", "metrics-recording-only",
	} {
		flags = append(flags, chromedp.Flag(f, true))
	}
	allocated, end := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), flags...)
	ctx, closeIt := chromedp.NewContext(allocated)
	t.Cleanup(func() {
		// It ends when asked to, and some of its processes write to the folder for a moment yet.
		if err := chromedp.Cancel(ctx); err != nil {
			t.Logf("ending the browser: %v", err)
		}
		closeIt()
		end()
		for deadline := time.Now().Add(10 * time.Second); ; {
			if err := os.RemoveAll(folder); err == nil {
				return
			} else if time.Now().After(deadline) {
				t.Errorf("removing the browser's folder: %v", err)
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	if err := chromedp.Run(ctx); err != nil {
		t.Fatalf("starting %s: %v", path, err)
	}
	return &Browser{ctx}
}

// Tab is a page's, with its own faults.
type Tab struct {
	t      testing.TB
	ctx    context.Context //nolint:containedctx // chromedp's tabs are contexts
	mu     sync.Mutex
	faults []string
}

// limit is how long one action may take.
const limit = 30 * time.Second

// Open opens an empty tab. Its faults fail the test at its end.
func (b *Browser) Open(t testing.TB) *Tab {
	t.Helper()
	ctx, closeIt := chromedp.NewContext(b.ctx)
	tab := &Tab{t: t, ctx: ctx}
	chromedp.ListenTarget(ctx, tab.listen)
	t.Cleanup(func() {
		closeIt()
		if faults := tab.Faults(); len(faults) > 0 {
			t.Errorf("the page made errors:\n%s", strings.Join(faults, "\n"))
		}
	})
	tab.Do(network.Enable(), log.Enable(), runtime.Enable())
	return tab
}

func (tab *Tab) listen(event any) {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		tab.faults = append(tab.faults, e.ExceptionDetails.Error())
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.APITypeError || e.Type == runtime.APITypeWarning || e.Type == runtime.APITypeAssert {
			words := make([]string, len(e.Args))
			for i, a := range e.Args {
				words[i] = string(a.Value) + a.Description
			}
			tab.faults = append(tab.faults, fmt.Sprintf("console.%s: %s", e.Type, strings.Join(words, " ")))
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.LevelError || e.Entry.Level == log.LevelWarning || e.Entry.Source == log.SourceSecurity {
			tab.faults = append(tab.faults, fmt.Sprintf("%s: %s (%s)", e.Entry.Source, e.Entry.Text, e.Entry.URL))
		}
	}
}

// Faults takes those that there were so far.
func (tab *Tab) Faults() []string {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	out := tab.faults
	tab.faults = nil
	return out
}

// Try carries actions out, one after another.
func (tab *Tab) Try(actions ...chromedp.Action) error {
	ctx, cancel := context.WithTimeout(tab.ctx, limit)
	defer cancel()
	// The first run of a tab's context makes its target, which must outlive this call.
	if chromedp.FromContext(tab.ctx).Target == nil {
		if err := chromedp.Run(tab.ctx); err != nil {
			return err
		}
	}
	return chromedp.Run(ctx, actions...)
}

// Do is Try, where nothing may fail.
func (tab *Tab) Do(actions ...chromedp.Action) {
	tab.t.Helper()
	if err := tab.Try(actions...); err != nil {
		tab.t.Fatalf("in the browser: %v", err)
	}
}

// Eval is what an expression gives, which may be a promise.
func Eval[T any](tab *Tab, expression string) (v T) {
	tab.t.Helper()
	tab.Do(chromedp.Evaluate(expression, &v, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	return v
}

// Await polls until an expression is true.
func (tab *Tab) Await(what, expression string) {
	tab.t.Helper()
	if err := tab.Try(chromedp.Poll(expression, nil, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(limit))); err != nil {
		tab.t.Fatalf("waiting until %s: %v\n%s", what, err, Eval[string](tab, `document.body.innerText`))
	}
}
