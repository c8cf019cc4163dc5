package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/policy"
)

// notYet is the heading under which documents list what does not exist; what its tables name first must not.
const notYet = "Not in this version"

// Fragments such as `gate: {assume_lag: 1m}` are completed to a policy.
func TestEveryPieceOfAPolicyIsValid(t *testing.T) {
	t.Parallel()
	piece := regexp.MustCompile(`^[a-z_]+: \{.*\}$`)
	n := 0
	for _, d := range documents(t) {
		for _, s := range d.spans {
			if !piece.MatchString(s.text) || s.absent {
				continue
			}
			n++
			if _, _, err := policy.Parse(d.path, []byte("pipeline: p\ntables: [{table: public.t}]\n"+s.text+"\n")); err != nil {
				t.Errorf("`%s`: %v", s.text, err)
			}
		}
	}
	if n < 3 {
		t.Errorf("found %d pieces of policies", n)
	}
}

// Dotted names such as `detect.brake.deletes` are keys of the policy.
func TestEveryKeyNamedInTheDocumentsExists(t *testing.T) {
	t.Parallel()
	top := []string{"schedule", "rate", "backoff", "gate", "detect", "resync", "baseline", "privacy", "tracing", "columns"}
	key := regexp.MustCompile(`^([a-z]+)(\.[a-z_]+)+$`)
	n := 0
	for _, d := range documents(t) {
		for _, s := range d.spans {
			m := key.FindStringSubmatch(s.text)
			if len(m) < 2 || !slices.Contains(top, m[1]) {
				continue
			}
			n++
			parts := strings.Split(s.text, ".")
			text := "pipeline: p\n"
			if parts[0] == "columns" {
				text += "tables: [{table: public.t, columns: {" + parts[1] + ": 0}}]\n"
			} else {
				text += "tables: [{table: public.t}]\n" + parts[0] + ": {" + strings.Join(parts[1:], ": {") + ": 0" + strings.Repeat("}", len(parts)-1) + "\n"
			}
			// The value is most likely wrong; what matters is that it is not the key.
			if _, _, err := policy.Parse(d.path, []byte(text)); err != nil && strings.Contains(err.Error(), "unknown key") {
				t.Errorf("`%s`: %v", s.text, err)
			}
		}
	}
	if n < 20 {
		t.Errorf("found %d keys", n)
	}
}

// program is one of the two commands, built.
type program struct {
	binary string
	helps  map[string]string // what was asked before
}

func programs() map[string]*program {
	of := func(name string) *program {
		return &program{binary: filepath.Join(os.Getenv(binaries), name), helps: make(map[string]string)}
	}
	return map[string]*program{"trickle": of("trickle"), "trickle-consumer": of("trickle-consumer")}
}

// help is what `program sub… --help` prints.
func (p *program) help(subs []string) string {
	id := strings.Join(subs, " ")
	if _, ok := p.helps[id]; !ok {
		out, err := exec.Command(p.binary, append(slices.Clone(subs), "--help")...).CombinedOutput()
		p.helps[id] = string(out)
		if err != nil {
			p.helps[id] = err.Error()
		}
	}
	return p.helps[id]
}

var (
	listed = regexp.MustCompile(`(?m)^  ([a-z-]+) `)
	option = regexp.MustCompile(`--[a-z][a-z-]*`)
)

// has lists the subcommands that a help text names; none for a command that runs.
func has(help string) []string {
	_, after, ok := strings.Cut(help, "Available Commands:\n")
	if !ok {
		return nil
	}
	list, _, _ := strings.Cut(after, "\n\n")
	var out []string
	for _, m := range listed.FindAllStringSubmatch(list, -1) {
		out = append(out, m[1])
	}
	return out
}

// fault says what a command line names that the program does not have; "" for nothing.
func (p *program) fault(words []string) string {
	var subs []string
	for len(words) > 0 && !strings.HasPrefix(words[0], "-") {
		known := has(p.help(subs))
		if known == nil {
			break // what follows is its arguments
		}
		// `run|status` stands for each of them.
		names := strings.Split(words[0], "|")
		for _, name := range names {
			if !slices.Contains(known, name) {
				return "no command " + name + " among " + strings.Join(known, ", ")
			}
		}
		subs, words = append(subs, names[0]), words[1:]
	}
	flags := option.FindAllString(p.help(subs), -1)
	for _, w := range words {
		for _, f := range option.FindAllString(w, -1) {
			if strings.HasPrefix(strings.TrimLeft(w, "[("), "--") && !slices.Contains(flags, f) {
				return "no flag " + f
			}
		}
	}
	return ""
}

// invocation finds a call of one of the programs in a line; ok is false where there is none.
func invocation(line string) (name string, words []string, ok bool) {
	line, _, _ = strings.Cut(line, "  #") // a comment
	fields := strings.Fields(line)
	for i, f := range fields {
		switch f {
		case "trickle", "./bin/trickle", "bin/trickle", "./cmd/trickle":
			name = "trickle"
		case "trickle-consumer", "./bin/trickle-consumer", "bin/trickle-consumer", "./cmd/trickle-consumer":
			name = "trickle-consumer"
		default:
			if strings.Contains(f, "=") || f == "go" || f == "run" || f == "$" {
				continue // an environment, or go run before it
			}
			return "", nil, false
		}
		return name, fields[i+1:], true
	}
	return "", nil, false
}

