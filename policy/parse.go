package policy

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"syscall"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxBytes bounds what is parsed: a policy of this size is some other file.
const maxBytes = 1 << 20

// Load reads and parses a file. Its error is an Errors, or that of reading the file.
func Load(path string) (*Policy, []Warning, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, unread(path, err)
	}
	return Parse(path, src)
}

// unread says what is the matter with a file that can't be read.
func unread(path string, err error) error {
	var at *fs.PathError
	switch {
	case errors.Is(err, syscall.EISDIR):
		return fmt.Errorf("reading the policy: %s is a folder: name the file in it", path)
	case errors.As(err, &at):
		err = fmt.Errorf("%s: %w", path, at.Err)
	}
	return fmt.Errorf("reading the policy: %w; check --policy or TRICKLE_POLICY", err)
}

// Parse reads the text of a policy; name stands for the file in errors and warnings. Keys that are absent have their defaults. The error
// is an Errors.
func Parse(name string, src []byte) (*Policy, []Warning, error) {
	d := &decoder{file: name, at: map[string]*token.Position{}}
	body, err := syntax(name, src)
	if err != nil {
		return nil, nil, err
	}
	p := &Policy{source: sha256.Sum256(src)}
	v := reflect.ValueOf(p).Elem()
	setDefaults(v)
	if body == nil {
		return nil, nil, Errors{{File: name, Line: 1, Column: 1, Message: "holds no policy: give pipeline and tables at the least; trickle policy schema lists what else there is"}}
	}
	d.value(body, "", v, "")
	c := check{decoder: d, policy: p}
	c.all()
	if err := d.sorted(); err != nil {
		return nil, nil, err
	}
	return p, c.warnings, nil
}

// syntax returns the one document of the file, nil when it is empty.
func syntax(name string, src []byte) (body ast.Node, err error) {
	whole := func(format string, args ...any) error {
		return Errors{{File: name, Message: fmt.Sprintf(format, args...)}}
	}
	if len(src) > maxBytes {
		return nil, whole("is %d bytes long: a policy has at most %d", len(src), maxBytes)
	}
	defer func() { // the parser is known to panic on some input that no person would write
		if r := recover(); r != nil {
			body, err = nil, whole("is no YAML that can be read: %v", r)
		}
	}()
	tree, err := parser.ParseBytes(src, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var at yaml.Error
		if errors.As(err, &at) && at.GetToken() != nil {
			pos := at.GetToken().Position
			return nil, Errors{{File: name, Line: pos.Line, Column: pos.Column, Message: "is no valid YAML: " + at.GetMessage()}}
		}
		return nil, whole("is no valid YAML: %v", err)
	}
	for _, doc := range tree.Docs {
		switch {
		case doc.Body == nil:
		case doc.Body.Type() == ast.CommentType || doc.Body.Type() == ast.CommentGroupType:
		case body != nil:
			pos := start(doc.Body)
			return nil, Errors{{File: name, Line: pos.Line, Column: pos.Column, Message: "a second document begins here: a policy is one document"}}
		default:
			body = doc.Body
		}
	}
	return body, nil
}
