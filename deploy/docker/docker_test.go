// Package docker_test tests the image's files as far as that can be done without a Docker engine: they are read by the parsers that builds use, and say what they must.
// make image-check builds what goes into the image, for each platform, and runs it in an empty root.
package docker_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsimple"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/zclconf/go-cty/cty"
)

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The image is made of nothing but what the build stage put together: static commands, certificates, a user that is not root.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	parsed, err := parser.Parse(strings.NewReader(read(t, "Dockerfile")))
	if err != nil {
		t.Fatal(err)
	}
	if len(parsed.Warnings) > 0 {
		t.Errorf("warnings: %v", parsed.Warnings)
	}
	stages, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(stages) != 2 {
		t.Fatalf("%d stages", len(stages))
	}
	version := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(read(t, "../../go.mod"))[1]
	build, final := stages[0], stages[1]
	if minor := strings.Join(strings.Split(version, ".")[:2], "."); !regexp.MustCompile(`^golang:` + regexp.QuoteMeta(minor) + `\.\d+-\w+$`).MatchString(build.BaseName) {
		t.Errorf("it is built by %s, and go.mod says %s", build.BaseName, version)
	}
	if build.Platform != "$BUILDPLATFORM" {
		t.Errorf("it is built on %q, so under emulation", build.Platform)
	}
	var compiles string
	for _, c := range build.Commands {
		if run, ok := c.(*instructions.RunCommand); ok && strings.Contains(run.String(), "go build") {
			compiles = run.String()
		}
	}
	for _, word := range []string{"CGO_ENABLED=0", "GOOS=$TARGETOS", "GOARCH=$TARGETARCH", "-trimpath", "-o /out/usr/local/bin/", "./cmd/..."} {
		if !strings.Contains(compiles, word) {
			t.Errorf("no %s in %s", word, compiles)
		}
	}
	if final.BaseName != "scratch" {
		t.Errorf("the image begins with %s", final.BaseName)
	}
	var user string
	for _, c := range final.Commands {
		switch c := c.(type) {
		case *instructions.UserCommand:
			user = c.User
		case *instructions.CopyCommand:
			if c.From != "build" {
				t.Errorf("the image has something that was not built: %s", c)
			}
		case *instructions.EnvCommand, *instructions.ExposeCommand, *instructions.CmdCommand:
		default:
			t.Errorf("in the last stage: %s", c)
		}
	}
	if !regexp.MustCompile(`^[1-9]\d*:[1-9]\d*$`).MatchString(user) {
		t.Errorf("the user is %q, which Kubernetes can't tell from root", user)
	}
	if id, _, _ := strings.Cut(user, ":"); !strings.Contains(read(t, "../helm/trickle/values.yaml"), "runAsUser: "+id+"\n") {
		t.Errorf("the chart runs it as another user than %s", id)
	}
}

// Nothing that the commands embed is kept from the build.
func TestIgnoredIsNotEmbedded(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{if .Module.Main}}{{$dir := .Dir}}{{range .EmbedFiles}}{{$dir}}/{{.}}\n{{end}}{{end}}{{end}}", "../../cmd/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	files := strings.Fields(string(out))
	if len(files) == 0 {
		t.Fatal("nothing is embedded")
	}
	for line := range strings.Lines(read(t, "Dockerfile.dockerignore")) {
		pattern := strings.TrimPrefix(strings.TrimSpace(line), "**/")
		for _, file := range files {
			for part := range strings.SplitSeq(file, "/") {
				if ok, err := filepath.Match(pattern, part); err != nil || ok && !strings.HasPrefix(pattern, "#") {
					t.Errorf("%s is embedded, and %s keeps it from the build: %v", file, pattern, err)
				}
			}
		}
	}
}

// The file for several platforms leads to the Dockerfile, and attaches what is in the image.
func TestBake(t *testing.T) {
	t.Parallel()
	const file = "docker-bake.hcl"
	var variables struct {
		Variables []struct {
			Name    string `hcl:"name,label"`
			Default string `hcl:"default"`
		} `hcl:"variable,block"`
		Rest hcl.Body `hcl:",remain"`
	}
	if err := hclsimple.DecodeFile(file, nil, &variables); err != nil {
		t.Fatal(err)
	}
	values := map[string]cty.Value{}
	for _, v := range variables.Variables {
		values[v.Name] = cty.StringVal(v.Default)
	}
	var bake struct {
		Variables []struct {
			Name    string `hcl:"name,label"`
			Default string `hcl:"default"`
		} `hcl:"variable,block"`
		Groups []struct {
			Name    string   `hcl:"name,label"`
			Targets []string `hcl:"targets"`
		} `hcl:"group,block"`
		Targets []struct {
			Name       string            `hcl:"name,label"`
			Context    string            `hcl:"context"`
			Dockerfile string            `hcl:"dockerfile"`
			Platforms  []string          `hcl:"platforms"`
			Tags       []string          `hcl:"tags"`
			Attest     []string          `hcl:"attest"`
			Labels     map[string]string `hcl:"labels"`
		} `hcl:"target,block"`
	}
	if err := hclsimple.DecodeFile(file, &hcl.EvalContext{Variables: values}, &bake); err != nil {
		t.Fatal(err)
	}
	if len(bake.Targets) != 1 || len(bake.Groups) != 1 || !slices.Equal(bake.Groups[0].Targets, []string{bake.Targets[0].Name}) {
		t.Fatalf("%+v", bake)
	}
	target := bake.Targets[0]
	if _, err := os.Stat(filepath.Join("..", "..", target.Context, target.Dockerfile)); err != nil {
		t.Error(err)
	}
	if !slices.Equal(target.Platforms, []string{"linux/amd64", "linux/arm64"}) || !slices.Contains(target.Attest, "type=sbom") {
		t.Errorf("%+v", target)
	}
	var chart struct {
		AppVersion string `yaml:"appVersion"`
	}
	var image struct{ Image struct{ Repository string } }
	for file, into := range map[string]any{"Chart.yaml": &chart, "values.yaml": &image} {
		if err := yaml.Unmarshal([]byte(read(t, filepath.Join("..", "helm", "trickle", file))), into); err != nil {
			t.Fatal(err)
		}
	}
	if want := image.Image.Repository + ":" + chart.AppVersion; !slices.Equal(target.Tags, []string{want}) {
		t.Errorf("what is built is called %v, and the chart wants %s", target.Tags, want)
	}
	if text, err := json.Marshal(target.Labels); err != nil || bytes.Contains(text, []byte("${")) {
		t.Errorf("labels: %s %v", text, err)
	}
}
