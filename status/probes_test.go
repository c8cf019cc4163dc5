package status_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/status"
	"github.com/trickle-verify/trickle/telemetry/pulse"
)

// What the probes answer, before and after there is a page, in each state that a process can be in.
func TestProbes(t *testing.T) {
	t.Parallel()
	var state pulse.State
	address := free(t)
	port, err := status.Listen(t.Context(), address, status.Probes{State: func() pulse.State { return state }})
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	ask := func(path string) (int, string) {
		resp, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, strings.TrimSpace(string(text))
	}
	state = pulse.State{Starting: "waiting: <b>no route</b>"}
	if code, text := ask("/"); code != http.StatusServiceUnavailable || !strings.Contains(text, "waiting: &lt;b&gt;no route") || !strings.Contains(text, `http-equiv="refresh"`) {
		t.Errorf("before there is a page, a browser is told %d %q", code, text)
	}
	check := func(when string) {
		for _, c := range []struct {
			state                string
			is                   pulse.State
			startup, live, ready string
		}{
			{"starting", pulse.State{Starting: "waiting: no route"}, "starting: waiting: no route", "ok", "starting: waiting: no route"},
			{"at work", pulse.State{}, "ok", "ok", "ok"},
			{"stuck", pulse.State{Stuck: []string{"the scan", "resyncing"}}, "ok", "stuck: the scan; resyncing", "stuck: the scan; resyncing"},
			{"ending", pulse.State{Ending: true}, "ok", "ok", "ending"},
		} {
			state = c.is
			for path, want := range map[string]string{"/startupz": c.startup, "/livez": c.live, "/readyz": c.ready, "/healthz": "ok"} {
				status := http.StatusServiceUnavailable
				if want == "ok" {
					status = http.StatusOK
				}
				if code, text := ask(path); code != status || text != want {
					t.Errorf("%s, %s: %s answers %d %q, want %d %q", when, c.state, path, code, text, status, want)
				}
			}
		}
	}
	check("before there is a page")
	state = pulse.State{Loops: []string{"the scan: turned 1s ago", "resyncing: waits for something outside"}}
	if code, text := ask("/livez?verbose"); code != http.StatusOK || text != "ok\nthe scan: turned 1s ago\nresyncing: waits for something outside" {
		t.Errorf("in full: %d %q", code, text)
	}
	state = pulse.State{Starting: "waiting: no route"}
	for _, path := range []string{"/status.json", "/metrics"} {
		if code, text := ask(path); code != http.StatusServiceUnavailable || text != "starting: waiting: no route" {
			t.Errorf("before there is a page %s answers %d %q", path, code, text)
		}
	}
	state = pulse.State{}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- port.Serve(ctx, status.Page{JSON: func(context.Context) (any, error) { return "shown", nil }, Log: slog.New(slog.DiscardHandler)})
	}()
	for {
		if code, text := ask("/status.json"); code == http.StatusOK {
			if text != `"shown"` {
				t.Errorf("the page shows %s", text)
			}
			break
		}
	}
	check("with a page")
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
