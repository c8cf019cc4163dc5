// Package status shows how things stand: as JSON over HTTP, and as text.
//
// It decides how a report looks and nothing else; the live page, at /, is package page's. What always holds: /status.json has what the status command prints with --format json;
// /metrics is for Prometheus; /healthz answers 200 while the process serves. When a report can't be read the answer is 503 with the reason. The probes tell
// a process that starts (/startupz), one that is stuck (/livez) and one that is at work (/readyz) apart, from before anything is connected.
package status

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Page is what is served.
type Page struct {
	JSON    func(ctx context.Context) (any, error)
	Metrics http.Handler // nil for none
	Live    Live         // nil for none
	Log     *slog.Logger
}

// Live is the live page at /, with its stream of events, which lives as long as Run does.
type Live interface {
	Handler() http.Handler
	Run(ctx context.Context)
}

// Port is where a page is served. While there is none yet it answers what the probes ask. One without an address serves nothing.
type Port struct {
	listener net.Listener
	server   *http.Server
	handler  atomic.Pointer[http.Handler]
	probes   Probes
	done     chan error
}

// Listen opens the port, so that one that is taken is told before anything runs, and answers probes from then on. An empty address is no port. Close it after use.
func Listen(ctx context.Context, addr string, probes Probes) (*Port, error) {
	if addr == "" {
		return &Port{}, nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("the status port %s can't be opened: %w; choose another with --listen, or --listen '' for none", addr, err)
	}
	port := &Port{listener: l, probes: probes, done: make(chan error, 1)}
	first := http.NewServeMux()
	first.HandleFunc("GET /{$}", probes.begin)
	first.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { // what else there is will be there
		http.Error(w, cmp.Or(starting(probes.state()), "starting"), http.StatusServiceUnavailable)
	})
	port.show(first)
	port.server = &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*port.handler.Load()).ServeHTTP(w, r) }),
		ReadHeaderTimeout: 5 * time.Second,
	}
	go func() { port.done <- port.server.Serve(l) }()
	return port, nil
}

// Address is where it is; empty where there is none.
func (port *Port) Address() string {
	if port.listener == nil {
		return ""
	}
	return port.listener.Addr().String()
}

// show serves a mux, and the probes on it.
func (port *Port) show(mux *http.ServeMux) {
	port.probes.on(mux)
	var h http.Handler = mux
	port.handler.Store(&h)
}

// Serve answers with the page as well until the context ends, and closes the port.
func (port *Port) Serve(ctx context.Context, p Page) error {
	if port.listener == nil {
		return nil
	}
	path := "/status.json"
	if p.Live != nil {
		path = "/"
	}
	p.Log.Info("status is served", "address", "http://"+port.listener.Addr().String()+path)
	if p.Live != nil {
		running, stop := context.WithCancel(ctx)
		var live sync.WaitGroup
		live.Go(func() { p.Live.Run(running) })
		defer live.Wait()
		defer stop()
	}
	port.show(p.mux())
	select {
	case err := <-port.done:
		return fmt.Errorf("serving status: %w", err)
	case <-ctx.Done():
	}
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	err := port.server.Shutdown(bound)
	if errors.Is(err, context.DeadlineExceeded) { // browsers open connections that they may need, and say nothing on them
		err = port.server.Close()
	}
	if served := <-port.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// Close closes a port on which nothing came to be served. After Serve it does nothing.
func (port *Port) Close() {
	if port.server != nil {
		_ = port.server.Close() // there is nothing left to lose
	}
}

func (p Page) mux() *http.ServeMux {
	mux := http.NewServeMux()
	if p.Live != nil {
		live := p.Live.Handler()
		for _, path := range []string{"GET /{$}", "GET /events", "GET /assets/"} {
			mux.Handle(path, live)
		}
	}
	if p.Metrics != nil {
		mux.Handle("GET /metrics", p.Metrics)
	}
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, r *http.Request) {
		report, err := p.JSON(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(report); err != nil {
			p.Log.Debug("a reader of the status went away", "err", err)
		}
	})
	return mux
}
