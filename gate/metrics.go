package gate

import (
	"context"

	"go.opentelemetry.io/otel/metric"

	"github.com/trickle-verify/trickle/measure"
)

// Observe registers the last verdict with a meter: whether the gate is open, what closes it, and each lag that is known.
func (g *Gate) Observe(meter metric.Meter) error {
	set := measure.On(meter)
	open := set.Gauge("trickle.gate.open", "", "1 while corrections are allowed, else 0.")
	closed := set.Gauge("trickle.gate.closed", "", "1 for what closes the gate; absent while it is open.", "by")
	lag := set.Gauge("trickle.gate.lag", "s", "Lag of the replica by each way the policy names; absent while unknown.", "by")
	return set.Observe(func(_ context.Context, tell measure.Tell) {
		g.mu.Lock()
		s := g.last
		g.mu.Unlock()
		if s.Open {
			tell(open, 1)
		} else {
			tell(open, 0)
			tell(closed, 1, s.By)
		}
		for _, m := range s.Measures {
			if m.Lag >= 0 {
				tell(lag, m.Lag.Seconds(), m.By)
			}
		}
	})
}
