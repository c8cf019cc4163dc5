package status

import (
	"cmp"
	"fmt"
	"html"
	"io"
	"net/http"
	"strings"

	"github.com/trickle-verify/trickle/telemetry/pulse"
)

// Probes are what an orchestrator asks. State tells how the process is; nil: it is always well.
//
// A database or a broker that is away, a closed gate and the brake make no process unwell: none of it is mended by a restart.
type Probes struct{ State func() pulse.State }

// on serves the probes: 200 and ok, or 503 and a line that says why; with ?verbose also a line on each loop.
func (p Probes) on(mux *http.ServeMux) {
	probe := func(path string, why func(pulse.State) string) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("Cache-Control", "no-store")
			text, now := "ok", p.state()
			if reason := why(now); reason != "" {
				w.WriteHeader(http.StatusServiceUnavailable)
				text = reason
			}
			if r.URL.Query().Has("verbose") {
				text = strings.Join(append([]string{text}, now.Loops...), "\n")
			}
			_, _ = io.WriteString(w, text+"\n")
		})
	}
	probe("/healthz", func(pulse.State) string { return "" })
	probe("/startupz", starting)
	probe("/livez", stuck)
	probe("/readyz", func(s pulse.State) string {
		for _, why := range []func(pulse.State) string{ending, starting, stuck} {
			if reason := why(s); reason != "" {
				return reason
			}
		}
		return ""
	})
}

func (p Probes) state() pulse.State {
	if p.State == nil {
		return pulse.State{}
	}
	return p.State()
}

func starting(s pulse.State) string {
	if s.Starting == "" {
		return ""
	}
	return "starting: " + s.Starting
}

func stuck(s pulse.State) string {
	if len(s.Stuck) == 0 {
		return ""
	}
	return "stuck: " + strings.Join(s.Stuck, "; ")
}

func ending(s pulse.State) string {
	if !s.Ending {
		return ""
	}
	return "ending"
}

// begin is what a browser sees at / until there is a page: it comes back for that by itself.
func (p Probes) begin(w http.ResponseWriter, _ *http.Request) {
	why := "starting"
	if p.State != nil {
		why = cmp.Or(starting(p.State()), why)
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = fmt.Fprintf(w, `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<meta http-equiv="refresh" content="1"><title>trickle is starting</title></head>
<body><main><h1>trickle is starting</h1><p>%s</p><p>This page reloads by itself.</p></main></body></html>
`, html.EscapeString(why))
}
