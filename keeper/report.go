package keeper

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/cursor"
)

// Report is how the base-line view stands, as `trickle status --format json` prints it.
type Report struct {
	Set        string     `json:"set"` // the newest complete one; empty: there is none
	Valid      bool       `json:"valid"`
	Reason     string     `json:"reason"`      // why it is no restore point; empty: it is one
	AgeSeconds *float64   `json:"age_seconds"` // since its oldest position was read; null: not known
	Events     int64      `json:"events"`      // that a replay would read
	RefreshDue *time.Time `json:"refresh_due"` // null: not known
	Expires    *time.Time `json:"expires"`     // from when on its beginning may be gone; null: never, or not known
	Unknown    string     `json:"unknown"`     // what can't be told about that, and why
	Trouble    string     `json:"trouble"`     // why it can't be looked at just now
	Late       string     `json:"late"`        // why it is going to expire before the next set is ready
	Building   *Building  `json:"building"`    // null: no set is being built
	Failures   int        `json:"failures"`    // of builds, in a row
	Failure    string     `json:"failure"`     // why the last one failed
	Retry      *time.Time `json:"retry"`
}

// Building is how far a build is.
type Building struct {
	Set        string    `json:"set"`
	Begun      time.Time `json:"begun"`
	Tables     int       `json:"tables"`
	TablesDone int       `json:"tables_done"`
	Rows       uint64    `json:"rows"`
	RowsTotal  uint64    `json:"rows_total"` // as many as there seem to be
	Bytes      int64     `json:"bytes"`      // written to the store
	Waiting    string    `json:"waiting"`    // what holds it
	Told       time.Time `json:"told"`       // when the publisher that builds said so last
}

// ReportOf puts together how a set stands and what is told of the build of the next.
func ReportOf(age baseline.Age, b cursor.Build, now time.Time) Report {
	r := Report{
		Set: age.Set, Valid: age.Reason == "", Reason: age.Reason, Events: age.Events, Unknown: age.Unknown,
		RefreshDue: when(age.RefreshDue), Expires: when(age.Expires), Failures: b.Failures, Failure: b.Failure, Retry: when(b.Retry),
	}
	if !age.Taken.IsZero() {
		s := max(0, now.Sub(age.Taken)).Seconds()
		r.AgeSeconds = &s
	}
	if b.Set != "" {
		r.Building = &Building{Set: b.Set, Begun: b.Begun, Tables: b.Tables, TablesDone: b.Done, Rows: b.Rows, RowsTotal: b.Total, Bytes: b.Bytes, Waiting: b.Waiting, Told: b.Told}
	}
	return r
}

func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// Status is how the view stands; nil where the policy has none, where another publisher keeps it, and before it was looked at.
func (k *Keeper) Status() *Report {
	s := k.shown()
	if !s.leads || !s.known && s.trouble == "" {
		return nil
	}
	b := cursor.Build{Failures: s.failures, Failure: s.failure, Retry: s.retry}
	if s.building != nil {
		b = *s.building
		b.Failures, b.Failure, b.Told = s.failures, s.failure, time.Now().UTC()
	}
	if !s.known {
		s.age.Reason = "it is not known yet: " + s.trouble
	}
	r := ReportOf(s.age, b, time.Now())
	r.Trouble, r.Late = s.trouble, s.late
	return &r
}

// Observe registers the state of the view with a meter. Of several publishers only the one that keeps the view tells.
func (k *Keeper) Observe(meter metric.Meter) error {
	var failed error
	gauge := func(name, unit, text string) metric.Float64ObservableGauge {
		g, err := meter.Float64ObservableGauge("trickle.baseline."+name, metric.WithUnit(unit), metric.WithDescription(text))
		if err != nil {
			failed = err
		}
		return g
	}
	valid := gauge("valid", "", "1 while the newest set is a restore point, else 0.")
	age := gauge("age", "s", "Since the oldest position of the newest set was read.")
	events := gauge("replay.events", "", "Records that a replay from the newest set would read.")
	due := gauge("refresh.due", "s", "Until the next set is due; below 0: overdue.")
	expires := gauge("expires", "s", "Until the CDC's logs may lose what came after the newest set; absent: never, or unknown.")
	late := gauge("late", "", "1 while the ceilings do not let the next set be ready before the newest expires, else 0.")
	building := gauge("building", "", "1 while a set is being built, else 0.")
	failing := gauge("build.failing", "", "Builds that failed in a row.")
	failures, err := meter.Int64ObservableCounter("trickle.baseline.build.failures", metric.WithDescription("Builds that failed."))
	if failed == nil {
		failed = err
	}
	if failed != nil {
		return fmt.Errorf("registering the metrics of the base-line view: %w", failed)
	}
	yes := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s, now := k.shown(), time.Now()
		o.ObserveInt64(failures, int64(s.failed))
		if !s.leads || !s.known {
			return nil
		}
		o.ObserveFloat64(valid, yes(s.age.Reason == ""))
		o.ObserveFloat64(late, yes(s.late != ""))
		o.ObserveFloat64(building, yes(s.building != nil))
		o.ObserveFloat64(failing, float64(s.failures))
		if !s.age.Taken.IsZero() {
			o.ObserveFloat64(age, max(0, now.Sub(s.age.Taken)).Seconds())
			o.ObserveFloat64(events, float64(s.age.Events))
		}
		if !s.age.RefreshDue.IsZero() {
			o.ObserveFloat64(due, s.age.RefreshDue.Sub(now).Seconds())
		}
		if !s.age.Expires.IsZero() {
			o.ObserveFloat64(expires, s.age.Expires.Sub(now).Seconds())
		}
		return nil
	}, valid, age, events, due, expires, late, building, failing, failures)
	if err != nil {
		return fmt.Errorf("registering the metrics of the base-line view: %w", err)
	}
	return nil
}
