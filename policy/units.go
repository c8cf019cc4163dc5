package policy

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// Both Parse and the JSON Schema go by these.
const (
	durationPattern = `^([0-9]+(\.[0-9]+)?(ms|s|m|h|d|w))+$`
	keepPattern     = `^(` + forever + `|([0-9]+(\.[0-9]+)?(ms|s|m|h|d|w))+)$`
	sizePattern     = `^[0-9]+(\.[0-9]+)? ?([kKMGTP]i?)?B$`
	percentPattern  = `^(100(\.0+)?|[0-9]{1,2}(\.[0-9]+)?) ?%$`

	forever = "forever"

	durationAllowed = `a time such as 500ms, 10m, 1h30m, 24h or 7d (units ms, s, m, h, d, w)`
	sizeAllowed     = `a size such as 500kB or 1MiB, or a whole number of bytes`
	percentAllowed  = `a percentage such as 2%, or a fraction such as 0.02, from 0 to 100%`
)

var (
	durationText = regexp.MustCompile(durationPattern)
	durationPart = regexp.MustCompile(`([0-9.]+)(ms|s|m|h|d|w)`)
	sizeText     = regexp.MustCompile(sizePattern)
	percentText  = regexp.MustCompile(percentPattern)
)

func unitOf(name string) time.Duration {
	switch name {
	case "ms":
		return time.Millisecond
	case "s":
		return time.Second
	case "m":
		return time.Minute
	case "h":
		return time.Hour
	case "d":
		return 24 * time.Hour
	default:
		return 7 * 24 * time.Hour
	}
}

// UnmarshalText reads "10m", "1h30m", "7d" or "2w". A day is 24 hours, whatever the clocks do.
func (d *Duration) UnmarshalText(text []byte) error {
	if !durationText.Match(text) {
		return fmt.Errorf("%q is no time: give %s", text, durationAllowed)
	}
	var sum float64
	var whole time.Duration // exact as long as the numbers are whole
	for _, m := range durationPart.FindAllStringSubmatch(string(text), -1) {
		unit := unitOf(m[2])
		n, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return fmt.Errorf("%q is no time: give %s", text, durationAllowed)
		}
		sum += n * float64(unit)
		if sum > math.MaxInt64/2 {
			return fmt.Errorf("%q is too long: give at most 100 years", text)
		}
		if i, err := strconv.ParseInt(m[1], 10, 64); err == nil {
			whole += time.Duration(i) * unit
		} else {
			whole += time.Duration(n * float64(unit))
		}
	}
	if whole > 100*365*24*time.Hour {
		return fmt.Errorf("%q is too long: give at most 100 years", text)
	}
	*d = Duration(whole)
	return nil
}

// String is the shortest of the forms that UnmarshalText reads: "7d", "24h", "1h30m".
func (d Duration) String() string {
	t := time.Duration(d)
	const day = 24 * time.Hour
	if t > day && t%day == 0 {
		return strconv.Itoa(int(t/day)) + "d"
	}
	s := t.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText writes what String returns.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what Duration does, or "forever".
func (r *Retention) UnmarshalText(text []byte) error {
	if string(text) == forever {
		*r = Forever
		return nil
	}
	if !durationText.Match(text) {
		return fmt.Errorf("%q is no time: give %s, or %s", text, durationAllowed, forever)
	}
	return (*Duration)(r).UnmarshalText(text)
}

// String is Duration's form, or "forever".
func (r Retention) String() string {
	if r == Forever {
		return forever
	}
	return Duration(r).String()
}

// MarshalText writes what String returns.
func (r Retention) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads "500kB" (thousands), "1MiB" (1024s), or a bare number of bytes.
func (s *Size) UnmarshalText(text []byte) error {
	t := string(text)
	if _, err := strconv.ParseUint(t, 10, 63); err != nil && !sizeText.MatchString(t) {
		return fmt.Errorf("%q is no size: give %s", t, sizeAllowed)
	}
	n, err := humanize.ParseBytes(t)
	if err != nil || n > math.MaxInt64 {
		return fmt.Errorf("%q is no size: give %s", t, sizeAllowed)
	}
	*s = Size(n)
	return nil
}

// String is "1.0 MiB": for people, rounded.
func (s Size) String() string { return humanize.IBytes(uint64(max(s, 0))) }

// MarshalText writes the exact number of bytes.
func (s Size) MarshalText() ([]byte, error) { return strconv.AppendInt(nil, int64(s), 10), nil }

// UnmarshalText reads "2%" or 0.02.
func (p *Percent) UnmarshalText(text []byte) error {
	t := string(text)
	divisor := 1.0
	if percentText.MatchString(t) {
		t, divisor = strings.TrimRight(t, " %"), 100
	}
	f, err := strconv.ParseFloat(t, 64)
	if err != nil || !(f >= 0 && f/divisor <= 1) {
		return fmt.Errorf("%q is out of range: give %s", text, percentAllowed)
	}
	*p = Percent(f / divisor)
	return nil
}

// String is "2%".
func (p Percent) String() string { return strconv.FormatFloat(float64(p)*100, 'g', 6, 64) + "%" }

// MarshalText writes what String returns.
func (p Percent) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// MarshalYAML writes false, or the mapping.
func (h Heartbeat) MarshalYAML() (any, error) {
	if !h.Enabled {
		return false, nil
	}
	type mapping Heartbeat // without this method
	return mapping(h), nil
}
