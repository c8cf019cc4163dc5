package e2e

import (
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

// The status port shows metrics for Prometheus beside the status itself; an edit of the policy is in force within ten seconds, and one that is refused is named.
func TestMetricsAreServed(t *testing.T) {
	t.Parallel()
	d := newDesk(t, pgtest.Server(t, testbed.Options{}))
	d.dst.exec(t, `DELETE FROM t WHERE id <= 2`, `UPDATE t SET v = 'drifted' WHERE id IN (3, 4, 5)`, `INSERT INTO t VALUES (1001, 'extra')`)
	p := d.single("--listen", "127.0.0.1:0")
	p.says(t, "status is served")
	address := regexp.MustCompile(`(http://127\.0\.0\.1:\d+)/["\s]`).FindStringSubmatch(p.stderr.String())[1] // the page's own
	get := func(path string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v: %s", path, answer.Status, err, body)
		}
		return string(body)
	}
	named := `consumer="[^"]+",(\w+="[^"]*",)*pipeline="` + pipelineOf(t, d) + `"`
	shows := func(within time.Duration, lines ...string) {
		t.Helper()
		for _, line := range lines {
			name, value, _ := strings.Cut(line, " ")
			name, labels, _ := strings.Cut(strings.TrimSuffix(name, "}"), "{")
			before, after := "", ""
			for _, label := range strings.Split(labels, ",") { // labels come in order of their names
				switch {
				case label == "":
				case label < "consumer":
					before += regexp.QuoteMeta(label) + ","
				case label > "pipeline":
					after += "," + regexp.QuoteMeta(label)
				}
			}
			want := regexp.MustCompile(`(?m)^` + name + `\{` + before + named + after + `\} ` + value + `$`)
			await(t, within, line, func() bool { return want.MatchString(get("/metrics")) })
		}
	}
	shows(patience, `trickle_gate_open 1`, `trickle_corrections_total{kind="missing",table="public.t"} 2`, `trickle_corrections_total{kind="mismatched",table="public.t"} 3`,
		`trickle_corrections_total{kind="extra",table="public.t"} 1`, `trickle_corrections_closed_total{outcome="confirmed"} 6`, `trickle_window_discrepancies{table="public.t"} 6`,
		`trickle_ledger_readable 1`, `trickle_coverage_ratio{table="public.t"} 1`, `trickle_suspects{table="public.t"} 0`, `trickle_table_paused{table="public.t"} 0`,
		`trickle_brake_on 0`, `trickle_corrections_unconfirmed 0`, `trickle_resyncs{scope="full",state="running"} 0`, `trickle_resyncs_ended_total{result="failed",scope="full"} 0`)
	body := get("/metrics")
	for _, want := range []string{"trickle_gate_lag_seconds{by=", "trickle_rows_verified_total{", `trickle_ranges_verified_total{`, `result="different"`, "trickle_scan_rows_total{", "trickle_scan_published_bytes_total{",
		"trickle_scan_source_time_seconds_total{", "trickle_scan_cycle_elapsed_ratio{", "trickle_verification_age_seconds{", "trickle_window_fill_ratio{", "trickle_brake_fill_ratio{",
		"trickle_answer_duration_seconds_count{", "go_goroutines", "process_resident_memory_bytes"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	if body := get("/status.json"); !strings.Contains(body, `"sources":[{"source":`) || !strings.Contains(body, `"scan":{"waiting":`) {
		t.Errorf("no sources of the lag, or no scan, in %s", body)
	}

	edit := func(from, to string) {
		t.Helper()
		text, err := os.ReadFile(d.policy)
		if err != nil || !strings.Contains(string(text), from) {
			t.Fatalf("%v, or no %q in %s", err, from, text)
		}
		if err := os.WriteFile(d.policy, []byte(strings.Replace(string(text), from, to, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const within = 10 * time.Second
	edit("pipeline: plain", "range_rows: 4000\npipeline: plain")
	shows(within, `trickle_policy_reloads_total{result="applied"} 1`, `trickle_policy_refused 0`)
	edit("range_rows: 4000", "range_rows: many")
	shows(within, `trickle_policy_refused 1`, `trickle_policy_reloads_total{result="refused"} 1`)
	if body := get("/status.json"); !strings.Contains(body, `"refused":"`) || !strings.Contains(body, `policy.yaml:2:1: range_rows`) {
		t.Errorf("the refused edit is not in %s", body)
	}
	for _, want := range []string{"An edit of the policy is refused", "policy.yaml:2:1: range_rows", "trickle policy validate", "Last corrections", "Scan of the source"} { // both sides on one page
		await(t, patience, "the live page has "+want, func() bool { return strings.Contains(get("/"), want) })
	}
	p.says(t, "the edited policy is refused; the old one stays in force")
	edit("range_rows: many", "range_rows: 5000") // the command reads the file as well
	shows(within, `trickle_policy_refused 0`)
	if _, out, _ := run(t, trickleConsumer("status", "--format", "json", "--policy", d.policy, "--replica", d.dst.dsn)); !strings.Contains(out, `"refused": ""`) {
		t.Errorf("no policy in\n%s", out)
	}
}

func pipelineOf(t *testing.T, d *desk) string {
	t.Helper()
	return value[string](t, d.dst, `SELECT min(pipeline) FROM trickle.pipelines`)
}
