package e2e

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

// The status port shows metrics for Prometheus beside the status itself.
func TestMetricsAreServed(t *testing.T) {
	t.Parallel()
	d := newDesk(t, pgtest.Server(t, testbed.Options{}))
	p := d.single("--listen", "127.0.0.1:0")
	p.says(t, "/status.json")
	address := regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(p.stderr.String())
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
	await(t, patience, "the gate opens in the metrics", func() bool {
		return strings.Contains(get("/metrics"), "\n"+`trickle_gate_open{pipeline="`+pipelineOf(t, d)+`"} 1`+"\n")
	})
	for _, want := range []string{"trickle_gate_lag_seconds{by=", "go_goroutines", "process_resident_memory_bytes"} {
		if body := get("/metrics"); !strings.Contains(body, "\n"+want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	if body := get("/status.json"); !strings.Contains(body, `"sources":[{"source":`) {
		t.Errorf("no sources of the lag in %s", body)
	}
}

func pipelineOf(t *testing.T, d *desk) string {
	t.Helper()
	return value[string](t, d.dst, `SELECT min(pipeline) FROM trickle.pipelines`)
}
