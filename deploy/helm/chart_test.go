// Package helm_test tests the chart: what it renders for many values, that Kubernetes would take it, and what it refuses.
package helm_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/trickle-verify/trickle/internal/testbed/helm"
)

var update = flag.Bool("update", false, "write again what is generated")

// three are the values that make a working install.
var three = []string{"--set", "brokers=kafka:9092", "--set", "source.existingSecret=trickle-source", "--set", "replicas[0].existingSecret=trickle-replica"}

// object is one that a chart renders.
type object map[string]any

func (o object) kind() string { return at[string](o, "kind") }
func (o object) name() string { return at[string](o, "metadata", "name") }

// at finds what lies at a path, or the zero value.
func at[T any](v any, path ...any) (out T) {
	for _, step := range path {
		switch s := step.(type) {
		case string:
			switch m := v.(type) {
			case object:
				v = m[s]
			case map[string]any:
				v = m[s]
			default:
				return out
			}
		case int:
			l, ok := v.([]any)
			if !ok || s >= len(l) {
				return out
			}
			v = l[s]
		}
	}
	out, _ = v.(T)
	return out
}

// template renders the chart.
func template(args ...string) ([]object, error) { return templateAs("trickle", args...) }

func templateAs(release string, args ...string) ([]object, error) {
	out, err := helm.Run(context.Background(), append([]string{"template", release, "trickle", "--namespace", "data"}, args...)...)
	if err != nil {
		return nil, err
	}
	var all []object
	d := yaml.NewDecoder(strings.NewReader(out)) // refuses a key that is there twice
	for {
		var o object
		switch err := d.Decode(&o); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, fmt.Errorf("%w in\n%s", err, out)
		case o != nil:
			all = append(all, o)
		}
	}
}

func render(t *testing.T, args ...string) []object {
	t.Helper()
	all, err := template(args...)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// cases are what is rendered for the files of values, each once.
var cases sync.Map

func rendered(t *testing.T, file string) []object {
	t.Helper()
	once, _ := cases.LoadOrStore(file, sync.OnceValues(func() ([]object, error) { return template("--values", file) }))
	all, err := once.(func() ([]object, error))()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// matrix renders the chart for each file of values.
func matrix(t *testing.T, check func(t *testing.T, name string, all []object)) {
	t.Helper()
	files, err := filepath.Glob("trickle/ci/*-values.yaml")
	if err != nil || len(files) < 7 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), "-values.yaml")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t, name, rendered(t, file))
		})
	}
}

func of(all []object, kind string) []object {
	return slices.DeleteFunc(slices.Clone(all), func(o object) bool { return o.kind() != kind })
}

func named(t *testing.T, all []object, kind, name string) object {
	t.Helper()
	for _, o := range all {
		if o.kind() == kind && o.name() == name {
			return o
		}
	}
	var have []string
	for _, o := range all {
		have = append(have, o.kind()+" "+o.name())
	}
	t.Fatalf("no %s %s in %v", kind, name, have)
	return nil
}

// pod is what becomes one: its metadata and spec.
type pod struct {
	owner string
	meta  map[string]any
	spec  map[string]any
}

func pods(all []object) (out []pod) {
	for _, o := range all {
		switch o.kind() {
		case "Deployment":
			out = append(out, pod{o.name(), at[map[string]any](o, "spec", "template", "metadata"), at[map[string]any](o, "spec", "template", "spec")})
		case "Pod":
			out = append(out, pod{o.name(), at[map[string]any](o, "metadata"), at[map[string]any](o, "spec")})
		}
	}
	return out
}

func (p pod) containers() (out []map[string]any) {
	for _, kind := range []string{"containers", "initContainers", "ephemeralContainers"} {
		for _, c := range at[[]any](p.spec, kind) {
			out = append(out, c.(map[string]any))
		}
	}
	return out
}

// env is a container's: a value, or where it comes from.
func env(c map[string]any) map[string]string {
	out := map[string]string{}
	for _, e := range at[[]any](c, "env") {
		name, value := at[string](e, "name"), at[string](e, "value")
		if from := at[map[string]any](e, "valueFrom", "secretKeyRef"); from != nil {
			value = "secret " + at[string](from, "name") + "/" + at[string](from, "key")
		} else if from := at[string](e, "valueFrom", "fieldRef", "fieldPath"); from != "" {
			value = "field " + from
		}
		out[name] = value
	}
	return out
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
