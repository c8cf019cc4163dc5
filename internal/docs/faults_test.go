package docs

import (
	"strings"
	"testing"
)

// What is wrong with a block is seen, and no block escapes by its fence.
func TestAFaultInABlockIsSeen(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text  string
		fault string // part of it; empty: none
	}{
		{"```yaml\ngate: {assume_lag: 1m}\n```\n", ""},
		{"```yaml\npipeline: p\ntables: [{table: public.t}]\ngate: {assume_lag: 1m}\n```\n", ""},
		{"```yaml\ngate: {assume_lagg: 1m}\n```\n", "unknown key"},
		{"```yaml\n- a\n```\n", "mapping is expected"},
		{"```json\n{\"a\": 1,}\n```\n", "invalid character"},
		{"```properties\nsignal.kafka.topic=shop-signal  # its own\n```\n", ""},
		{"```properties\nsignal.kafka.topick=shop-signal\n```\n", "signal.kafka.topick"},
		{"```text\na picture\n```\n", ""},
		{"```text\ntrickle run --policy x\n```\n", "looks like a command"},
		{"```text\n$ ls\n```\n", "looks like a command"},
		{"```console\nls\n```\n", "nothing knows how to run"},
		{"<!-- output -->\n```text\nnothing like it\n```\n", "nothing like"},
		{"```go\nfunc A() {}\n```\n", "which file"},
		{"<!-- part of: internal/docs/doc.go -->\n```go\nfunc A() {}\n```\n", "does not hold this"},
		{"<!-- part of: internal/docs/doc.go -->\n```go\npackage docs\n```\n", ""},
		{"```cron\n0 25 * * * true\n```\n", "range"},
	} {
		f := &follower{t: t, doc: parse("x.md", c.text)}
		if len(f.doc.blocks) != 1 {
			t.Fatalf("%d blocks in %q", len(f.doc.blocks), c.text)
		}
		_, err := f.check(f.doc.blocks[0])
		if c.fault == "" && err != nil {
			t.Errorf("%s%v", c.text, err)
		}
		if c.fault != "" && (err == nil || !strings.Contains(err.Error(), c.fault)) {
			t.Errorf("%s%v, want %q", c.text, err, c.fault)
		}
	}
}

func TestOutputIsComparedLoosely(t *testing.T) {
	t.Parallel()
	printed := "gate    open, lag 1.5 s\n\npublic.orders  ████░░  4 of 10 ranges\nlast 2026-01-02T03:04:05Z\n"
	for shown, alright := range map[string]bool{
		"gate open, lag 0.2 s\n": true,
		"public.orders █░ 9 of 12 ranges\n…\ngate open, lag 7 s\n": true,
		"gate open, …\n":                           true,
		"gate closed, …\n":                         false,
		"last 2025-01-01\n":                        true,
		"gate open, lag 1 s\ngate open, lag 2 s\n": false,
	} {
		if err := alike(shown, printed); (err == nil) != alright {
			t.Errorf("%q: %v", shown, err)
		}
	}
}
