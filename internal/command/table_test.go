package command_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/internal/command"
)

// A long table is written as its rows come, is one table, and stays aligned as long as nothing wider comes.
func TestTableOfManyRows(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	w := command.NewTable(&out, "id", "v")
	if err := w.Close(); err != nil || out.Len() > 0 {
		t.Fatalf("an empty one: %v\n%s", err, &out)
	}
	written := false
	for i := range 1203 {
		if err := w.Row(1000+i, "same"); err != nil {
			t.Fatal(err)
		}
		written = written || out.Len() > 0
	}
	if !written {
		t.Error("nothing is written before the end")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 1203+4 || strings.Count(out.String(), "ID") != 1 || lines[3] != "│ 1000 │ same │" || lines[len(lines)-1] != "└──────┴──────┘" {
		t.Errorf("%d lines: %q … %q", len(lines), lines[:4], lines[len(lines)-2:])
	}
	for i, line := range lines[3 : len(lines)-1] {
		if line != fmt.Sprintf("│ %d │ same │", 1000+i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
}
