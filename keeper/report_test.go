package keeper

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/telemetry"
)

func scraped(t *testing.T, k *Keeper) string {
	t.Helper()
	m, err := telemetry.Start(t.Context(), telemetry.Options{Service: "trickle", Pipeline: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(t.Context())
	if err := k.Observe(m.Meter()); err != nil {
		t.Fatal(err)
	}
	out := httptest.NewRecorder()
	m.Handler().ServeHTTP(out, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	var lines []string
	for line := range strings.Lines(out.Body.String()) {
		if strings.HasPrefix(line, "trickle_baseline_") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	k := New(parsed(t, oneTable), Parts{})
	now := time.Now()
	if got := scraped(t, k); got != "trickle_baseline_build_failures_total{pipeline=\"shop\"} 0\n" {
		t.Errorf("of a publisher that keeps no view:\n%s", got)
	}
	k.state = state{leads: true, known: true, failed: 3, failures: 2, late: "late", building: &cursor.Build{Set: "s2"}, age: baseline.Age{
		Set: "s1", Taken: now.Add(-time.Hour), Events: 42, Expires: now.Add(time.Hour), RefreshDue: now.Add(-30 * time.Minute),
	}}
	got := scraped(t, k)
	for _, line := range []string{
		`trickle_baseline_valid\{pipeline="shop"\} 1`, `trickle_baseline_late\{pipeline="shop"\} 1`, `trickle_baseline_building\{pipeline="shop"\} 1`,
		`trickle_baseline_build_failing\{pipeline="shop"\} 2`, `trickle_baseline_build_failures_total\{pipeline="shop"\} 3`,
		`trickle_baseline_age_seconds\{pipeline="shop"\} 360\d\.`, `trickle_baseline_replay_events\{pipeline="shop"\} 42`,
		`trickle_baseline_refresh_due_seconds\{pipeline="shop"\} -180\d\.`, `trickle_baseline_expires_seconds\{pipeline="shop"\} 359\d\.`,
	} {
		if !regexp.MustCompile(`(?m)^` + line).MatchString(got) {
			t.Errorf("no line %s in\n%s", line, got)
		}
	}
	rules, err := os.ReadFile("../deploy/prometheus/trickle.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`trickle_baseline_\w+`).FindAllString(string(rules), -1) {
		if !strings.Contains(got, name+"{") {
			t.Errorf("a rule is about %s, and there is no such metric", name)
		}
	}
	k.state = state{leads: true, known: true, age: baseline.Age{Reason: "there is no complete set yet"}}
	if got := scraped(t, k); !strings.Contains(got, `trickle_baseline_valid{pipeline="shop"} 0`) || strings.Contains(got, "age_seconds") || strings.Contains(got, "expires") {
		t.Errorf("without a set:\n%s", got)
	}
}

// What others read in the JSON.
func TestReport(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	r := ReportOf(baseline.Age{Set: "s1", Taken: at, Events: 7, RefreshDue: at.Add(6 * time.Hour)}, cursor.Build{Set: "s2", Begun: at, Tables: 2, Done: 1, Rows: 5, Total: 9, Bytes: 11}, at.Add(time.Minute))
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got["set"] != "s1" || got["valid"] != true || got["reason"] != "" || got["age_seconds"] != 60. || got["events"] != 7. || got["refresh_due"] != "2026-03-01T18:00:00Z" || got["expires"] != nil {
		t.Errorf("%s", b)
	}
	building, _ := got["building"].(map[string]any)
	var keys []string
	for k := range building {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	if strings.Join(keys, " ") != "begun bytes rows rows_total set tables tables_done told waiting" || building["tables_done"] != 1. {
		t.Errorf("%v", building)
	}
}
