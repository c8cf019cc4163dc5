package main

import (
	"testing"

	"github.com/trickle-verify/trickle/internal/command/commandtest"
)

// Every command says what it is for, with examples that it would take.
func TestEveryCommandHasExamples(t *testing.T) {
	t.Parallel()
	if n := commandtest.Examples(t, root, "trickle"); n < 10 {
		t.Errorf("%d commands", n)
	}
}
