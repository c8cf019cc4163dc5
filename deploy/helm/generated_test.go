package helm_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/trickle-verify/trickle/policy"
)

// What stands in the chart and is made of something else: the schema of the policy, the rules, the dashboard, and the README. make generate writes it again.
func TestGeneratedIsFresh(t *testing.T) {
	t.Parallel()
	for file, make := range map[string]func(*testing.T) string{
		"trickle/values.schema.json":           valuesSchema,
		"trickle/files/trickle.rules.yaml":     func(t *testing.T) string { return read(t, "../prometheus/trickle.rules.yaml") },
		"trickle/files/trickle.dashboard.json": dashboard,
		"trickle/README.md":                    readme,
	} {
		want := make(t)
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if have, err := os.ReadFile(file); string(have) != want {
			t.Errorf("%s is not what it is made of (run make generate): %v", file, err)
		}
	}
}

func dashboard(t *testing.T) string {
	return read(t, "../grafana/trickle.dashboard.json")
}

// valuesSchema is the schema that is there, with that of the policy in its place: the chart gives pipeline a default, so it may be left out.
func valuesSchema(t *testing.T) string {
	var schema, inner map[string]any
	text, err := policy.JSONSchema()
	if err == nil {
		err = json.Unmarshal(text, &inner)
	}
	if err == nil {
		err = json.Unmarshal([]byte(read(t, "trickle/values.schema.json")), &schema)
	}
	if err != nil {
		t.Fatal(err)
	}
	delete(inner, "$schema")
	required := at[[]any](inner, "required")
	inner["required"] = slices.DeleteFunc(required, func(key any) bool { return key == "pipeline" })
	at[map[string]any](schema, "properties", "policy", "properties")["config"] = inner
	out, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(out) + "\n"
}

// readme is README.md.in with a table of the values, by the comments above them.
func readme(t *testing.T) string {
	var rows strings.Builder
	for _, v := range documented(t) {
		fmt.Fprintf(&rows, "| `%s` | `%s` | %s |\n", v.key, v.value, v.comment)
	}
	return strings.Replace(read(t, "trickle/README.md.in"), "{{values}}\n", "| value | default | |\n|---|---|---|\n"+rows.String(), 1)
}

// documented is a value with its default, and what stands above it.
type documentedValue struct{ key, value, comment string }

var keyLine = regexp.MustCompile(`^( *)([A-Za-z]+):(.*)$`)

// documented reads values.yaml: every value of which something is said, or that has no values below it.
func documented(t *testing.T) (out []documentedValue) {
	text := read(t, "trickle/values.yaml")
	var values map[string]any
	if err := yaml.Unmarshal([]byte(text), &values); err != nil {
		t.Fatal(err)
	}
	var path []string
	var comment []string
	within := -1 // the depth of a value that is shown as a whole
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		trimmed := strings.TrimSpace(line)
		if said, ok := strings.CutPrefix(trimmed, "# -- "); ok {
			comment = []string{said}
			continue
		}
		if said, ok := strings.CutPrefix(trimmed, "# "); ok && len(comment) > 0 {
			comment = append(comment, said)
			continue
		}
		m := keyLine.FindStringSubmatch(line)
		if m == nil {
			comment = nil
			continue
		}
		depth := len(m[1]) / 2
		if within >= 0 && depth > within {
			continue
		}
		within = -1
		path = append(path[:depth], m[2])
		steps := make([]any, len(path))
		for i, p := range path {
			steps[i] = p
		}
		value := at[any](values, steps...)
		below, isMap := value.(map[string]any)
		if isMap && len(below) > 0 && len(comment) == 0 && strings.TrimSpace(m[3]) == "" && m[2] != "resources" {
			continue
		}
		within = depth
		shown, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, documentedValue{strings.Join(path, "."), strings.ReplaceAll(string(shown), "|", `\|`), strings.Join(comment, " ")})
		comment = nil
	}
	return out
}

// Every value is in the schema, and every value of the schema in values.yaml, so that the README knows it.
func TestValuesAndSchemaAgree(t *testing.T) {
	t.Parallel()
	var schema, values map[string]any
	if err := json.Unmarshal([]byte(read(t, "trickle/values.schema.json")), &schema); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(read(t, "trickle/values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	var compare func(path string, schema, values map[string]any)
	compare = func(path string, schema, values map[string]any) {
		properties := at[map[string]any](schema, "properties")
		if properties == nil || path == ".policy.config" {
			return
		}
		if schema["additionalProperties"] != false {
			t.Errorf("%s takes anything", path)
		}
		for key := range values {
			if properties[key] == nil {
				t.Errorf("%s.%s is not in the schema", path, key)
			}
		}
		for key, inner := range properties {
			value, there := values[key]
			if !there && key != "global" {
				t.Errorf("%s.%s is not in values.yaml", path, key)
			}
			below, _ := value.(map[string]any)
			compare(path+"."+key, inner.(map[string]any), below)
		}
	}
	compare("", schema, values)
	replica := at[map[string]any](schema, "properties", "replicas", "items")
	for key := range at[map[string]any](schema, "properties", "detector", "properties") {
		if at[any](replica, "properties", key) == nil {
			t.Errorf("replicas[].%s can't be set in place of detector.%s", key, key)
		}
	}
	for _, v := range documented(t) {
		if v.comment == "" && strings.Contains(v.key, "Secret") {
			t.Errorf("nothing is said about %s", v.key)
		}
	}
}
