package page

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"path"
	"time"
)

var (
	errEnded   = errors.New("this process is about to end")
	errCrowded = errors.New("too many pages are open already: close some")
)

// Handler serves /, /events and /assets/.
func (h *Hub) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", h.serve)
	mux.HandleFunc("GET /events", h.stream)
	mux.HandleFunc("GET /assets/{version}/{name}", h.asset)
	return mux
}

// serve gives the page as it is now, complete without any script.
func (h *Hub) serve(w http.ResponseWriter, r *http.Request) {
	now := h.look(r.Context())
	var b bytes.Buffer
	if err := h.render(&b, now); err != nil {
		h.log.Error("the page can't be made", "err", err)
		http.Error(w, "the page can't be made; the process's log says why", http.StatusInternalServerError)
		return
	}
	guard(w)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if now.err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(b.Bytes()) // who went away can't be told
}

func (h *Hub) asset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	kinds := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
	kind, ok := kinds[path.Ext(name)]
	text, err := assets.ReadFile("assets/" + name)
	if err != nil || !ok {
		http.NotFound(w, r)
		return
	}
	guard(w)
	w.Header().Set("Content-Type", kind)
	if r.PathValue("version") == h.version {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		w.Header().Set("Cache-Control", "no-store")
	}
	_, _ = w.Write(text) //nolint:gosec // it is one of the embedded files
}

// stream tells what changes until the browser goes away, falls behind, or the process ends.
func (h *Hub) stream(w http.ResponseWriter, r *http.Request) {
	me, err := h.join()
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer h.leave(me)
	guard(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // a proxy that collects would make it jump
	out := http.NewResponseController(w)
	send := func(message []byte) error {
		if err := out.SetWriteDeadline(time.Now().Add(stalled)); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "event: state\ndata: %s\n\n", message); err != nil {
			return err
		}
		return out.Flush()
	}
	if _, err := fmt.Fprintf(w, "retry: %d\n", retry.Milliseconds()); err != nil {
		return
	}
	// Whatever comes from now on is told besides, so nothing between the two is lost.
	if err := send(h.message(h.look(r.Context()), nil)); err != nil {
		return
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case message, ok := <-me.news:
			if !ok || send(message) != nil {
				return
			}
		}
	}
}
