// Package grafana_test tests the dashboard that users load.
package grafana_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

type target struct{ Expr string }

type box struct{ X, Y, W, H int }

type panel struct {
	ID          int
	Type        string
	Title       string
	Description string
	Datasource  struct{ UID string }
	GridPos     box
	Targets     []target
}

type dashboard struct {
	Title      string
	Panels     []panel
	Templating struct {
		List []struct{ Name, Definition string }
	}
	Annotations struct{ List []target }
}

func load(t *testing.T) dashboard {
	t.Helper()
	text, err := os.ReadFile("trickle.dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// series are the metrics that the documents list, with their labels.
func series(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(trickle_\\w+)` \\| (\\w+) \\| [^|]* \\| ([^|]*) \\|").FindAllStringSubmatch(string(text), -1) {
		labels := "`pipeline` `consumer` `instance` " + m[3]
		if m[2] == "histogram" {
			for _, part := range []string{"_bucket", "_count", "_sum"} {
				out[m[1]+part] = labels + " `le`"
			}
			continue
		}
		out[m[1]] = labels
	}
	if len(out) < 40 {
		t.Fatalf("docs/metrics.md lists %d metrics", len(out))
	}
	return out
}

var (
	selector = regexp.MustCompile(`(trickle_\w+)(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)\s*[=!]~?\s*"`)
	grouping = regexp.MustCompile(`(?:by|on|without|ignoring) \(([^)]*)\)`)
)

// known finds what an expression asks for that no part of trickle tells.
func known(expr string, metrics map[string]string) (faults []string) {
	labels := ""
	for _, s := range selector.FindAllStringSubmatch(expr, -1) {
		has, ok := metrics[s[1]]
		if !ok {
			faults = append(faults, "there is no metric "+s[1])
		}
		for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
			if !strings.Contains(has, "`"+m[1]+"`") {
				faults = append(faults, s[1]+" has no label "+m[1])
			}
		}
		labels += has
	}
	for _, g := range grouping.FindAllStringSubmatch(expr, -1) {
		for _, label := range strings.Split(g[1], ",") {
			if label = strings.TrimSpace(label); label != "" && !strings.Contains(labels, "`"+label+"`") {
				faults = append(faults, "none of the metrics has the label "+label)
			}
		}
	}
	return faults
}

// Every query of the dashboard, and every alert, asks for metrics and labels that are documented; the documents are checked against the code.
func TestQueriesAskForWhatThereIs(t *testing.T) {
	t.Parallel()
	metrics := series(t)
	d := load(t)
	queries := map[string]string{}
	for _, p := range d.Panels {
		for i, q := range p.Targets {
			queries[fmt.Sprintf("panel %q, query %d", p.Title, i+1)] = q.Expr
		}
	}
	for _, v := range d.Templating.List {
		if m := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(v.Definition); m != nil {
			queries["variable "+v.Name] = "sum by (" + m[2] + ") (" + m[1] + ")"
		}
	}
	for i, a := range d.Annotations.List {
		queries[fmt.Sprint("annotation ", i+1)] = a.Expr
	}
	if len(queries) < 30 {
		t.Errorf("only %d queries were found", len(queries))
	}
	var rules strings.Builder
	rules.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	for where, expr := range queries {
		for _, fault := range known(expr, metrics) {
			t.Errorf("%s: %s: %s", where, fault, expr)
		}
		expr = strings.NewReplacer("$__rate_interval", "5m", "$pipeline", ".*", "$consumer", ".*").Replace(expr)
		if strings.Contains(expr, "$") {
			t.Errorf("%s has a variable that nobody fills in: %s", where, expr)
		}
		fmt.Fprintf(&rules, "      - {record: %q, expr: %q}\n", "a:b:"+regexp.MustCompile(`\W`).ReplaceAllString(where, "_"), expr)
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "promtool", "check", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("Prometheus can't read the queries (make test installs promtool): %v\n%s", err, out)
	}
	alerts, err := os.ReadFile("../prometheus/trickle.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^ +expr: (?:\|-\n)?((?:.+\n?)(?: {10}.+\n)*)`).FindAllStringSubmatch(string(alerts), -1) {
		for _, fault := range known(m[1], metrics) {
			t.Errorf("an alert: %s: %s", fault, m[1])
		}
	}
	if faults := known(`sum by (by, nobody) (trickle_gate_lag_seconds{table="t"}) + trickle_nothing`, metrics); len(faults) != 3 {
		t.Errorf("three faults were planted and these found: %q", faults)
	}
}

// Panels say what they show, use the chosen data source, and do not cover each other.
func TestPanels(t *testing.T) {
	t.Parallel()
	d := load(t)
	ids := map[int]bool{}
	for i, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("panel %q has the id of another", p.Title)
		}
		ids[p.ID] = true
		if p.Type != "row" && (p.Title == "" || p.Description == "" || p.Datasource.UID != "${datasource}" || len(p.Targets) == 0) {
			t.Errorf("panel %q lacks a title, a description, the chosen data source or a query", p.Title)
		}
		if p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q is too wide", p.Title)
		}
		for _, o := range d.Panels[:i] {
			a, b := p.GridPos, o.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("panels %q and %q cover each other", o.Title, p.Title)
			}
		}
	}
}
