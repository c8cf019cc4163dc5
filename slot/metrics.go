package slot

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/trickle-verify/trickle/measure"
)

// scrape bounds how long whoever collects metrics waits for the source.
const scrape = 5 * time.Second

// Observe registers the slot's lag with a meter; it is read when somebody asks, and absent while it is unknown or no slot is named.
func (w *Watch) Observe(meter metric.Meter, name func() string) error {
	set := measure.On(meter)
	lag := set.Gauge("trickle.slot.lag", "s", "How far the reader of gate.slot is behind; absent while unknown.")
	usable := set.Gauge("trickle.slot.usable", "", "1 while somebody reads gate.slot and nothing is wrong with it, else 0; absent where the policy names no slot.")
	return set.Observe(func(ctx context.Context, tell measure.Tell) {
		n := name()
		if n == "" {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, scrape)
		defer cancel()
		s, err := w.Look(ctx, n)
		if err != nil || s.Reason != "" {
			tell(usable, 0)
		} else {
			tell(usable, 1)
		}
		if err == nil && s.Lag() >= 0 {
			tell(lag, s.Lag().Seconds())
		}
	})
}
