package docs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/robfig/cron/v3"

	"github.com/trickle-verify/trickle/internal/testbed/helm"
	"github.com/trickle-verify/trickle/policy"
)

// exempt are the blocks that nothing runs, each with the reason. The text is how the block begins.
var exempt = []struct{ document, text, reason string }{
	{"bench/README.md", "python3 -m venv", "it installs another program from the internet, which only the comparison in the benchmark uses"},
}

// Every block of every document is run, or checked by what it is. The documents share two servers, so they go one after the other.
func TestEveryBlockRuns(t *testing.T) {
	t.Parallel()
	docs := documents(t)
	r := newRig(t, docs)
	for _, d := range docs {
		if len(d.blocks) > 0 && !d.bringsServers() {
			t.Run(d.path, func(t *testing.T) { followAll(t, r, d) })
		}
	}
}

// A document that starts its own servers waits for nobody, and mostly waits.
func TestEveryBlockRunsOnItsOwnServers(t *testing.T) {
	t.Parallel()
	r := newTools(t)
	for _, d := range documents(t) {
		if d.bringsServers() {
			t.Run(d.path, func(t *testing.T) { followAll(t, r, d) })
		}
	}
}

func followAll(t *testing.T, r *rig, d document) {
	t.Helper()
	f := &follower{t: t, rig: r, doc: d}
	for i, b := range d.blocks {
		if !f.follow(i, b) {
			return // what follows rests on it
		}
	}
}

func TestWhatIsExemptIsThere(t *testing.T) {
	t.Parallel()
	docs := documents(t)
	for _, e := range exempt {
		there := slices.ContainsFunc(docs, func(d document) bool {
			return d.path == e.document && slices.ContainsFunc(d.blocks, func(b block) bool { return strings.HasPrefix(b.text, e.text) })
		})
		if !there || e.reason == "" {
			t.Errorf("%s has no block that begins with %q, or there is no reason: drop it from what is exempt", e.document, e.text)
		}
	}
}

// follower goes through a document.
type follower struct {
	t       *testing.T
	rig     *rig
	doc     document
	session *session
	printed string // by the last block that ran
}

// follow deals with one block and reports whether the next one makes sense.
func (f *follower) follow(i int, b block) bool {
	for _, e := range exempt {
		if e.document == f.doc.path && strings.HasPrefix(b.text, e.text) {
			return true
		}
	}
	out, err := f.check(b)
	if err != nil {
		f.t.Errorf("%s:%d: block %d: %v\n%s\n%s", f.doc.path, b.line, i+1, err, indent(b.text), indent(out))
		return false
	}
	return true
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n    ")
}

// check runs a block, or looks at it, by what its fence says it is.
func (f *follower) check(b block) (string, error) {
	language, _, _ := strings.Cut(b.language, " ")
	switch language {
	case "", "sh":
		s := f.live()
		once := func() (string, error) { return s.shell(b.text) }
		if before, ok := b.marked("each"); ok {
			once = func() (string, error) { return s.lines(b.text, before) }
		}
		out, err := s.run(b, once)
		f.printed = out
		return out, err
	case "sql":
		s := f.live()
		out, err := s.run(b, func() (string, error) { return s.sql(b) })
		f.printed = out
		return out, err
	case "yaml":
		return "", f.yaml(b)
	case "json":
		var value any
		return "", json.Unmarshal([]byte(b.text), &value)
	case "properties":
		return "", f.properties(b)
	case "cron":
		return f.cron(b)
	case "go":
		return "", partOf(b)
	case "text":
		return "", f.text(b)
	default:
		return "", fmt.Errorf("nothing knows how to run %q: fence it as sh, sql, yaml, json, properties, cron, go or text", b.language)
	}
}

// live is the document's session, begun by its first block that runs.
func (f *follower) live() *session {
	if f.session == nil {
		f.session = newSession(f.t, f.rig, f.doc)
	}
	return f.session
}

// yaml is a policy, a piece of one, or what a mark says. One that begins with a comment with its name is the file of that name from then on.
func (f *follower) yaml(b block) error {
	if name, _, ok := strings.Cut(strings.TrimPrefix(b.text, "# "), "\n"); ok && strings.HasPrefix(b.text, "# ") && strings.HasSuffix(name, ".yaml") {
		s := f.live()
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(s.swaps.Replace(b.text)), 0o600); err != nil {
			return err
		}
	}
	var keys map[string]any
	if err := yaml.Unmarshal([]byte(b.text), &keys); err != nil {
		return err
	}
	_, values := b.marked("values")
	switch {
	case values:
		return f.chartValues(b)
	case keys["rule_files"] != nil, keys["scrape_configs"] != nil:
		return f.prometheus(b)
	}
	text := b.text
	if keys["pipeline"] == nil {
		text += "\npipeline: p\n"
	}
	if keys["tables"] == nil {
		text += "\ntables: [{table: public.t}]\n"
	}
	_, warnings, err := policy.Parse(f.doc.path, []byte(text))
	if err == nil && len(warnings) > 0 && keys["pipeline"] != nil {
		err = fmt.Errorf("this policy is not one to recommend: %v", warnings)
	}
	return err
}

