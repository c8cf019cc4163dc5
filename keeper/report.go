package keeper

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/measure"
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
	set := measure.On(meter)
	gauge := func(name, unit, text string) measure.Observable {
		return set.Gauge("trickle.baseline."+name, unit, text)
	}
	valid := gauge("valid", "", "1 while the newest set is a restore point, else 0.")
	age := gauge("age", "s", "Since the oldest position of the newest set was read.")
	events := gauge("replay.events", "", "Records that a replay from the newest set would read.")
	due := gauge("refresh.due", "s", "Until the next set is due; below 0: overdue.")
	expires := gauge("expires", "s", "Until the CDC's logs may lose what came after the newest set; absent: never, or unknown.")
	late := gauge("late", "", "1 while the ceilings do not let the next set be ready before the newest expires, else 0.")
	building := gauge("building", "", "1 while a set is being built, else 0.")
	failing := gauge("build.failing", "", "Builds that failed in a row.")
	failures := set.Total("trickle.baseline.build.failures", "", "Builds that failed.")
	return set.Observe(func(_ context.Context, tell measure.Tell) {
		s, now := k.shown(), time.Now()
		tell(failures, float64(s.failed))
		if !s.leads || !s.known {
			return
		}
		tell(valid, 1-measure.Is(s.age.Reason))
		tell(late, measure.Is(s.late))
		tell(failing, float64(s.failures))
		if s.building != nil {
			tell(building, 1)
		} else {
			tell(building, 0)
		}
		if !s.age.Taken.IsZero() {
			tell(age, max(0, now.Sub(s.age.Taken)).Seconds())
			tell(events, float64(s.age.Events))
		}
		if !s.age.RefreshDue.IsZero() {
			tell(due, s.age.RefreshDue.Sub(now).Seconds())
		}
		if !s.age.Expires.IsZero() {
			tell(expires, s.age.Expires.Sub(now).Seconds())
		}
	})
}
