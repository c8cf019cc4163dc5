package page

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

//go:embed assets
var assets embed.FS

const (
	every    = time.Second      // between two states
	restFor  = 9                // times as long as the last state took
	patience = 10 * time.Second // for a state
	behind   = 8                // states that a watcher may be behind
	most     = 100              // watchers
	stalled  = 10 * time.Second // for one write
	retry    = 2 * time.Second  // after which a browser comes back
)

// Hub serves the page and tells whoever watches what has changed. It is made by New; Run has to run for its streams to live.
type Hub struct {
	read    func(context.Context) (State, error)
	log     *slog.Logger
	version string    // of the page's own files
	told    []section // to all watchers; Run's own

	arrived chan struct{} // holds one when somebody came to watch
	turn    chan struct{} // holds one while somebody reads a state
	over    chan struct{} // closed by the end

	mu       sync.Mutex
	watchers map[*watcher]struct{}
	ended    bool
	last     look
}

// look is a state as it was read and what it looks like.
type look struct {
	at       time.Time // when it was read
	took     time.Duration
	sections []section
	whole    []section // the last ones of which everything was known
	err      error
}

type watcher struct {
	news chan []byte // closed when it is dropped
}

// New serves states as read gives them. Its calls come one at a time. With an error read gives what is known all the same, such as the half that this process has itself.
func New(read func(context.Context) (State, error), log *slog.Logger) *Hub {
	return &Hub{read: read, log: log, version: version(), arrived: make(chan struct{}, 1), turn: make(chan struct{}, 1), over: make(chan struct{}), watchers: map[*watcher]struct{}{}}
}

// Run tells watchers what changes until the context ends, and ends their streams then.
func (h *Hub) Run(ctx context.Context) {
	defer h.end()
	for ctx.Err() == nil {
		if h.watching() == 0 {
			select {
			case <-ctx.Done():
			case <-h.arrived:
			}
			continue
		}
		h.runOnce(ctx)
		h.mu.Lock()
		wait := time.NewTimer(h.last.rest())
		h.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
		wait.Stop()
	}
}

// rest is how long nothing is read after a look.
func (l look) rest() time.Duration { return max(every, restFor*l.took) }

// runOnce tells everybody what has changed.
func (h *Hub) runOnce(ctx context.Context) {
	now := h.look(ctx)
	if ctx.Err() != nil {
		return
	}
	message := h.message(now, h.told)
	h.told = now.sections
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		select {
		case w.news <- message:
		default: // it reads too slowly, and is told everything when it comes back
			h.drop(w)
		}
	}
}

// look returns the newest state that may be shown: the last one as long as it is fresh.
func (h *Hub) look(ctx context.Context) look {
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return look{err: ctx.Err()}
	}
	h.mu.Lock()
	last := h.last
	h.mu.Unlock()
	if !last.at.IsZero() && time.Since(last.at) < last.rest()-every/10 {
		return last
	}
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience) // who asks may go away, others wait for it
	defer cancel()
	go func() {
		select {
		case <-h.over:
			cancel()
		case <-bound.Done():
		}
	}()
	start := time.Now()
	s, err := h.read(bound)
	now := look{at: time.Now(), err: err}
	if err == nil {
		if now.sections, now.err = sections(s); now.err == nil {
			now.whole = now.sections
		}
	}
	if now.took = time.Since(start); now.err != nil {
		now.whole = last.whole
		now.sections = half(s, last.whole)
		h.log.Debug("the page can't be read anew", "err", now.err)
	}
	h.mu.Lock()
	h.last = now
	h.mu.Unlock()
	return now
}

// half is what there is to show of a state that could not be read whole: what is known of it, and of the rest what was known last.
func half(s State, whole []section) []section {
	s.Replica, s.Unread = nil, true
	known, err := sections(s)
	if err != nil {
		known = nil // it is told already that something is wrong
	}
	if len(whole) == 0 {
		return known
	}
	out := make([]section, len(whole))
	for i, was := range whole {
		out[i], out[i].Old = was, true
		for _, is := range known {
			if is.ID == was.ID && is.ID == "scan" && s.Scan != nil {
				out[i] = is
			}
		}
	}
	return out
}

// message is what has changed since; without anything before, it is all.
func (h *Hub) message(l look, before []section) []byte {
	known := make(map[string]string, len(before))
	for _, s := range before {
		known[s.ID] = string(s.HTML)
	}
	news := struct {
		Version string            `json:"version"` // of the page's own files: a browser with others loads the page anew
		Now     time.Time         `json:"now"`
		Trouble string            `json:"trouble"`
		Order   []string          `json:"order"`
		Old     []string          `json:"old"` // those that are as they were known last
		Changed map[string]string `json:"changed"`
	}{Version: h.version, Now: l.at.UTC(), Changed: map[string]string{}}
	if l.err != nil {
		news.Trouble = l.err.Error()
	}
	for _, s := range l.sections {
		news.Order = append(news.Order, s.ID)
		if s.Old {
			news.Old = append(news.Old, s.ID)
		}
		if html, ok := known[s.ID]; !ok || html != string(s.HTML) {
			news.Changed[s.ID] = string(s.HTML)
		}
	}
	text, err := json.Marshal(news)
	if err != nil { // strings and a time
		return []byte("{}")
	}
	return text
}

func (h *Hub) watching() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.watchers)
}

// join adds a watcher, unless there are too many or the end has come.
func (h *Hub) join() (*watcher, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.ended:
		return nil, errEnded
	case len(h.watchers) >= most:
		return nil, errCrowded
	}
	w := &watcher{news: make(chan []byte, behind)}
	h.watchers[w] = struct{}{}
	select {
	case h.arrived <- struct{}{}:
	default:
	}
	return w, nil
}

// drop takes a watcher off; the lock is held.
func (h *Hub) drop(w *watcher) {
	if _, ok := h.watchers[w]; ok {
		delete(h.watchers, w)
		close(w.news)
	}
}

func (h *Hub) leave(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop(w)
}

func (h *Hub) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	close(h.over)
	for w := range h.watchers {
		h.drop(w)
	}
}

// version names the page's files, so that an old page is not fed by a new process.
func version() string {
	h := sha256.New()
	for _, name := range []string{"page.html", "page.css", "page.js"} {
		text, err := assets.ReadFile("assets/" + name)
		if err != nil {
			panic(fmt.Sprintf("page: %s is not embedded: %v", name, err)) // it would not have compiled
		}
		h.Write(text)
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}

// guard sets what a browser may do with what it is served: nothing from elsewhere, nothing in line.
func guard(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}
