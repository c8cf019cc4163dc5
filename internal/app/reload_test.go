package app

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/telemetry"
)

const reloaded = "pipeline: shop\ntables: [{table: public.t}]\ngate: {assume_lag: 1m}\n"

// mount is a config map as Kubernetes mounts it: the file is a link through ..data, which is swapped.
type mount struct {
	t   *testing.T
	dir string
	n   int
}

func (m *mount) put(text string) {
	m.t.Helper()
	m.n++
	version := "..v" + strings.Repeat("i", m.n)
	link := filepath.Join(m.dir, "..data_tmp")
	err := errors.Join(os.Mkdir(filepath.Join(m.dir, version), 0o700), os.WriteFile(filepath.Join(m.dir, version, "policy.yaml"), []byte(text), 0o600),
		os.Symlink(version, link), os.Rename(link, filepath.Join(m.dir, "..data")))
	if err != nil {
		m.t.Fatal(err)
	}
}

// An edit of a mounted policy is in force within seconds; an invalid one is refused and named in the log, the metrics and the status, and the old one stays.
func TestReloadOfAMount(t *testing.T) {
	t.Parallel()
	m := &mount{t: t, dir: t.TempDir()}
	m.put(reloaded)
	file := filepath.Join(m.dir, "policy.yaml")
	if err := os.Symlink("..data/policy.yaml", file); err != nil {
		t.Fatal(err)
	}
	first, _, err := policy.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	settings := Settings{PolicyFile: file, Watch: true, Log: slog.New(slog.NewTextHandler(&log, nil))}
	r := newReload(first)
	tel, err := telemetry.Start(t.Context(), telemetry.Options{Service: "trickle", Pipeline: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Observe(tel.Meter()); err != nil {
		t.Fatal(err)
	}
	told := make(chan policy.State, 10)
	applied := make(chan *policy.Policy, 10)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() {
		ended <- r.watch(ctx, settings, func(p *policy.Policy) error {
			if p.RangeRows == 7 {
				return errors.New("not with seven")
			}
			applied <- p
			return nil
		})
	}()
	go func() {
		ended <- r.tell(ctx, func(_ context.Context, s policy.State) error {
			told <- s
			return nil
		}, settings.Log)
	}()
	next := func(what string) policy.State {
		t.Helper()
		select {
		case s := <-told:
			return s
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: not told within ten seconds", what)
			return policy.State{}
		}
	}
	if s := next("the policy at the start"); s != first.InForce(s.Since) {
		t.Errorf("at the start: %+v", s)
	}
	m.put(reloaded + "quiet: 5m\n")
	edited := next("an edit")
	if edited.Refused != "" || edited.Version == first.Version() || edited.RefusedAt != nil || edited.Since.IsZero() {
		t.Errorf("an edit: %+v", edited)
	}
	if p := <-applied; p.Version() != edited.Version {
		t.Errorf("%s is in force and %s is told", p.Version(), edited.Version)
	}
	refused := func(text, reason string) {
		t.Helper()
		m.put(text)
		s := next(reason)
		if s.Version != edited.Version || !s.Since.Equal(edited.Since) || !strings.Contains(s.Refused, reason) || s.RefusedAt == nil {
			t.Errorf("an edit to be refused for %q: %+v", reason, s)
		}
	}
	refused(reloaded+"quiet: soon\n", "policy.yaml:4:1")
	refused(reloaded+"range_rows: 7\n", "not with seven")
	refused(strings.Replace(reloaded, "shop", "shops", 1), `can't become "shops"`)
	metrics := func() string {
		w := httptest.NewRecorder()
		tel.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
		return w.Body.String()
	}
	for _, line := range []string{`trickle_policy_refused{pipeline="shop"} 1`, `trickle_policy_reloads_total{pipeline="shop",result="refused"} 3`,
		`trickle_policy_reloads_total{pipeline="shop",result="applied"} 1`, `trickle_policy_since_timestamp_seconds{pipeline="shop"} `} {
		if !strings.Contains(metrics(), line) {
			t.Errorf("want %s in\n%s", line, metrics())
		}
	}
	m.put(reloaded + "quiet: 5m\n") // the edit is taken back
	if s := next("what is in force"); s != edited {
		t.Errorf("taken back: %+v, was %+v", s, edited)
	}
	if !strings.Contains(metrics(), `trickle_policy_refused{pipeline="shop"} 0`) {
		t.Errorf("it is refused still:\n%s", metrics())
	}
	cancel()
	for range 2 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	}
	for _, line := range []string{"level=INFO msg=\"the edited policy is in force\"", "level=ERROR msg=\"the edited policy is refused; the old one stays in force\"", "policy.yaml:4:1"} {
		if !strings.Contains(log.String(), line) {
			t.Errorf("want %s in\n%s", line, &log)
		}
	}
	if len(applied) != 0 {
		t.Errorf("%d more were applied", len(applied))
	}
}

// What the ledger could not take is told again.
func TestReloadIsToldUntilItIsKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReload(&policy.Policy{})
		var tries int
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_ = r.tell(ctx, func(context.Context, policy.State) error {
				if tries++; tries < 3 {
					return errors.New("the ledger is away")
				}
				return nil
			}, slog.New(slog.DiscardHandler))
		}()
		time.Sleep(time.Hour)
		cancel()
		synctest.Wait()
		if tries != 3 {
			t.Errorf("told %d times", tries)
		}
	})
}
