// Package status shows how things stand: as JSON over HTTP, and as text.
//
// It decides how a report looks and nothing else. What always holds: /status.json is what the status command prints with --format json;
// /metrics is for Prometheus; /healthz answers 200 while the process serves. When a report can't be read the answer is 503 with the reason.
package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Page is what is served.
type Page struct {
	JSON    func(ctx context.Context) (any, error)
	Metrics http.Handler // nil for none
	Log     *slog.Logger
}

// Port is where a page is served, once it is. Its zero value serves nothing.
type Port struct{ listener net.Listener }

// Listen opens the port, so that one that is taken is told before anything runs. An empty address is no port.
func Listen(ctx context.Context, addr string) (Port, error) {
	if addr == "" {
		return Port{}, nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return Port{}, fmt.Errorf("the status port %s can't be opened: %w; choose another with --listen, or --listen '' for none", addr, err)
	}
	return Port{l}, nil
}

// Serve answers until the context ends, and closes the port.
func (port Port) Serve(ctx context.Context, p Page) error {
	l := port.listener
	if l == nil {
		return nil
	}
	p.Log.Info("status is served", "address", "http://"+l.Addr().String()+"/status.json")
	server := &http.Server{Handler: p.handler(), ReadHeaderTimeout: 5 * time.Second}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serving status: %w", err)
	case <-ctx.Done():
	}
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := server.Shutdown(bound)
	if served := <-done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

func (p Page) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
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
