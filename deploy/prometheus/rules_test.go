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

// Each alert is tried, both that it fires and that it does not, and leads to where the documents say what to do.
func TestAlertsAreTriedAndExplained(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	rules, tests := read("trickle.rules.yaml"), read("trickle.rules.test.yaml")
	docs := map[string]string{"operating": read("../../docs/operating.md"), "alerts": read("../../docs/alerts.md")}
	alerts := regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(rules, -1)
	links := regexp.MustCompile(`runbook_url: https://github\.com/trickle-verify/trickle/blob/main/docs/(operating|alerts)\.md#(\S+)`).FindAllStringSubmatch(rules, -1)
	if len(alerts) == 0 || len(alerts) != len(links) {
		t.Errorf("%d alerts, %d runbooks", len(alerts), len(links))
	}
	for _, a := range alerts {
		if !regexp.MustCompile(`alertname: ` + a[1] + `\n\s+exp_alerts:`).MatchString(tests) {
			t.Errorf("no test has %s fire", a[1])
		}
		if !strings.Contains(tests, "alertname: "+a[1]+"}") {
			t.Errorf("no test has %s not fire", a[1])
		}
		if !strings.Contains(docs["alerts"], "`"+a[1]+"`") && !strings.Contains(docs["alerts"], "## "+a[1]) {
			t.Errorf("docs/alerts.md says nothing about %s", a[1])
		}
	}
	for _, link := range links {
		if heading := strings.ReplaceAll(link[2], "-", " "); !regexp.MustCompile(`(?mi)^#+ ` + heading + `$`).MatchString(docs[link[1]]) {
			t.Errorf("docs/%s.md has no section %q", link[1], heading)
		}
	}
}
