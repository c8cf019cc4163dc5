package app

import (
	"context"
	"os"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/trickle-verify/trickle/telemetry"
)

// lastWords bounds how long a process that ends tries to send what it has not told yet.
const lastWords = 5 * time.Second

// The names under which the two commands tell about themselves.
const (
	publishing = "trickle"
	consuming  = "trickle-consumer"
)

// telemetry starts what metrics and traces go through.
func (s Settings) telemetry(ctx context.Context, st *stack, service, pipeline string) (*telemetry.Telemetry, error) {
	t, err := telemetry.Start(ctx, telemetry.Options{Service: service, Pipeline: pipeline, Instance: instance(), Log: s.Log})
	if err != nil {
		return nil, err
	}
	st.push(func() {
		ctx, done := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
		defer done()
		if err := t.Close(ctx); err != nil {
			s.Log.Debug("ending telemetry", "err", err)
		}
	})
	return t, nil
}

// instance tells the processes of a pipeline apart.
func instance() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + "/" + strconv.Itoa(os.Getpid())
}

// observe registers what the parts know of themselves.
func observe(meter metric.Meter, parts ...func(metric.Meter) error) error {
	for _, register := range parts {
		if err := register(meter); err != nil {
			return err
		}
	}
	return nil
}

func (p *publisher) observe(meter metric.Meter) error {
	if err := p.reload.Observe(meter); err != nil {
		return err
	}
	if p.keeper != nil {
		if err := p.keeper.Observe(meter); err != nil {
			return err
		}
	}
	return p.slot.Observe(meter, p.watched)
}

func (c *consumer) observe(meter metric.Meter) error {
	if err := c.reload.Observe(meter); err != nil {
		return err
	}
	return c.gate.Observe(meter)
}

// watched is the slot that the policy in force names.
func (p *publisher) watched() string { return p.scanner.Policy().Gate.Slot }
