package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

// document is a Markdown file as far as the tests look at it.
type document struct {
	path   string // as a reader of the repository names it
	text   string
	blocks []block
	spans  []span
}

// file is where the document lies.
func (d document) file() string { return filepath.Join(root, d.path) }

// block is a fenced or indented piece of code.
type block struct {
	language string // "" for an indented one
	text     string
	line     int      // of its first line
	marks    []string // the comments before it
}

// marked finds a mark and what stands behind its colon.
func (b block) marked(name string) (string, bool) {
	for _, m := range b.marks {
		if m == name {
			return "", true
		}
		if value, ok := strings.CutPrefix(m, name+":"); ok {
			return strings.TrimSpace(value), true
		}
	}
	return "", false
}

// span is a piece of code within a line.
type span struct {
	text   string
	absent bool // it names what is not in this version
}

var (
	codeSpan = regexp.MustCompile("`([^`]+)`")
	heading  = regexp.MustCompile(`^#+ +(.*)$`)
	comment  = regexp.MustCompile(`^<!-- *(.*?) *-->$`)
)

// documents are all Markdown files of the repository.
func documents(t *testing.T) []document {
	t.Helper()
	var docs []document
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && path != root && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules" || entry.Name() == "bin") {
			return filepath.SkipDir
		}
		if entry.IsDir() || filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		docs = append(docs, parse(name, string(text)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(docs) < 8 {
		t.Fatalf("found only %d documents", len(docs))
	}
	return docs
}

// reader takes a document apart line by line.
type reader struct {
	document
	current *block
	fenced  bool
	absent  bool
	marks   []string
}

func parse(path, text string) document {
	r := reader{document: document{path: path, text: text}}
	n := 0
	for line := range strings.Lines(text) {
		n++
		r.line(n, line)
	}
	return r.document
}

func (r *reader) begin(language string, line int) {
	r.blocks = append(r.blocks, block{language: language, line: line, marks: r.marks})
	r.current, r.marks = &r.blocks[len(r.blocks)-1], nil
}

func (r *reader) line(n int, line string) {
	bare := strings.TrimSpace(line)
	switch {
	case strings.HasPrefix(bare, "```") && (r.fenced || !strings.Contains(bare[3:], "`")):
		if r.fenced = !r.fenced; r.fenced {
			r.begin(strings.TrimSpace(strings.TrimLeft(bare, "`")), n+1)
		} else {
			r.current = nil
		}
	case r.fenced:
		r.current.text += line
	case strings.HasPrefix(line, "    "):
		if r.current == nil {
			r.begin("", n)
		}
		r.current.text += line[4:]
	case bare == "" && r.current != nil:
		r.current.text += "\n" // an indented block goes on behind an empty line
	default:
		r.current = nil
		r.prose(bare)
	}
}

func (r *reader) prose(line string) {
	if m := comment.FindStringSubmatch(line); m != nil {
		r.marks = append(r.marks, m[1])
		return
	}
	if line != "" {
		r.marks = nil
	}
	if h := heading.FindStringSubmatch(line); h != nil {
		r.absent = h[1] == notYet
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
	for _, m := range codeSpan.FindAllStringSubmatch(line, -1) {
		r.spans = append(r.spans, span{m[1], r.absent && strings.Contains(first, m[0])})
	}
}

func TestBlocksAreSeen(t *testing.T) {
	t.Parallel()
	d := parse("x.md", "# One\n\nText.\n\n    make one\n\n    make two\n\nMore.\n\n<!-- found -->\n<!-- run: export A=1 -->\n\n```sh\ntrickle diff\n```\n\n- item\n\n  ```text\n  shown\n  ```\n")
	if len(d.blocks) != 3 {
		t.Fatalf("%d blocks: %+v", len(d.blocks), d.blocks)
	}
	one, two, three := d.blocks[0], d.blocks[1], d.blocks[2]
	if one.language != "" || strings.TrimSpace(one.text) != "make one\n\nmake two" || one.line != 5 {
		t.Errorf("the indented block is %+v", one)
	}
	if run, ok := two.marked("run"); two.language != "sh" || !ok || run != "export A=1" || two.line != 15 {
		t.Errorf("the fenced block is %+v", two)
	}
	if _, ok := two.marked("found"); !ok {
		t.Error("a mark is not seen")
	}
	if three.language != "text" || len(three.marks) != 0 {
		t.Errorf("the block in the list is %+v", three)
	}
}
