package slot_test

import (
	"errors"
	"net/http/httptest"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/slot"
	"github.com/trickle-verify/trickle/telemetry"
)

// The slot is looked at when somebody collects, under the name that the policy in force gives; what is unknown is absent.
func TestMetrics(t *testing.T) {
	t.Parallel()
	f := &fake{began: time.Now(), still: true, slot: postgres.Slot{Logical: true, Active: true, Database: "shop", Here: "shop"}}
	w := slot.New(f)
	m, err := telemetry.Start(t.Context(), telemetry.Options{Service: "trickle", Pipeline: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(t.Context())
	name := ""
	if err := w.Observe(m.Meter(), func() string { return name }); err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^trickle_slot_\w+\{pipeline="orders"\} [0-9]`)
	shows := func(when string, want ...string) {
		t.Helper()
		out := httptest.NewRecorder()
		m.Handler().ServeHTTP(out, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
		if got := lines.FindAllString(out.Body.String(), -1); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	const lag, usable, useless = `trickle_slot_lag_seconds{pipeline="orders"} 0`, `trickle_slot_usable{pipeline="orders"} 1`, `trickle_slot_usable{pipeline="orders"} 0`
	shows("no slot is named")
	name = "cdc"
	shows("it is read", lag, usable)
	f.slot.Active = false
	shows("nobody reads it", lag, useless)
	f.missing = true
	shows("it is missing", useless)
	f.err = errors.New("gone")
	shows("the source can't be asked", useless)
}
