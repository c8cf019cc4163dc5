package e2e

import (
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/trickle-verify/trickle/internal/testbed/helm"
)

// What the chart has pods run is a command that there is, with flags that it takes.
func TestChartsCommands(t *testing.T) {
	t.Parallel()
	rendered, err := helm.Run(t.Context(), "template", "trickle", filepath.Join("..", "..", "deploy", "helm", "trickle"),
		"--set", "brokers=kafka:9092,source.existingSecret=source,replicas[0].existingSecret=replica")
	if err != nil {
		t.Fatal(err)
	}
	type container struct{ Command, Args []string }
	ran := map[string]bool{}
	for d := yaml.NewDecoder(strings.NewReader(rendered)); ; {
		var o struct {
			Spec struct {
				Containers []container
				Template   struct {
					Spec struct{ Containers []container }
				}
			}
		}
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, c := range append(o.Spec.Containers, o.Spec.Template.Spec.Containers...) {
			program := trickle
			if c.Command[0] == "trickle-consumer" {
				program = trickleConsumer
			}
			line := strings.Join(append(c.Command, c.Args...), " ")
			if code, _, stderr := run(t, program(append(c.Args, "--help")...)); code != 0 {
				t.Errorf("%s: exit status %d: %s", line, code, stderr)
			}
			ran[strings.Join([]string{c.Command[0], c.Args[0]}, " ")] = true
		}
	}
	for _, line := range []string{"trickle run", "trickle check", "trickle-consumer run", "trickle-consumer check"} {
		if !ran[line] {
			t.Errorf("no pod runs %s", line)
		}
	}
}
