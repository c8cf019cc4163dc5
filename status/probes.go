package status

import (
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
	state := p.State
	if state == nil {
		state = func() pulse.State { return pulse.State{} }
	}
	probe := func(path string, why func(pulse.State) string) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("Cache-Control", "no-store")
			text, now := "ok", state()
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
