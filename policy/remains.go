package policy

import (
	"errors"
	"os"
	"reflect"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml/token"
)

var pipelineLine = regexp.MustCompile(`(?m)^pipeline:[ \t]*["']?([A-Za-z0-9_-][A-Za-z0-9._-]*)["']?[ \t]*(#.*)?\r?$`)

// Remains is what can be relied upon of a file that Load refuses, for those who only look at what another policy, still in force, has led to: the pipeline's name, and of privacy
// what it says for certain, else the strictest. Its error is Load's, where even the name is in doubt. A file that Load takes is returned whole.
func Remains(path string) (*Policy, error) {
	whole, _, refused := Load(path)
	var problems Errors
	if refused == nil || !errors.As(refused, &problems) {
		return whole, refused
	}
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, refused
	}
	rest := &Policy{Privacy: Privacy{Keys: "omit", Values: "omit"}}
	body, err := syntax(path, src)
	if err != nil || body == nil {
		if m := pipelineLine.FindSubmatch(src); m != nil {
			rest.Pipeline = string(m[1])
		}
	} else {
		d := &decoder{file: path, at: map[string]*token.Position{}}
		full := &Policy{}
		setDefaults(reflect.ValueOf(full).Elem())
		d.value(body, "", reflect.ValueOf(full).Elem(), "")
		about := func(key string) bool {
			for _, p := range problems {
				if p.Path == key || strings.HasPrefix(p.Path, key+".") {
					return true
				}
			}
			return false
		}
		if !about("pipeline") {
			rest.Pipeline = full.Pipeline
		}
		if !about("privacy") {
			rest.Privacy = full.Privacy
		}
	}
	if rest.Pipeline == "" {
		return nil, refused
	}
	return rest, nil
}
