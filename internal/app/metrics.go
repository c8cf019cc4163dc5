package app

import (
	"context"
	"errors"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/trickle-verify/trickle/measure"
	"github.com/trickle-verify/trickle/postgres"
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
func (s Settings) telemetry(ctx context.Context, st *stack, o telemetry.Options) (*telemetry.Telemetry, error) {
	o.Instance, o.Log = instance(), s.Log
	t, err := telemetry.Start(ctx, o)
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

// observeBuild registers which build runs.
func observeBuild(meter metric.Meter) error {
	set := measure.On(meter)
	build := set.Gauge("trickle.build.info", "", "1, with the version of the program and of Go in its labels.", "version", "go")
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
	}
	return set.Observe(func(_ context.Context, tell measure.Tell) { tell(build, 1, version, runtime.Version()) })
}

// observe registers what the parts know of themselves.
func observe(meter metric.Meter, parts ...func(metric.Meter) error) error {
	parts = append(parts, observeBuild)
	for _, register := range parts {
		if err := register(meter); err != nil {
			return err
		}
	}
	return nil
}

// observe registers all but the policy, which both sides of one process share.
func (p *publisher) observe(meter metric.Meter) error {
	if p.keeper != nil {
		if err := p.keeper.Observe(meter); err != nil {
			return err
		}
	}
	if err := errors.Join(p.scheduler.Observe(meter), p.server.Observe(meter), observeSource(meter, p.source.Seen)); err != nil {
		return err
	}
	return p.slot.Observe(meter, p.watched)
}

// observeSource registers what reading the source met with.
func observeSource(meter metric.Meter, seen func() postgres.Seen) error {
	set := measure.On(meter)
	cancelled := set.Total("trickle.source.reads.cancelled", "", "Reads of a standby that were in the way of its replay and were tried again.")
	standby := set.Gauge("trickle.source.standby", "", "1 while what is read is a standby, else 0.")
	return set.Observe(func(_ context.Context, tell measure.Tell) {
		s := seen()
		tell(cancelled, float64(s.Cancelled))
		tell(standby, 0)
		if s.Standby {
			tell(standby, 1)
		}
	})
}

func (c *consumer) observe(meter metric.Meter) error {
	return errors.Join(c.gate.Observe(meter), c.gauges.Observe(meter))
}

// watched is the slot that the policy in force names.
func (p *publisher) watched() string { return p.scanner.Policy().Gate.Slot }
