package helm_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// The probes ask for three different things, and what waits for a database is left alone for a day.
func TestProbes(t *testing.T) {
	t.Parallel()
	matrix(t, func(t *testing.T, _ string, all []object) {
		for _, o := range of(all, "Deployment") {
			c := pod{spec: at[map[string]any](o, "spec", "template", "spec")}.containers()[0]
			for probe, path := range map[string]string{"startupProbe": "/startupz", "livenessProbe": "/livez", "readinessProbe": "/readyz"} {
				if got := at[string](c, probe, "httpGet", "path"); got != path || at[string](c, probe, "httpGet", "port") != "status" {
					t.Errorf("%s: %s asks %s", o.name(), probe, got)
				}
			}
			if day := at[uint64](c, "startupProbe", "periodSeconds") * at[uint64](c, "startupProbe", "failureThreshold"); day < 24*3600 {
				t.Errorf("%s: a start that waits is ended after %d seconds", o.name(), day)
			}
			if at[string](c, "ports", 0, "name") != "status" || at[uint64](c, "ports", 0, "containerPort") != 8480 {
				t.Errorf("%s: ports are %v", o.name(), c["ports"])
			}
		}
	})
}

// The policy is a folder, so that an edit of it arrives, and nothing in the pods depends on what it says, so that it restarts none.
func TestPolicyIsReloadedAndRestartsNothing(t *testing.T) {
	t.Parallel()
	specs := func(all []object) []any {
		var out []any
		for _, p := range pods(all) {
			out = append(out, p.meta["annotations"], p.spec)
		}
		return out
	}
	before := rendered(t, "trickle/ci/minimal-values.yaml")
	after := render(t, append(three, "--set", "policy.config.detect.action=correct,policy.config.gate.assume_lag=1m")...)
	if !reflect.DeepEqual(specs(before), specs(after)) {
		t.Error("another policy makes other pods")
	}
	if reflect.DeepEqual(named(t, before, "ConfigMap", "trickle-policy"), named(t, after, "ConfigMap", "trickle-policy")) {
		t.Error("another policy makes no other ConfigMap")
	}
	for _, p := range pods(rendered(t, "trickle/ci/existing-policy-values.yaml")) {
		if at[string](p.spec, "volumes", 0, "configMap", "name") != "shop-policy" || env(p.containers()[0])["TRICKLE_POLICY"] != "/etc/trickle/policy/orders.yaml" {
			t.Errorf("%s does not read the policy that is there", p.owner)
		}
	}
}

