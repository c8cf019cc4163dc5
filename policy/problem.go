package policy

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with a file, and where.
type Problem struct {
	File    string
	Line    int    // from 1; 0 when the file as a whole is meant
	Column  int    // from 1
	Path    string // the key, such as tables[0].mode; empty for the file as a whole
	Message string // what was found and what is allowed
}

// String is "file:line:column: path: message".
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Errors is everything that is wrong with one file, in the order of the file. Parse and Load return it.
type Errors []Problem

// Error holds one line for each problem.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Warning is something that is allowed and perhaps not meant.
type Warning Problem

// String is "file:line:column: path: message".
func (w Warning) String() string { return Problem(w).String() }
