// Package measure is how a part says what it measures: instruments with their names, units, meanings and labels.
//
// It decides what an instrument is told with, and nothing of where the numbers go: that is the meter's business, which may be any of OpenTelemetry's API, so
// whoever embeds a part brings no SDK along. What always holds: an instrument has the labels that it was declared with, in every observation; what a meter
// that is also a Catalogue registers is exactly what is declared; a table has a series of its own only as long as there are few enough of them. When a meter
// refuses an instrument, the instrument says nothing and Set.Observe returns why.
package measure

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
)

// Kind of an instrument, in Prometheus's words.
type Kind string

// The kinds.
const (
	Gauge     Kind = "gauge"
	Counter   Kind = "counter"
	Histogram Kind = "histogram"
)

// Def is what is declared of an instrument.
type Def struct {
	Name   string // trickle.gate.lag
	Kind   Kind
	Unit   string // s, By, or 1 for a share; empty for a number of things
	Text   string
	Labels []string
}

// Catalogue is a meter that wants to know what is declared.
type Catalogue interface{ Declare(d Def) }

// Set is the instruments of one part.
type Set struct {
	meter metric.Meter
	errs  []error
	seen  []metric.Observable
}

// On begins a set; a nil meter measures nothing.
func On(meter metric.Meter) *Set {
	if meter == nil {
		meter = noop.Meter{}
	}
	return &Set{meter: meter}
}

func (s *Set) declare(d Def, err error) Def {
	if err != nil {
		s.errs = append(s.errs, fmt.Errorf("registering %s: %w", d.Name, err))
	}
	if c, ok := s.meter.(Catalogue); ok {
		c.Declare(d)
	}
	return d
}

// Observable is an instrument that is asked.
type Observable struct {
	def Def
	in  metric.Float64Observable
}

// Gauge declares what goes up and down.
func (s *Set) Gauge(name, unit, text string, labels ...string) Observable {
	in, err := s.meter.Float64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(text))
	return s.observable(Def{name, Gauge, unit, text, labels}, in, err)
}

// Total declares what is counted elsewhere and never falls while the process lives.
func (s *Set) Total(name, unit, text string, labels ...string) Observable {
	in, err := s.meter.Float64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(text))
	return s.observable(Def{name, Counter, unit, text, labels}, in, err)
}

func (s *Set) observable(d Def, in metric.Float64Observable, err error) Observable {
	if err == nil {
		s.seen = append(s.seen, in)
	}
	return Observable{s.declare(d, err), in}
}

// Adder is a counter that is told.
type Adder struct {
	def Def
	in  metric.Float64Counter
}

// Counter declares what is counted as it happens.
func (s *Set) Counter(name, unit, text string, labels ...string) Adder {
	in, err := s.meter.Float64Counter(name, metric.WithUnit(unit), metric.WithDescription(text))
	return Adder{s.declare(Def{name, Counter, unit, text, labels}, err), in}
}

// Add counts; 0 makes the series known, so that its first event is seen as an increase.
func (a Adder) Add(ctx context.Context, n float64, labels ...string) {
	if a.in != nil {
		a.in.Add(ctx, n, attributes(a.def, labels))
	}
}

// Recorder is a histogram that is told.
type Recorder struct {
	def Def
	in  metric.Float64Histogram
}

// Seconds declares how long something takes, from milliseconds to a minute.
func (s *Set) Seconds(name, text string, labels ...string) Recorder {
	in, err := s.meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(text),
		metric.WithExplicitBucketBoundaries(.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60))
	return Recorder{s.declare(Def{name, Histogram, "s", text, labels}, err), in}
}

// Record takes one in.
func (r Recorder) Record(ctx context.Context, v float64, labels ...string) {
	if r.in != nil {
		r.in.Record(ctx, v, attributes(r.def, labels))
	}
}

// Tell takes the value of an instrument now.
type Tell func(of Observable, value float64, labels ...string)

// Observe has fn called whenever somebody wants to know, and returns what was refused of the set. Everything of the set has to be declared by then.
func (s *Set) Observe(fn func(ctx context.Context, tell Tell)) error {
	if len(s.errs) > 0 || fn == nil || len(s.seen) == 0 {
		return errors.Join(s.errs...)
	}
	_, err := s.meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		fn(ctx, func(of Observable, value float64, labels ...string) {
			o.ObserveFloat64(of.in, value, attributes(of.def, labels))
		})
		return nil
	}, s.seen...)
	if err != nil {
		return fmt.Errorf("registering %d instruments: %w", len(s.seen), err)
	}
	return nil
}

// attributes pairs labels with their values; what has none is empty.
func attributes(d Def, values []string) metric.MeasurementOption {
	pairs := make([]attribute.KeyValue, len(d.Labels))
	for i, name := range d.Labels {
		value := ""
		if i < len(values) {
			value = values[i]
		}
		pairs[i] = attribute.String(name, value)
	}
	return metric.WithAttributeSet(attribute.NewSet(pairs...))
}

// Is is 1 where a reason is given, else 0.
func Is(reason string) float64 {
	if reason != "" {
		return 1
	}
	return 0
}
