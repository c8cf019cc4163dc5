package app

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/metric"

	"github.com/trickle-verify/trickle/detector"
	"github.com/trickle-verify/trickle/gate"
	"github.com/trickle-verify/trickle/internal/testbed/meter"
	"github.com/trickle-verify/trickle/keeper"
	"github.com/trickle-verify/trickle/measure"
	"github.com/trickle-verify/trickle/scheduler"
	"github.com/trickle-verify/trickle/sidechannel"
	"github.com/trickle-verify/trickle/slot"
	"github.com/trickle-verify/trickle/telemetry"
)

var update = flag.Bool("update", false, "write the table of metrics in docs/metrics.md anew")

// measuring are all parts that measure something, as the document has them.
func measuring() []struct {
	title string
	parts []func(metric.Meter) error
} {
	return []struct {
		title string
		parts []func(metric.Meter) error
	}{
		{"Both sides", []func(metric.Meter) error{new(reload).Observe, observeBuild}},
		{"The publisher", []func(metric.Meter) error{
			new(scheduler.Scheduler).Observe, new(sidechannel.Server).Observe,
			func(m metric.Meter) error { measuredAnswers(m); return nil },
			func(m metric.Meter) error { return observeSource(m, nil) },
			func(m metric.Meter) error { return new(slot.Watch).Observe(m, nil) },
			new(keeper.Keeper).Observe,
		}},
		{"The detector", []func(metric.Meter) error{
			func(m metric.Meter) error { _, err := detector.NewMeasures(m); return err },
			new(gate.Gate).Observe, new(gauges).Observe,
		}},
	}
}

// prometheusName is what Prometheus calls an instrument.
func prometheusName(d measure.Def) string {
	name := strings.ReplaceAll(d.Name, ".", "_")
	switch d.Unit {
	case "s":
		name += "_seconds"
	case "By":
		name += "_bytes"
	case "1":
		name += "_ratio"
	}
	if d.Kind == measure.Counter {
		name += "_total"
	}
	return name
}

func unitOf(d measure.Def) string {
	switch d.Unit {
	case "s":
		return "seconds"
	case "By":
		return "bytes"
	case "1":
		return "share"
	default:
		return strings.Trim(d.Unit, "{}")
	}
}

// The table of metrics in the documents is the one that the code declares: nothing is missing there, and nothing is there that is not.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	var want strings.Builder
	var all []measure.Def
	parts := 0
	for _, side := range measuring() {
		m := &declared{Meter: meter.New(t)}
		for _, observe := range side.parts {
			parts++
			if err := observe(m); err != nil {
				t.Fatal(err)
			}
		}
		fmt.Fprintf(&want, "\n### %s\n\n| metric | type | unit | labels | meaning |\n|---|---|---|---|---|\n", side.title)
		for _, d := range m.defs {
			labels := ""
			if len(d.Labels) > 0 {
				labels = "`" + strings.Join(d.Labels, "`, `") + "`"
			}
			fmt.Fprintf(&want, "| `%s` | %s | %s | %s | %s |\n", prometheusName(d), d.Kind, unitOf(d), labels, strings.ReplaceAll(d.Text, "|", `\|`))
		}
		all = append(all, m.defs...)
	}
	const file, begin, end = "../../docs/metrics.md", "<!-- metrics: go test ./internal/app -run MetricsAreDocumented -update -->\n", "\n<!-- end of metrics -->"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	got, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no table of metrics", file)
	}
	if got != want.String() && *update {
		if err := os.WriteFile(file, []byte(before+begin+want.String()+end+after), 0o600); err != nil {
			t.Fatal(err)
		}
	} else if got != want.String() {
		t.Errorf("%s has another table of metrics than the code: go test ./internal/app -run MetricsAreDocumented -update", file)
	}
	if n := partsInSource(t); n != parts {
		t.Errorf("%d places of the code declare metrics and %d are documented: add the new one to measuring", n, parts)
	}
	exported(t, all)
}

// declared takes declarations and no observations: the parts that it is shown are empty.
type declared struct {
	*meter.Meter
	defs []measure.Def
}

func (d *declared) Declare(def measure.Def) { d.defs = append(d.defs, def) }
func (d *declared) RegisterCallback(metric.Callback, ...metric.Observable) (metric.Registration, error) {
	return nil, nil
}

// partsInSource counts where the code begins a set of instruments.
func partsInSource(t *testing.T) int {
	t.Helper()
	n := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "/measure/") {
			return err
		}
		text, err := os.ReadFile(path)
		n += strings.Count(string(text), "measure.On(")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// exported finds out whether the endpoint calls the instruments what the document does.
func exported(t *testing.T, defs []measure.Def) {
	t.Helper()
	tell, err := telemetry.Start(t.Context(), telemetry.Options{Service: "trickle", Pipeline: "shop", Consumer: "eu"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tell.Close(t.Context()) }()
	set := measure.On(tell.Meter())
	var seen []measure.Observable
	var want []string
	for _, d := range defs {
		want = append(want, prometheusName(d)+" "+string(d.Kind))
		switch d.Kind {
		case measure.Gauge:
			seen = append(seen, set.Gauge(d.Name, d.Unit, d.Text, d.Labels...))
		case measure.Counter:
			seen = append(seen, set.Total(d.Name, d.Unit, d.Text, d.Labels...))
		case measure.Histogram:
			set.Seconds(d.Name, d.Text, d.Labels...).Record(t.Context(), 1)
		}
	}
	if err := set.Observe(func(_ context.Context, tell measure.Tell) {
		for _, s := range seen {
			tell(s, 1)
		}
	}); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	tell.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	var got []string
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (trickle_\S+ \S+)$`).FindAllStringSubmatch(w.Body.String(), -1) {
		got = append(got, m[1])
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the endpoint shows\n%s\nand the document\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
