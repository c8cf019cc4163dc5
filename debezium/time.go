package debezium

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// errBeyond is about a time that Debezium could not carry.
var errBeyond = errors.New("Debezium could not write this time: exclude the column (columns.exclude), or have the connector write it otherwise (time.precision.mode)") //nolint:staticcheck // a name

const (
	forever   = "infinity"
	sinceEver = "-infinity"

	microsOfDay = 24 * 60 * 60 * 1_000_000
	// What Debezium makes of infinity, in microseconds.
	lastMicro, firstMicro = 9223372036825200000, -9223372036832400000
)

// What a date of infinity becomes, as the connector's snapshots and its streaming write it.
func endless(days int64) string {
	switch days {
	case -622191234, -2147472692:
		return forever
	case -625821272, -2147472691:
		return sinceEver
	default:
		return ""
	}
}

// moment writes a time that came as a number; ok is false for any other number.
func (d *Decoder) moment(v string, s *schema, t Type) (text string, ok bool, err error) {
	kind, unit := d.timed(s, t)
	if kind == "" {
		return "", false, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return "", false, fmt.Errorf("%w: a time that is no whole number", errUnfit)
	}
	switch kind {
	case "date":
		text, err = date(n)
	case "time":
		text, err = clock(micros(n, unit))
	case "timestamp":
		text, err = timestamp(n, unit)
		if err == nil && t.is("timestamptz") && text != forever && text != sinceEver {
			text = zoned(text)
		}
	default:
		text = span(micros(n, unit))
	}
	return text, true, err
}

// zoned puts the zone in its place.
func zoned(text string) string {
	if day, ok := strings.CutSuffix(text, " BC"); ok {
		return day + "+00 BC"
	}
	return text + "+00"
}

// timed tells what kind of time a number is and in which unit, by its schema or else by the column's type and the connector's mode.
func (d *Decoder) timed(s *schema, t Type) (kind string, unit time.Duration) {
	if s != nil {
		switch s.Name {
		case "io.debezium.time.Date", "org.apache.kafka.connect.data.Date":
			return "date", 0
		case "io.debezium.time.Time", "org.apache.kafka.connect.data.Time":
			return "time", time.Millisecond
		case "io.debezium.time.MicroTime":
			return "time", time.Microsecond
		case "io.debezium.time.NanoTime":
			return "time", time.Nanosecond
		case "io.debezium.time.Timestamp", "org.apache.kafka.connect.data.Timestamp":
			return "timestamp", time.Millisecond
		case "io.debezium.time.MicroTimestamp":
			return "timestamp", time.Microsecond
		case "io.debezium.time.NanoTimestamp":
			return "timestamp", time.Nanosecond
		case "io.debezium.time.MicroDuration":
			return "interval", time.Microsecond
		case "io.debezium.time.NanoDuration":
			return "interval", time.Nanosecond
		}
		return "", 0
	}
	switch {
	case t.is("date"):
		return "date", 0
	case t.is("interval"):
		return "interval", time.Microsecond
	case t.is("time"):
		return "time", d.unit(t, "adaptive_time_microseconds")
	case t.is("timestamp", "timestamptz"):
		return "timestamp", d.unit(t, "")
	default:
		return "", 0
	}
}

// unit is that of times without a schema; micros is a mode in which they are always microseconds.
func (d *Decoder) unit(t Type, always string) time.Duration {
	switch mode := d.options.Time; {
	case mode == "connect":
		return time.Millisecond
	case mode == "nanoseconds":
		return time.Nanosecond
	case mode == "microseconds", mode == always, t.Modifier < 0, t.Modifier > 3:
		return time.Microsecond
	default:
		return time.Millisecond
	}
}

// micros is what no time of day or span is longer than where it would overflow.
func micros(n int64, unit time.Duration) int64 {
	switch {
	case unit == time.Nanosecond:
		return floor(n, 1000)
	case unit == time.Millisecond && n > math.MaxInt64/1000:
		return math.MaxInt64
	case unit == time.Millisecond && n < math.MinInt64/1000:
		return math.MinInt64
	case unit == time.Millisecond:
		return n * 1000
	default:
		return n
	}
}

// date writes a day since 1970.
func date(days int64) (string, error) {
	if text := endless(days); text != "" {
		return text, nil
	}
	year, month, day := civil(days)
	if err := reachable(year); err != nil {
		return "", err
	}
	return calendar(year, month, day), nil
}