// What is turned on and off.
func TestParts(t *testing.T) {
	t.Parallel()
	kinds := func(all []object) map[string]int {
		out := map[string]int{}
		for _, o := range all {
			out[o.kind()]++
		}
		return out
	}
	for name, want := range map[string]map[string]int{
		"minimal":         {"Deployment": 2, "ConfigMap": 1, "ServiceAccount": 1, "NetworkPolicy": 1, "Pod": 2},
		"existing-policy": {"Deployment": 2},
		"publisher-alone": {"Deployment": 1, "ConfigMap": 1, "ServiceAccount": 1, "NetworkPolicy": 1, "Pod": 1},
		"detectors-alone": {"Deployment": 2, "ConfigMap": 1, "ServiceAccount": 1, "NetworkPolicy": 1, "Pod": 2, "PodDisruptionBudget": 1},
		"full":            {"Deployment": 3, "ConfigMap": 4, "ServiceAccount": 1, "NetworkPolicy": 1, "Pod": 3, "PodDisruptionBudget": 2, "PodMonitor": 1, "PrometheusRule": 1},
	} {
		if got := kinds(rendered(t, "trickle/ci/"+name+"-values.yaml")); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	full := rendered(t, "trickle/ci/full-values.yaml")
	publisher := named(t, full, "Deployment", "trickle-publisher")
	if n := at[uint64](publisher, "spec", "replicas"); n != 3 {
		t.Errorf("%d publishers", n)
	}
	if n := at[uint64](named(t, full, "Deployment", "trickle-detector-cache"), "spec", "replicas"); n != 2 {
		t.Errorf("%d detectors of the cache", n)
	}
	for _, o := range of(rendered(t, "trickle/ci/openshift-values.yaml"), "Deployment") {
		if want := uint64(len(strings.Split(o.name(), "-detector-"))) % 2; at[uint64](o, "spec", "replicas") != want {
			t.Errorf("%s has %d pods, want %d: none is a number too", o.name(), at[uint64](o, "spec", "replicas"), want)
		}
	}
	if image := at[string](publisher, "spec", "template", "spec", "containers", 0, "image"); !strings.HasPrefix(image, "ghcr.io/trickle-verify/trickle@sha256:") {
		t.Errorf("by digest: %s", image)
	}
	if keys := at[[]any](publisher, "spec", "template", "spec", "topologySpreadConstraints"); len(keys) != 1 || at[string](keys[0], "topologyKey") != "rack" {
		t.Errorf("spread as asked: %v", keys)
	}
	for _, o := range of(rendered(t, "trickle/ci/minimal-values.yaml"), "Deployment") {
		spread := at[[]any](o, "spec", "template", "spec", "topologySpreadConstraints")
		if len(spread) != 2 || !reflect.DeepEqual(at[any](spread[0], "labelSelector"), at[any](o, "spec", "selector")) {
			t.Errorf("%s is spread by %v", o.name(), spread)
		}
	}
	for _, o := range of(full, "PodDisruptionBudget") {
		if !reflect.DeepEqual(at[any](o, "spec", "selector"), at[any](named(t, full, "Deployment", o.name()), "spec", "selector")) {
			t.Errorf("PodDisruptionBudget %s guards other pods", o.name())
		}
	}
	us := at[map[string]any](named(t, rendered(t, "trickle/ci/detectors-alone-values.yaml"), "Deployment", "keeper-detector-us"), "spec", "template", "spec")
	if !reflect.DeepEqual(us["nodeSelector"], map[string]any{"zone": "us"}) || !reflect.DeepEqual(at[any](us, "containers", 0, "resources"), map[string]any{"limits": map[string]any{"memory": "1Gi"}}) {
		t.Errorf("a replica's own settings stand beside those of all, and not in their place: %v %v", us["nodeSelector"], at[any](us, "containers", 0, "resources"))
	}
	claims := map[string]bool{}
	for _, p := range pods(slices.Concat(rendered(t, "trickle/ci/publisher-alone-values.yaml"), rendered(t, "trickle/ci/detectors-alone-values.yaml"))) {
		if beside := at[string](p.spec, "affinity", "podAffinity", "requiredDuringSchedulingIgnoredDuringExecution", 0, "labelSelector", "matchLabels", "app.kubernetes.io/component"); (beside == "publisher") != (p.owner == "trickle-publisher-check") {
			t.Errorf("%s runs beside %q", p.owner, beside)
		}
		for _, m := range at[[]any](p.containers()[0], "volumeMounts") {
			if at[string](m, "name") == "baseline" {
				claims[p.owner+fmt.Sprint(at[bool](m, "readOnly"))] = true
			}
		}
	}
	if !reflect.DeepEqual(claims, map[string]bool{
		"trickle-publisherfalse": true, "trickle-publisher-checktrue": true,
		"keeper-detector-eutrue": true, "keeper-detector-ustrue": true, "keeper-detector-eu-checktrue": true, "keeper-detector-us-checktrue": true,
	}) {
		t.Errorf("the claim is mounted by %v", claims)
	}
	if s := at[string](named(t, rendered(t, "trickle/ci/publisher-alone-values.yaml"), "Deployment", "trickle-publisher"), "spec", "strategy", "type"); s != "Recreate" {
		t.Errorf("a volume that one pod holds, and the strategy is %s", s)
	}
}

// Nothing but the status port is open, and what is let out is what was said, and DNS.
func TestNetworkPolicy(t *testing.T) {
	t.Parallel()
	p := of(rendered(t, "trickle/ci/minimal-values.yaml"), "NetworkPolicy")[0]
	in := at[[]any](p, "spec", "ingress")
	if len(in) != 1 || at[string](in[0], "ports", 0, "port") != "status" || len(at[[]any](in[0], "ports")) != 1 || at[any](in[0], "from") != nil {
		t.Errorf("in: %v", in)
	}
	if types := at[[]any](p, "spec", "policyTypes"); !reflect.DeepEqual(types, []any{"Ingress"}) {
		t.Errorf("without egress rules: %v", types)
	}
	p = of(rendered(t, "trickle/ci/full-values.yaml"), "NetworkPolicy")[0]
	if out := at[[]any](p, "spec", "egress"); len(out) != 2 || at[uint64](out[0], "ports", 0, "port") != 53 || !reflect.DeepEqual(at[any](p, "spec", "policyTypes"), []any{"Ingress", "Egress"}) {
		t.Errorf("out: %v", out)
	}
	if at[any](p, "spec", "ingress", 0, "from") == nil {
		t.Error("who may come in is not asked")
	}
	for _, o := range pods(rendered(t, "trickle/ci/full-values.yaml")) { // those of helm test too
		for key, value := range at[map[string]any](p, "spec", "podSelector", "matchLabels") {
			if at[string](o.meta, "labels", key) != value {
				t.Errorf("%s is not under the NetworkPolicy", o.owner)
			}
		}
	}
}

// The rules and the dashboard are those that deploy/prometheus and deploy/grafana test, word for word.
func TestMonitoring(t *testing.T) {
	t.Parallel()
	full := rendered(t, "trickle/ci/full-values.yaml")
	var want map[string]any
	if err := yaml.Unmarshal([]byte(read(t, "../prometheus/trickle.rules.yaml")), &want); err != nil {
		t.Fatal(err)
	}
	rule := named(t, full, "PrometheusRule", "trickle")
	if got := at[any](rule, "spec", "groups"); len(want) != 1 || !reflect.DeepEqual(got, want["groups"]) {
		t.Error("the rules of the chart are not those of deploy/prometheus")
	}
	monitor := named(t, full, "PodMonitor", "trickle")
	for _, o := range []object{rule, monitor} {
		if at[string](o, "metadata", "labels", "release") != "prometheus" {
			t.Errorf("%s has not the label that Prometheus selects by", o.kind())
		}
	}
	if at[string](monitor, "spec", "podMetricsEndpoints", 0, "port") != "status" {
		t.Error("the PodMonitor scrapes another port")
	}
	for _, p := range pods(full) {
		scraped := at[string](p.meta, "labels", "app.kubernetes.io/component") != "check"
		matches := true
		for key, value := range at[map[string]any](monitor, "spec", "selector", "matchLabels") {
			matches = matches && at[string](p.meta, "labels", key) == value
		}
		if !matches || scraped == strings.HasSuffix(p.owner, "-check") {
			t.Errorf("%s: selected %t, scraped %t", p.owner, matches, scraped)
		}
	}
	dashboard := named(t, full, "ConfigMap", "trickle-dashboard")
	if at[string](dashboard, "metadata", "labels", "grafana_dashboard") != "1" || at[string](dashboard, "metadata", "annotations", "grafana_folder") != "trickle" {
		t.Errorf("the dashboard's labels: %v", dashboard["metadata"])
	}
	if text := at[string](dashboard, "data", "trickle.json"); !json.Valid([]byte(text)) {
		t.Errorf("the dashboard is no JSON: %.80s", text)
	}
}

// helm test runs the preflight of each side, with the environment that its Deployment has.
func TestHelmTest(t *testing.T) {
	t.Parallel()
	matrix(t, func(t *testing.T, name string, all []object) {
		for _, o := range of(all, "Pod") {
			if at[string](o, "metadata", "annotations", "helm.sh/hook") != "test" {
				t.Errorf("%s is no test", o.name())
			}
			c := at[map[string]any](o, "spec", "containers", 0)
			runs := at[map[string]any](named(t, all, "Deployment", strings.TrimSuffix(o.name(), "-check")), "spec", "template", "spec", "containers", 0)
			if at[string](c, "args", 0) != "check" || !reflect.DeepEqual(c["command"], runs["command"]) || c["image"] != runs["image"] {
				t.Errorf("%s runs %v %v", o.name(), c["command"], c["args"])
			}
			spec := at[map[string]any](named(t, all, "Deployment", strings.TrimSuffix(o.name(), "-check")), "spec", "template", "spec")
			for _, key := range []string{"nodeSelector", "tolerations", "affinity", "priorityClassName"} {
				if !reflect.DeepEqual(at[any](o, "spec", key), spec[key]) && name != "publisher-alone" {
					t.Errorf("%s: %s is %v, and %v where it runs", o.name(), key, at[any](o, "spec", key), spec[key])
				}
			}
			have, want := env(c), env(runs)
			for _, variable := range sorted(want) {
				if told := strings.HasPrefix(variable, "OTEL_") || strings.HasSuffix(variable, "_NAME") && strings.HasPrefix(want[variable], "field "); !told && have[variable] != want[variable] {
					t.Errorf("%s: %s is %q, and %q where it runs", o.name(), variable, have[variable], want[variable])
				}
			}
		}
		if want := len(of(all, "Deployment")); name != "existing-policy" && len(of(all, "Pod")) != want {
			t.Errorf("%d tests of %d Deployments", len(of(all, "Pod")), want)
		}
	})
}
