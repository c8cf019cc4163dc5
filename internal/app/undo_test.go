package app

import (
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/ledger"
)

// What would not fit into memory is refused before anything is undone, by number and by size.
func TestUndoRefusesTooMuch(t *testing.T) {
	t.Parallel()
	row := strings.Repeat("x", mostUndoneBytes/4) // one text, held once
	for name, c := range map[string]struct {
		line ledger.Recorded
		fit  int
	}{
		"many":  {ledger.Recorded{}, mostUndone},
		"large": {ledger.Recorded{Before: &row}, 4},
		"both":  {ledger.Recorded{Before: &row, After: &row}, 2},
	} {
		var h held
		for range c.fit {
			if err := h.take(c.line); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if err := h.take(c.line); err == nil || !strings.Contains(err.Error(), "later --since") {
			t.Errorf("%s: one too many: %v", name, err)
		}
	}
}
