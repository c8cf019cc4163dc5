package helm_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/trickle-verify/trickle/internal/testbed/helm"
	"github.com/trickle-verify/trickle/policy"
)

// schemas are those of Kubernetes and of the Prometheus operator, by apiVersion and kind; see package schemas.
func schemas(t *testing.T) map[string]*jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(read(t, "testdata/schemas.json")))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schemas.json", doc); err != nil {
		t.Fatal(err)
	}
	out := map[string]*jsonschema.Schema{}
	for kind := range at[map[string]any](doc, "kinds") {
		if out[kind], err = c.Compile("schemas.json#/kinds/" + strings.ReplaceAll(kind, "/", "~1")); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// validate holds an object against what Kubernetes says of its kind.
func validate(kinds map[string]*jsonschema.Schema, o object) error {
	s := kinds[at[string](o, "apiVersion")+"/"+o.kind()]
	if s == nil {
		return os.ErrNotExist
	}
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

// Everything that is rendered is valid, strictly: no field that Kubernetes does not know, none that is missing, no name twice, and all in the release's namespace.
func TestRenderedIsValid(t *testing.T) {
	t.Parallel()
	kinds := schemas(t)
	matrix(t, func(t *testing.T, _ string, all []object) {
		seen := map[string]bool{}
		for _, o := range all {
			id := o.kind() + " " + o.name()
			if err := validate(kinds, o); err != nil {
				t.Errorf("%s: %v", id, err)
			}
			if seen[id] {
				t.Errorf("%s is there twice", id)
			}
			seen[id] = true
			if len(o.name()) > 63 {
				t.Errorf("%s: the name has %d characters", id, len(o.name()))
			}
			if ns := at[string](o, "metadata", "namespace"); ns != "data" && !strings.Contains(o.name(), "more") {
				t.Errorf("%s is in namespace %q", id, ns)
			}
		}
	})
	// Strictly: it would tell.
	for what, spoil := range map[string]func(spec map[string]any){
		"a field that is not known": func(spec map[string]any) { spec["replica"] = 1 },
		"one that is missing":       func(spec map[string]any) { delete(spec, "selector") },
		"a wrong type":              func(spec map[string]any) { spec["replicas"] = "one" },
	} {
		o := named(t, rendered(t, "trickle/ci/minimal-values.yaml"), "Deployment", "trickle-publisher")
		spec := map[string]any{}
		for k, v := range at[map[string]any](o, "spec") {
			spec[k] = v
		}
		spoil(spec)
		if err := validate(kinds, object{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": o["metadata"], "spec": spec}); err == nil {
			t.Errorf("%s is not found", what)
		}
	}
}

// Names that YAML would take for numbers and the like stay names.
func TestNamesThatLookLikeNumbers(t *testing.T) {
	t.Parallel()
	kinds := schemas(t)
	for _, name := range []string{"123", "1e3", "on"} {
		all, err := templateAs(name, append(three, "--set-string", "fullnameOverride="+name+",nameOverride="+name+",serviceAccount.name="+name+",policy.key="+name+",monitoring.podMonitor.labels.a="+name,
			"--set", "monitoring.podMonitor.enabled=true,monitoring.dashboard.enabled=true,monitoring.prometheusRule.enabled=true,publisher.instances=2")...)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range all {
			if err := validate(kinds, o); err != nil {
				t.Errorf("%s: %s %s: %v", name, o.kind(), o.name(), err)
			}
		}
	}
}

func TestLint(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("trickle/ci/*-values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if out, err := helm.Run(t.Context(), "lint", "--strict", "trickle", "--values", file); err != nil {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
	}
}

// The command of the README: three values make what the minimal file makes.
func TestThreeValues(t *testing.T) {
	t.Parallel()
	if got, want := render(t, three...), rendered(t, "trickle/ci/minimal-values.yaml"); !reflect.DeepEqual(got, want) {
		t.Error("three values on the command line do not make what they make in a file")
	}
	all := rendered(t, "trickle/ci/minimal-values.yaml")
	for _, name := range []string{"trickle-publisher", "trickle-detector-trickle-replica"} {
		named(t, all, "Deployment", name)
	}
}

// The policy that is mounted is one that trickle takes, and says what the values say.
func TestPolicyIsValid(t *testing.T) {
	t.Parallel()
	matrix(t, func(t *testing.T, name string, all []object) {
		if name == "existing-policy" {
			for _, o := range of(all, "ConfigMap") {
				t.Errorf("a ConfigMap %s beside the one that is there", o.name())
			}
			return
		}
		fullname := "trickle"
		if name == "detectors-alone" {
			fullname = "keeper"
		}
		text := at[string](named(t, all, "ConfigMap", fullname+"-policy"), "data", "policy.yaml")
		p, warnings, err := policy.Parse("policy.yaml", []byte(text))
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		for _, w := range warnings {
			t.Errorf("a warning: %s", w)
		}
		var values struct {
			Policy struct {
				Config struct{ Pipeline string }
			}
		}
		if err := yaml.Unmarshal([]byte(read(t, "trickle/ci/"+name+"-values.yaml")), &values); err != nil {
			t.Fatal(err)
		}
		pipeline := values.Policy.Config.Pipeline
		if pipeline == "" {
			pipeline = "trickle" // the release
		}
		if p.Pipeline != pipeline {
			t.Errorf("the pipeline is %s and not %s", p.Pipeline, pipeline)
		}
		switch name {
		case "minimal": // nothing is corrected before somebody says so
			if p.Detect.Action != policy.ActionReport || len(p.Tables) != 1 || p.Tables[0].Table != "public.*" {
				t.Errorf("by default: %s of %+v", p.Detect.Action, p.Tables)
			}
		case "full":
			if p.Detect.Action != policy.ActionCorrect || len(p.Tables) != 2 || p.Rate.RowsPerSecond != 1000000 || !p.Gate.Known() {
				t.Errorf("the values became %+v", p)
			}
		}
	})
}
