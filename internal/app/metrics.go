package app

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/metric"

	"github.com/trickle-verify/trickle/telemetry"
)

// metrics registers what the parts observe and gives what shows it; nil where no status port is served.
func (s Settings) metrics(st *stack, pipeline string, observe ...func(metric.Meter) error) (http.Handler, error) {
	if s.Listen == "" {
		return nil, nil
	}
	m, err := telemetry.NewMetrics(pipeline)
	if err != nil {
		return nil, err
	}
	st.push(func() {
		if err := m.Close(context.Background()); err != nil {
			s.Log.Debug("ending metrics", "err", err)
		}
	})
	for _, register := range observe {
		if err := register(m.Meter()); err != nil {
			return nil, err
		}
	}
	return m.Handler(), nil
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
