package connect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// States of a connector and of its tasks.
const (
	Running = "RUNNING"
	Paused  = "PAUSED"  // its tasks wait, holding what they hold: a source its replication slot
	Stopped = "STOPPED" // it has no tasks
	Failed  = "FAILED"
)

// Connector is one by its name, whether it exists or not.
type Connector struct {
	worker *Worker
	name   string
}

// Connector names one.
func (w *Worker) Connector(name string) Connector { return Connector{w, name} }

// Name is the connector's. The consumer group of a sink is "connect-" and this name.
func (c Connector) Name() string { return c.name }

// Put creates the connector, or changes its settings, and waits until it runs.
func (c Connector) Put(ctx context.Context, settings map[string]string) error {
	if err := c.call(ctx, http.MethodPut, "/config", settings, nil); err != nil {
		return err
	}
	return c.Await(ctx, Running)
}

// Pause has the connector's tasks wait, and waits until they do.
func (c Connector) Pause(ctx context.Context) error { return c.steer(ctx, "/pause", Paused) }

// Resume has a paused or stopped connector go on, and waits until it does.
func (c Connector) Resume(ctx context.Context) error { return c.steer(ctx, "/resume", Running) }

// Stop ends the connector's tasks, and waits until they are gone. It keeps its settings and its offsets.
func (c Connector) Stop(ctx context.Context) error { return c.steer(ctx, "/stop", Stopped) }

func (c Connector) steer(ctx context.Context, path, state string) error {
	if err := c.call(ctx, http.MethodPut, path, nil, nil); err != nil {
		return err
	}
	return c.Await(ctx, state)
}

// Restart ends the connector with its tasks and starts them anew, and waits until they run.
func (c Connector) Restart(ctx context.Context) error {
	if err := c.call(ctx, http.MethodPost, "/restart?includeTasks=true", nil, nil); err != nil {
		return err
	}
	return c.Await(ctx, Running)
}

// Delete removes the connector, and waits until it is gone. A source's replication slot stays.
func (c Connector) Delete(ctx context.Context) error {
	if err := c.call(ctx, http.MethodDelete, "", nil, nil); err != nil {
		return err
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		s, err := c.Status(ctx)
		if unknown(err) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("connector %s is not gone but %+v: %w", c.name, s, errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

// Status is what Connect says of a connector.
type Status struct {
	Connector struct{ State, Trace string }
	Tasks     []struct {
		ID           int
		State, Trace string
	}
}

// Status asks after the connector.
func (c Connector) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.call(ctx, http.MethodGet, "/status", nil, &s)
	return s, err
}

// failure is the trace of whatever failed.
func (s Status) failure() error {
	var failures []error
	if s.Connector.State == Failed {
		failures = append(failures, errors.New(s.Connector.Trace))
	}
	for _, t := range s.Tasks {
		if t.State == Failed {
			failures = append(failures, fmt.Errorf("task %d: %s", t.ID, t.Trace))
		}
	}
	return errors.Join(failures...)
}

// in tells whether the connector and its tasks are in a state.
func (s Status) in(state string) bool {
	for _, t := range s.Tasks {
		if t.State != state {
			return false
		}
	}
	return s.Connector.State == state && (len(s.Tasks) > 0) != (state == Stopped)
}

// Await waits until the connector and its tasks are in a state. A failed task ends the wait with its trace.
func (c Connector) Await(ctx context.Context, state string) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		s, err := c.Status(ctx)
		switch {
		case err == nil && s.in(state):
			return nil
		case err == nil:
			if failure := s.failure(); failure != nil {
				return fmt.Errorf("connector %s failed: %w", c.name, failure)
			}
		case !unknown(err): // one that was just created has no status yet
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("connector %s is not %s but %+v: %w", c.name, state, s, errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

func (c Connector) call(ctx context.Context, method, path string, body, answer any) error {
	path = "/connectors/" + url.PathEscape(c.name) + path
	for {
		err := c.worker.call(ctx, method, path, body, answer)
		if !busy(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pollInterval):
		}
	}
}

// refusal is an answer other than a 2xx.
type refusal struct {
	status     int
	call, text string
}

func (r *refusal) Error() string {
	return fmt.Sprintf("connect refused %s with %d: %s", r.call, r.status, r.text)
}

// busy tells that the worker was in the middle of handing out tasks, and wants to be asked again.
func busy(err error) bool {
	var r *refusal
	return errors.As(err, &r) && r.status == http.StatusConflict
}

// unknown tells that the worker knows no such connector, or nothing of it yet.
func unknown(err error) bool {
	var r *refusal
	return errors.As(err, &r) && r.status == http.StatusNotFound
}

func (w *Worker) call(ctx context.Context, method, path string, body, answer any) error {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, w.URL()+path, content)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := w.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return &refusal{resp.StatusCode, method + " " + path, string(text)}
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(text, answer)
}