func TestEveryCommandInTheDocumentsExists(t *testing.T) {
	t.Parallel()
	programs := programs()
	n := 0
	for _, d := range documents(t) {
		for _, b := range d.blocks {
			if b.language != "" && b.language != "sh" {
				continue
			}
			for line := range strings.Lines(b.text) {
				name, words, ok := invocation(line)
				if !ok || len(words) == 0 {
					continue
				}
				n++
				if fault := programs[name].fault(words); fault != "" {
					t.Errorf("%s: %s: %s", d.path, strings.TrimSpace(line), fault)
				}
			}
		}
		for _, s := range d.spans {
			name, words, ok := invocation(s.text)
			if !ok || len(words) == 0 {
				continue
			}
			n++
			fault := programs[name].fault(words)
			switch {
			case s.absent && fault == "":
				t.Errorf("%s: `%s` exists, though it stands under %q", d.path, s.text, notYet)
			case fault != "" && !s.absent:
				t.Errorf("%s: `%s`: %s", d.path, s.text, fault)
			}
		}
	}
	if n < 20 {
		t.Errorf("found %d commands: is this still how the documents are written?", n)
	}
}

// The test above rests on what help texts look like; this one fails when that changes and nothing would be found any more.
func TestAFaultInACommandIsSeen(t *testing.T) {
	t.Parallel()
	programs := programs()
	for _, c := range []struct {
		line  string
		fault string // part of it; empty: none
	}{
		{"trickle run --replica DSN", ""},
		{"trickle run --without-kafka", ""},
		{"TRICKLE_BROKERS=k:9092 trickle status --format json", ""},
		{"go run ./cmd/trickle demo --duration 2m", ""},
		{"trickle policy validate orders.yaml", ""},
		{"trickle-consumer run|status|resync|brake|pin|policy", ""},
		{"trickle baseline build", ""},
		{"trickle baseline mend", "no command mend"},
		{"trickle policy lint orders.yaml", "no command lint"},
		{"trickle run --speed 5", "no flag --speed"},
		{"trickle-consumer resync [--all]", "no flag --all"},
		{"trickle-consumer tap", "no command tap"},
	} {
		name, words, ok := invocation(c.line)
		if !ok {
			t.Errorf("%s: not seen as a command", c.line)
			continue
		}
		if got := programs[name].fault(words); c.fault == "" && got != "" || !strings.Contains(got, c.fault) {
			t.Errorf("%s: %q, want %q", c.line, got, c.fault)
		}
	}
}

func TestEveryTargetOfMakeExists(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	call := regexp.MustCompile(`(?m)^ *make ([a-z-]+)`)
	check := func(path, text string) {
		for _, m := range call.FindAllStringSubmatch(text, -1) {
			n++
			if !strings.Contains(string(makefile), "\n"+m[1]+":") {
				t.Errorf("%s: make %s: the Makefile has no such target", path, m[1])
			}
		}
	}
	for _, d := range documents(t) {
		for _, b := range d.blocks {
			check(d.path, b.text)
		}
		for _, s := range d.spans {
			check(d.path, s.text)
		}
	}
	if n < 5 {
		t.Errorf("found %d calls of make", n)
	}
}

func TestEveryEnvironmentVariableIsRead(t *testing.T) {
	t.Parallel()
	var code strings.Builder
	files, err := filepath.Glob(filepath.Join(root, "internal", "command", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		code.Write(text)
	}
	n := 0
	variable := regexp.MustCompile(`\bTRICKLE_[A-Z_]+`)
	for _, d := range documents(t) {
		before, _, _ := strings.Cut(d.text, "\n## "+notYet)
		for _, name := range variable.FindAllString(before, -1) {
			n++
			if !strings.Contains(code.String(), `os.Getenv("`+name+`")`) {
				t.Errorf("%s: nothing reads %s", d.path, name)
			}
		}
	}
	if n < 5 {
		t.Errorf("found %d variables", n)
	}
}

func TestEveryLinkLeadsSomewhere(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`(?:\]\(|src(?:set)?=")([^)"\s]+)[)"]`)
	n := 0
	for _, d := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(d.text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			n++
			file, anchor, _ := strings.Cut(m[1], "#")
			target := d.file()
			if file != "" {
				target = filepath.Join(filepath.Dir(d.file()), file)
			}
			text, err := os.ReadFile(target)
			if info, dirErr := os.Stat(target); dirErr == nil && info.IsDir() {
				continue
			}
			if err != nil {
				t.Errorf("%s: %s: %v", d.path, m[1], err)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(string(text)), anchor) {
				t.Errorf("%s: %s: no such heading there", d.path, m[1])
			}
		}
	}
	if n < 15 {
		t.Errorf("found %d links", n)
	}
}

// anchors are what the headings of a document are linked by: lower case, hyphens for spaces, most other signs left out.
func anchors(text string) []string {
	drop := regexp.MustCompile(`[^a-z0-9 _-]`)
	var out []string
	for line := range strings.Lines(text) {
		if h := heading.FindStringSubmatch(strings.TrimSpace(line)); h != nil {
			out = append(out, strings.ReplaceAll(drop.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-"))
		}
	}
	return out
}
