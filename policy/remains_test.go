package policy_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/trickle-verify/trickle/policy"
)

func TestRemains(t *testing.T) {
	t.Parallel()
	const good = "pipeline: p.1\ntables: [{table: public.t}]\ngate: {assume_lag: 1m}\n"
	for _, c := range []struct {
		name, text   string
		pipeline     string // "": nothing is left
		keys, values string
	}{
		{"a valid one", good + "privacy: {keys: show}\n", "p.1", "show", "omit"},
		{"a wrong value", good + "detect: {action: corect}\nprivacy: {keys: show, values: hash}\n", "p.1", "show", "hash"},
		{"an unknown key", good + "detct: {}\n", "p.1", "hash", "omit"},
		{"privacy itself is wrong", good + "privacy: {keys: shw}\n", "p.1", "omit", "omit"},
		{"no YAML any more", good + "detect: {action: [\n", "p.1", "omit", "omit"},
		{"no pipeline", "tables: [{table: public.t}]\n", "", "", ""},
		{"a wrong pipeline", "pipeline: a b\ntables: []\n", "", "", ""},
		{"neither", "pipeline: a b\n  x: [\n", "", "", ""},
	} {
		file := filepath.Join(t.TempDir(), "policy.yaml")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := policy.Remains(file)
		if (err == nil) != (c.pipeline != "") {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil && (p.Pipeline != c.pipeline || p.Privacy.Keys != c.keys || p.Privacy.Values != c.values) {
			t.Errorf("%s: %s %+v", c.name, p.Pipeline, p.Privacy)
		}
	}
	if _, err := policy.Remains("nowhere.yaml"); err == nil {
		t.Error("a file that is not there")
	}
}
