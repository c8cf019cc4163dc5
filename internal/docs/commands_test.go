package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The reference of the commands is what their help says.
func TestGeneratedCommandReference(t *testing.T) {
	t.Parallel()
	text := "# Commands\n\nWhat `--help` says, of both commands; `make generate` writes it again. `make man` makes man pages of it, and `trickle completion --help` tells how to have your shell complete them: commands, flags, formats,\n" +
		"kinds, the tables that the policy names, and the ids of resyncs.\n\n"
	for _, name := range []string{"trickle", "trickle-consumer"} {
		c := exec.CommandContext(t.Context(), programs()[name].binary, "manual", "markdown")
		for _, e := range os.Environ() { // whose settings would show as defaults
			if !strings.HasPrefix(e, "TRICKLE_") {
				c.Env = append(c.Env, e)
			}
		}
		out, err := c.Output()
		if err != nil {
			t.Fatal(err)
		}
		text += string(out)
	}
	generated(t, "docs/commands.md", []byte(strings.TrimRight(text, "\n")+"\n"))
}

// Each command has a man page that man can format, where there is one, and that holds its flags.
func TestManPages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"trickle", "trickle-consumer"} {
		if out, err := exec.CommandContext(t.Context(), programs()[name].binary, "manual", "man", dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for page, want := range map[string]string{"trickle.1": "trickle-status", "trickle-status.1": "watch", "trickle-policy-plan.1": "row-bytes", "trickle-consumer-undo.1": "dry-run", "trickle-consumer-corrections.1": "EXAMPLE"} {
		text, err := os.ReadFile(filepath.Join(dir, page))
		if err != nil || !strings.HasPrefix(string(text), ".nh\n.TH") || !strings.Contains(string(text), want) {
			t.Errorf("%s: %v: %.200s", page, err, text)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "trickle-manual.1")); err == nil {
		t.Error("what is hidden has a page")
	}
}
