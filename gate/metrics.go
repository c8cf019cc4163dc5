package gate

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Observe registers the last verdict with a meter: whether the gate is open, what closes it, and each lag that is known.
func (g *Gate) Observe(meter metric.Meter) error {
	open, err := meter.Int64ObservableGauge("trickle.gate.open", metric.WithDescription("1 while corrections are allowed, else 0."))
	if err != nil {
		return fmt.Errorf("registering the gate's metrics: %w", err)
	}
	closed, err := meter.Int64ObservableGauge("trickle.gate.closed", metric.WithDescription("1 for what closes the gate; absent while it is open."))
	if err != nil {
		return fmt.Errorf("registering the gate's metrics: %w", err)
	}
	lag, err := meter.Float64ObservableGauge("trickle.gate.lag", metric.WithUnit("s"), metric.WithDescription("Lag of the replica by each way the policy names; absent while unknown."))
	if err != nil {
		return fmt.Errorf("registering the gate's metrics: %w", err)
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		g.mu.Lock()
		s := g.last
		g.mu.Unlock()
		if s.Open {
			o.ObserveInt64(open, 1)
		} else {
			o.ObserveInt64(open, 0)
			o.ObserveInt64(closed, 1, metric.WithAttributes(attribute.String("by", s.By)))
		}
		for _, m := range s.Measures {
			if m.Lag >= 0 {
				o.ObserveFloat64(lag, m.Lag.Seconds(), metric.WithAttributes(attribute.String("by", m.By)))
			}
		}
		return nil
	}, open, closed, lag)
	if err != nil {
		return fmt.Errorf("registering the gate's metrics: %w", err)
	}
	return nil
}