// prometheus has its own program read its settings, beside the rule files of this repository.
func (f *follower) prometheus(b block) error {
	s := f.live()
	file := filepath.Join(s.dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(b.text), 0o600); err != nil {
		return err
	}
	out, err := exec.CommandContext(f.t.Context(), "promtool", "check", "config", file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("promtool check config: %w: %s", err, out)
	}
	return nil
}

// chartValues are checked with the chart, beside the three that it takes.
func (f *follower) chartValues(b block) error {
	file := filepath.Join(f.live().dir, "checked-values.yaml")
	if err := os.WriteFile(file, []byte(b.text), 0o600); err != nil {
		return err
	}
	_, err := helm.Run(f.t.Context(), "template", "trickle", filepath.Join(root, chart), "--set", "brokers=kafka:9092,source.existingSecret=s,replicas[0].existingSecret=r", "--values", file)
	return err
}

// properties are settings of somebody else's program: each must be one that a test of ours sets, so that it is known to be taken.
func (f *follower) properties(b block) error {
	var known strings.Builder
	for _, pattern := range []string{"deploy/compose/connectors/*.json", "deploy/compose/*.yaml", "internal/testbed/stack/*.go", "internal/testbed/connect/*.go", "internal/testbed/kafka/*.go", "internal/e2e/*.go", "bench/*.go"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			known.Write(text)
		}
	}
	for line := range strings.Lines(b.text) {
		line, _, _ = strings.Cut(line, " #")
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, _, ok := strings.Cut(line, "=")
		if !ok || !strings.Contains(known.String(), strings.TrimSpace(name)) {
			return fmt.Errorf("no test of ours sets %q", name)
		}
	}
	return nil
}

// cron lines have a time that cron takes, and a command that runs.
func (f *follower) cron(b block) (string, error) {
	var all strings.Builder
	for line := range strings.Lines(b.text) {
		fields := strings.Fields(line)
		if len(fields) < 6 {
			return "", fmt.Errorf("no line of a crontab: %s", line)
		}
		if _, err := cron.ParseStandard(strings.Join(fields[:5], " ")); err != nil {
			return "", err
		}
		s := f.live()
		out, err := s.run(b, func() (string, error) { return s.shell(strings.Join(fields[5:], " ")) })
		all.WriteString(out)
		if err != nil {
			return all.String(), err
		}
	}
	return all.String(), nil
}

// partOf compares code with the file that it is a part of, where it is compiled and run.
func partOf(b block) error {
	name, ok := b.marked("part of")
	if !ok {
		return fmt.Errorf("it does not say which file it is a part of: <!-- part of: FILE -->")
	}
	source, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		return err
	}
	if !bytes.Contains(bytes.ReplaceAll(source, []byte("\t"), []byte("    ")), []byte(strings.ReplaceAll(strings.TrimRight(b.text, "\n"), "\t", "    "))) {
		return fmt.Errorf("%s does not hold this", name)
	}
	return nil
}

// command is how a line of a block begins that somebody would paste into a shell.
var command = regexp.MustCompile(`(?m)^(\$ |(sudo )?(trickle|trickle-consumer|make|helm|kubectl|docker|psql|curl|go|export|systemctl|kafka-[a-z-]+\.sh) [a-z-])`)

// text is a picture or an output. It holds no command, which would escape by its fence.
func (f *follower) text(b block) error {
	if line := command.FindString(b.text); line != "" {
		return fmt.Errorf("%q looks like a command: fence it as sh", line)
	}
	if _, ok := b.marked("output"); ok {
		return alike(b.text, f.printed)
	}
	return nil
}

var (
	number = regexp.MustCompile(`[0-9][0-9,.:TZ_-]*`)
	blanks = regexp.MustCompile(`[\s\x{2500}-\x{259f}]+`)
)

// alike compares what a document shows with what was printed: each line of the one must come in the other, numbers, blanks and bars aside; in any
// order, as rows come in that of a hash.
// A line with … in it is a place where lines were left out, or holds anything there.
func alike(shown, printed string) error {
	plain := func(line string) string {
		return strings.TrimSpace(blanks.ReplaceAllString(number.ReplaceAllString(line, "0"), " "))
	}
	lines := strings.Split(printed, "\n")
	for line := range strings.Lines(shown) {
		want := plain(line)
		if want == "" || want == "…" {
			continue
		}
		pattern, err := regexp.Compile("^" + strings.ReplaceAll(regexp.QuoteMeta(want), "…", ".*") + "$")
		if err != nil {
			return err
		}
		at := -1
		for i, got := range lines {
			if pattern.MatchString(plain(got)) {
				at = i
				break
			}
		}
		if at < 0 {
			return fmt.Errorf("nothing like %q was printed:\n%s", strings.TrimSpace(line), indent(printed))
		}
		lines = slices.Delete(lines, at, at+1)
	}
	return nil
}
