package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

// By default a sign within a document passes unseen, and a note says so; --jsonb text and the policy's jsonb: text see it, and --fix corrects it.
func TestDiffJSONB(t *testing.T) {
	t.Parallel()
	p := newPair(t, pgtest.Server(t, testbed.Options{}), `CREATE TABLE docs (id int PRIMARY KEY, d jsonb, j json, note text)`,
		`INSERT INTO docs SELECT i, '{"a": 5, "b": [[1], 2]}', CASE WHEN i % 2 = 0 THEN '{"a": 5, "b": {}}' ELSE '{}' END::json, '{}' FROM generate_series(1, 50) i`, `CREATE TABLE plain (id int PRIMARY KEY, a text)`)
	p.dst.exec(t, `UPDATE docs SET d = '{"a": -5, "b": [[1], 2]}' WHERE id = 1`, `UPDATE docs SET d = '{"a": 5, "b": [[1, 2]]}' WHERE id = 2`,
		`UPDATE docs SET j = '[]' WHERE id = 3`, `UPDATE docs SET j = '{"b":{},"a":5}' WHERE id = 4`)
	const note = "d, j: compared by Postgres's jsonb hash, which does not see a number's sign or where a nested value ends; --jsonb text does"

	for _, args := range [][]string{nil, {"--jsonb", "hash"}} {
		p.prints(t, 0, []string{"public.docs: identical, 50 rows", "  " + note}, args...)
		c := p.compare(t, 0, args...)
		if got := c.table(t, "public.docs").Notes; !slices.Equal(got, []string{note}) {
			t.Errorf("%q: notes %q", args, got)
		}
		if got := c.table(t, "public.plain").Notes; got != nil {
			t.Errorf("%q: a table without documents has notes %q", args, got)
		}
	}

	policy := func(entry string) string {
		file := filepath.Join(t.TempDir(), "policy.yaml")
		if err := os.WriteFile(file, []byte("pipeline: docs\ntables:\n  - {table: public.docs"+entry+"}\nprivacy: {keys: show, values: show}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for _, args := range [][]string{{"--jsonb", "text"}, {"--policy", policy(", jsonb: text")}, {"--policy", policy(", jsonb: text"), "--jsonb", "hash"}, {"--policy", policy(""), "--jsonb", "text"}} {
		got := p.compare(t, 1, append(args, "--list")...).table(t, "public.docs")
		if got.Mismatched != 3 || got.Missing+got.Extra != 0 || got.Notes != nil || got.Digest != "record" {
			t.Errorf("%q: %+v", args, got)
		}
		var listed []string
		for _, d := range got.Differences {
			for _, c := range d.Columns {
				listed = append(listed, d.Key["id"]+" "+c.Column)
			}
		}
		slices.Sort(listed)
		if want := []string{"1 d", "2 d", "3 j"}; !slices.Equal(listed, want) {
			t.Errorf("%q lists %q, want %q", args, listed, want)
		}
	}

	if got := p.compare(t, 1, "--jsonb", "text", "--fix", "--settle", "0s", "--table", "public.docs").table(t, "public.docs"); got.Fixed != 3 {
		t.Errorf("fixed: %+v", got)
	}
	p.prints(t, 0, []string{"public.docs: identical, 50 rows"}, "--jsonb", "text", "--table", "public.docs")
	if wrong := value[int](t, p.dst, `SELECT count(*)::int FROM docs WHERE d::text <> '{"a": 5, "b": [[1], 2]}' OR j::jsonb::text NOT IN ('{"a": 5, "b": {}}', '{}')`); wrong != 0 {
		t.Errorf("%d documents are wrong after --fix", wrong)
	}

	code, stdout, stderr := run(t, p.diff("--jsonb", "bytes"))
	if code != 2 || stdout != "" || !strings.Contains(stderr, `--jsonb takes hash or text, and not "bytes"`) {
		t.Errorf("--jsonb bytes ends with %d, %q: %s", code, stdout, stderr)
	}
}
