// Package prometheus_test tests the alert rules that users load.
package prometheus_test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

func TestRules(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"check", "rules", "trickle.rules.yaml"}, {"test", "rules", "trickle.rules.test.yaml"}} {
		out, err := exec.CommandContext(t.Context(), "promtool", args...).CombinedOutput()
		if err != nil {
			t.Errorf("promtool %s (make test installs it): %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// Each alert is tried, and leads to where the documents say what to do.
func TestAlertsAreTriedAndExplained(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	rules, tests, docs := read("trickle.rules.yaml"), read("trickle.rules.test.yaml"), read("../../docs/operating.md")
	alerts := regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(rules, -1)
	links := regexp.MustCompile(`runbook: docs/operating\.md#(\S+)`).FindAllStringSubmatch(rules, -1)
	if len(alerts) == 0 || len(alerts) != len(links) {
		t.Errorf("%d alerts, %d runbooks", len(alerts), len(links))
	}
	for _, a := range alerts {
		if !regexp.MustCompile(`alertname: ` + a[1] + `\n\s+exp_alerts:`).MatchString(tests) {
			t.Errorf("no test has %s fire", a[1])
		}
		if !strings.Contains(docs, "`"+a[1]+"`") {
			t.Errorf("docs/operating.md says nothing about %s", a[1])
		}
	}
	for _, link := range links {
		if heading := strings.ReplaceAll(link[1], "-", " "); !regexp.MustCompile(`(?mi)^#+ ` + heading + `$`).MatchString(docs) {
			t.Errorf("docs/operating.md has no section %q", heading)
		}
	}
}
