package policy

import (
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // a zone must mean the same where the machine has no zone files

	"github.com/robfig/cron/v3"
)

// Opens returns when the window opens, in its own time zone. In a policy that Parse returned there is no error.
func (w Window) Opens() (cron.Schedule, error) {
	loc, err := w.location()
	if err != nil {
		return nil, err
	}
	return parseCron(w.Start, loc)
}

func (w Window) location() (*time.Location, error) {
	if w.TimeZone == "Local" { // would mean something else on each machine
		return nil, fmt.Errorf("%q is no time zone: give an IANA name such as UTC or Europe/Berlin", w.TimeZone)
	}
	loc, err := time.LoadLocation(w.TimeZone)
	if err != nil {
		return nil, fmt.Errorf("%q is no time zone: give an IANA name such as UTC or Europe/Berlin", w.TimeZone)
	}
	return loc, nil
}

const cronAllowed = `give five fields (minute hour day month weekday), such as "0 22 * * *"`

func parseCron(spec string, loc *time.Location) (_ cron.Schedule, err error) {
	switch trimmed := strings.TrimSpace(spec); {
	case trimmed == "":
		return nil, fmt.Errorf("is empty: %s", cronAllowed)
	case strings.HasPrefix(trimmed, "TZ=") || strings.HasPrefix(trimmed, "CRON_TZ="):
		return nil, fmt.Errorf("%q names a time zone: put it in time_zone", spec)
	case strings.HasPrefix(trimmed, "@"):
		return nil, fmt.Errorf("%q is no cron expression: %s", spec, cronAllowed)
	}
	defer func() { // the parser is known to panic
		if r := recover(); r != nil {
			err = fmt.Errorf("%q is no cron expression: %s", spec, cronAllowed)
		}
	}()
	schedule, err := cron.ParseStandard(spec)
	if err != nil {
		return nil, fmt.Errorf("%q is no cron expression (%w): %s", spec, err, cronAllowed)
	}
	fixed, ok := schedule.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("%q is no cron expression: %s", spec, cronAllowed)
	}
	fixed.Location = loc
	if fixed.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return nil, fmt.Errorf("%q names a day that never comes: %s", spec, cronAllowed)
	}
	return fixed, nil
}

// clocksChange reports whether the zone has a daylight-saving change ahead.
func clocksChange(loc *time.Location, now time.Time) bool {
	_, end := now.In(loc).ZoneBounds()
	return !end.IsZero()
}
