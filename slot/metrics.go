package slot

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// scrape bounds how long whoever collects metrics waits for the source.
const scrape = 5 * time.Second

// Observe registers the slot's lag with a meter; it is read when somebody asks, and absent while it is unknown or no slot is named.
func (w *Watch) Observe(meter metric.Meter, name func() string) error {
	lag, err := meter.Float64ObservableGauge("trickle.slot.lag", metric.WithUnit("s"), metric.WithDescription("How far the reader of gate.slot is behind; absent while unknown."))
	if err != nil {
		return fmt.Errorf("registering the slot's metrics: %w", err)
	}
	usable, err := meter.Int64ObservableGauge("trickle.slot.usable", metric.WithDescription("1 while somebody reads gate.slot and nothing is wrong with it, else 0."))
	if err != nil {
		return fmt.Errorf("registering the slot's metrics: %w", err)
	}
	_, err = meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		n := name()
		if n == "" {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, scrape)
		defer cancel()
		s, err := w.Look(ctx, n)
		if err != nil || s.Reason != "" {
			o.ObserveInt64(usable, 0)
		} else {
			o.ObserveInt64(usable, 1)
		}
		if err == nil && s.Lag() >= 0 {
			o.ObserveFloat64(lag, s.Lag().Seconds())
		}
		return nil
	}, lag, usable)
	if err != nil {
		return fmt.Errorf("registering the slot's metrics: %w", err)
	}
	return nil
}
