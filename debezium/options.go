package debezium

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// Options are what a connector was set to and its events do not tell, and whose events they have to be. The zero value is Debezium's defaults.
type Options struct {
	// Placeholder stands in the place of a large value that an update left alone.
	Placeholder string
	// Binary is how bytea is written: "bytes", "base64", "base64-url-safe" or "hex".
	Binary string
	// Decimal is how numeric and money are written, which matters without schemas: "precise", "string" or "double".
	Decimal string
	// Time is how times and timestamps are written, which matters without schemas: "adaptive", "adaptive_time_microseconds", "connect", "isostring", "microseconds" or "nanoseconds".
	Time string
	// Database is the only one whose events are read; empty: any. No setting: events tell theirs.
	Database string
}

const defaultPlaceholder = "__debezium_unavailable_value"

// OptionsOf reads a connector's settings, of which it looks at those that decide how values are written.
func OptionsOf(settings map[string]string) (Options, error) {
	o := Options{Placeholder: settings["unavailable.value.placeholder"]}
	if digits, ok := strings.CutPrefix(o.Placeholder, "hex:"); ok {
		raw, err := hex.DecodeString(digits)
		if err != nil {
			return Options{}, fmt.Errorf("unavailable.value.placeholder: %q is no hexadecimal", o.Placeholder)
		}
		o.Placeholder = string(raw)
	}
	for _, s := range []struct {
		to      *string
		key     string
		allowed []string
	}{
		{&o.Binary, "binary.handling.mode", []string{"bytes", "base64", "base64-url-safe", "hex"}},
		{&o.Decimal, "decimal.handling.mode", []string{"precise", "string", "double"}},
		{&o.Time, "time.precision.mode", []string{"adaptive", "adaptive_time_microseconds", "connect", "isostring", "microseconds", "nanoseconds"}},
	} {
		given, ok := settings[s.key]
		if !ok {
			continue
		}
		for _, a := range s.allowed {
			if strings.EqualFold(given, a) {
				*s.to = a
			}
		}
		if *s.to == "" {
			return Options{}, fmt.Errorf("%s: %q is none of %s", s.key, given, strings.Join(s.allowed, ", "))
		}
	}
	return o, nil
}