// timestamp writes a time since 1970.
func timestamp(n int64, unit time.Duration) (string, error) {
	perSecond := int64(time.Second / unit)
	last, first := int64(lastMicro), int64(firstMicro)
	switch unit {
	case time.Millisecond:
		last, first = last/1000, first/1000
	case time.Nanosecond:
		last, first = math.MaxInt64, math.MinInt64
	}
	switch n {
	case last:
		return forever, nil
	case first:
		return sinceEver, nil
	}
	seconds := floor(n, perSecond)
	fraction := (n - seconds*perSecond) * (1_000_000_000 / perSecond)
	days := floor(seconds, 86400)
	year, month, day := civil(days)
	if err := reachable(year); err != nil {
		return "", err
	}
	of := seconds - days*86400
	text := fmt.Sprintf("%s %02d:%02d:%02d", year4(year)+monthDay(month, day), of/3600, of/60%60, of%60)
	if fraction != 0 {
		text += strings.TrimRight(fmt.Sprintf(".%09d", fraction), "0")
	}
	return text + era(year), nil
}

// reachable refuses what Postgres has no date for.
func reachable(year int64) error {
	if year < -4713 || year > 5874897 {
		return errBeyond
	}
	return nil
}

func floor(n, by int64) int64 {
	q := n / by
	if n%by < 0 {
		q--
	}
	return q
}

// civil is the day of the Gregorian calendar, also before there was one, as Postgres counts; year 0 is 1 BC.
func civil(days int64) (year, month, day int64) {
	days += 719468
	age := floor(days, 146097)
	of := days - age*146097
	years := (of - of/1460 + of/36524 - of/146096) / 365
	of -= 365*years + years/4 - years/100
	m := (5*of + 2) / 153
	day = of - (153*m+2)/5 + 1
	month = m + 3
	if month > 12 {
		month -= 12
	}
	year = years + age*400
	if month <= 2 {
		year++
	}
	return year, month, day
}

func calendar(year, month, day int64) string { return year4(year) + monthDay(month, day) + era(year) }

func year4(year int64) string {
	if year <= 0 {
		year = 1 - year
	}
	return fmt.Sprintf("%04d", year)
}

func monthDay(month, day int64) string { return fmt.Sprintf("-%02d-%02d", month, day) }

func era(year int64) string {
	if year <= 0 {
		return " BC"
	}
	return ""
}

// clock writes a time of day; 24:00 is one.
func clock(us int64) (string, error) {
	if us < 0 || us > microsOfDay {
		return "", fmt.Errorf("%w: no time of day; without schemas, give trickle the connector's settings (--connector FILE), of which time.precision.mode tells", errUnfit)
	}
	return span(us), nil
}

// span writes hours, minutes and seconds.
func span(us int64) string {
	sign := ""
	n := uint64(us)
	if us < 0 {
		sign, n = "-", -n
	}
	text := fmt.Sprintf("%s%02d:%02d:%02d", sign, n/3_600_000_000, n/60_000_000%60, n/1_000_000%60)
	if rest := n % 1_000_000; rest != 0 {
		text += strings.TrimRight(fmt.Sprintf(".%06d", rest), "0")
	}
	return text
}

var isoText = regexp.MustCompile(`^([+-]?\d{4,9})-(\d\d)-(\d\d)(?:T(\d\d:\d\d(?::\d\d(?:\.\d+)?)?))?(Z|[+-]\d\d(?::?\d\d)?)?$`)

// isoMoment writes a time that came as a string.
func isoMoment(v string, t Type) (string, error) {
	switch v {
	case forever, "+infinity", "Infinity":
		return forever, nil
	case sinceEver, "-Infinity":
		return sinceEver, nil
	}
	if t.is("time") {
		return strings.TrimSuffix(v, "Z"), nil
	}
	if t.is("timetz") {
		if utc, ok := strings.CutSuffix(v, "Z"); ok {
			return utc + "+00", nil
		}
		return v, nil
	}
	m := isoText.FindStringSubmatch(v)
	if m == nil {
		return "", fmt.Errorf("%w: no time in ISO 8601", errUnfit)
	}
	switch day := strings.TrimRight(v, "Z"); { // what Debezium makes of infinity
	case strings.HasPrefix(day, "+292278994-08-16"), strings.HasPrefix(day, "-5877611-06-21"), strings.HasPrefix(day, "+294247-01-10T04:00:25.2"):
		return forever, nil
	case strings.HasPrefix(day, "+292269055-12-02"), strings.HasPrefix(day, "-5877611-06-22"), strings.HasPrefix(day, "-290308-12-21T19:59:27.6"):
		return sinceEver, nil
	}
	year, err := strconv.ParseInt(strings.TrimPrefix(m[1], "+"), 10, 64)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errUnfit, err)
	}
	if err := reachable(year); err != nil {
		return "", err
	}
	text := year4(year) + "-" + m[2] + "-" + m[3]
	if t.is("date") {
		return text + era(year), nil
	}
	if m[4] != "" {
		text += " " + m[4]
	}
	if t.is("timestamptz") {
		zone := m[5]
		if zone == "Z" || zone == "" {
			zone = "+00"
		}
		text += zone
	}
	return text + era(year), nil
}
