// Command schemas writes ../testdata/schemas.json again: what Kubernetes and the Prometheus operator say about the objects that the chart may make, as JSON Schemas that
// refuse what is not named. It takes two modules from the Go proxy, at the versions below; the tests need neither.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
)

const (
	kubernetes = "k8s.io/kubernetes@v1.37.2"
	operator   = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
)

// roots are the objects of Kubernetes that the chart may make.
func roots() map[string]string {
	return map[string]string{
		"apps/v1/Deployment": "io.k8s.api.apps.v1.Deployment", "v1/Pod": "io.k8s.api.core.v1.Pod", "v1/ConfigMap": "io.k8s.api.core.v1.ConfigMap",
		"v1/ServiceAccount": "io.k8s.api.core.v1.ServiceAccount", "v1/Service": "io.k8s.api.core.v1.Service",
		"policy/v1/PodDisruptionBudget": "io.k8s.api.policy.v1.PodDisruptionBudget", "networking.k8s.io/v1/NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
	}
}

const group = "monitoring.coreos.com/v1/"

func main() {
	if err := run(); err != nil {
		slog.Error("writing the schemas", "err", err)
		os.Exit(1)
	}
}

func run() error {
	dir, err := module(kubernetes)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, "api", "openapi-spec", "swagger.json"))
	if err != nil {
		return err
	}
	var api struct{ Definitions map[string]map[string]any }
	if err := json.Unmarshal(text, &api); err != nil {
		return err
	}
	defs, kinds := map[string]any{}, map[string]any{}
	for kind, name := range roots() {
		take(api.Definitions, name, defs)
		kinds[kind] = map[string]any{"$ref": "#/$defs/" + name}
	}
	if dir, err = module(operator); err != nil {
		return err
	}
	for kind, file := range map[string]string{"PodMonitor": "podmonitors", "PrometheusRule": "prometheusrules"} {
		text, err := os.ReadFile(filepath.Join(dir, "example", "prometheus-operator-crd", "monitoring.coreos.com_"+file+".yaml"))
		if err != nil {
			return err
		}
		var crd struct {
			Spec struct {
				Versions []struct {
					Schema struct {
						Open map[string]any `yaml:"openAPIV3Schema"`
					}
				}
			}
		}
		if err := yaml.Unmarshal(text, &crd); err != nil {
			return err
		}
		s := crd.Spec.Versions[0].Schema.Open
		properties, ok := s["properties"].(map[string]any)
		if !ok {
			return fmt.Errorf("%s has no properties", file)
		}
		meta := "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
		take(api.Definitions, meta, defs)
		properties["metadata"] = map[string]any{"$ref": "#/$defs/" + meta}
		delete(properties, "status")
		kinds[group+kind] = strict(s)
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(map[string]any{"$comment": "made by go run ./deploy/helm/schemas of " + kubernetes + " and " + operator, "$defs": defs, "kinds": kinds}); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join("deploy", "helm", "testdata", "schemas.json"), out.Bytes(), 0o600)
}

// module downloads a module and returns its folder.
func module(name string) (string, error) {
	out, err := exec.CommandContext(context.Background(), "go", "mod", "download", "-json", name).Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, out)
	}
	var m struct{ Dir string }
	return m.Dir, json.Unmarshal(out, &m)
}

// take copies a definition, and what it refers to.
func take(from map[string]map[string]any, name string, to map[string]any) {
	if _, there := to[name]; there {
		return
	}
	switch name {
	case "io.k8s.apimachinery.pkg.util.intstr.IntOrString":
		to[name] = map[string]any{"type": []string{"string", "integer"}}
		return
	case "io.k8s.apimachinery.pkg.api.resource.Quantity":
		to[name] = map[string]any{"type": []string{"string", "number"}, "pattern": `^[+-]?[0-9.]+([eE][+-]?[0-9]+|[numkMGTPE]|[KMGTPE]i)?$`}
		return
	}
	to[name] = nil // it may refer to itself
	to[name] = strict(from[name])
	refs(to[name], func(ref string) { take(from, ref, to) })
}

// refs calls found for every definition that a schema refers to.
func refs(v any, found func(string)) {
	switch v := v.(type) {
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok {
			found(strings.TrimPrefix(ref, "#/$defs/"))
		}
		for _, inner := range v {
			refs(inner, found)
		}
	case []any:
		for _, inner := range v {
			refs(inner, found)
		}
	}
}

// strict leaves out what says nothing about validity and refuses properties that are not named.
func strict(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = strict(v[i])
		}
	case map[string]any:
		if v["x-kubernetes-int-or-string"] == true {
			return map[string]any{"type": []string{"string", "integer"}}
		}
		out := map[string]any{}
		for key, inner := range v {
			switch {
			case key == "properties":
				properties := map[string]any{}
				if all, ok := inner.(map[string]any); ok {
					for name, p := range all {
						properties[name] = strict(p)
					}
				}
				out[key] = properties
			case key == "$ref":
				out[key] = strings.Replace(fmt.Sprint(inner), "#/definitions/", "#/$defs/", 1)
			case key == "description" || key == "format" || key == "default" || strings.HasPrefix(key, "x-kubernetes-"):
			default:
				out[key] = strict(inner)
			}
		}
		if _, named := out["properties"]; named && out["additionalProperties"] == nil && v["x-kubernetes-preserve-unknown-fields"] == nil {
			out["additionalProperties"] = false
		}
		return out
	}
	return v
}
